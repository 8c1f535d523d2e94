"""A feature and an action of your own, in training, in the checkpoint and in live decisions.

    python examples/own_feature.py --out runs/own --steps 400000

Commands know them too: ALLOT_IMPORT=own_feature PYTHONPATH=examples allot evaluate runs/own
"""

import argparse
from pathlib import Path

from controller.loop import Controller
from controller.process.actions import (
    ACTIONS,
    ActionKind,
    ActionSpec,
    Tier,
    attempting,
    register_action,
)
from controller.process.features import LOG10, Feature, FromWording, register_feature
from training.cli.train import train
from training.report.show import new_questions


def digits(text):  # of a wording; features of the state are `lambda s: s.e.tokens / s.unit`
    return 1 + sum(character.isdigit() for character in text)


def disagree(episodes, width, rung):  # legal where ESCALATE is, and attempts disagree
    return ACTIONS[ActionKind.ESCALATE].legal(episodes, width, rung) & (episodes.distinct > 1)


register_feature(Feature("digits", "wording", "digits", LOG10, FromWording(digits), "plus 1"))
register_action(
    "settle",
    ActionSpec(
        meaning="the large model answers what attempts disagree about",
        legal=disagree,
        cost=attempting,
        paid_for="an attempt by the large model",
        tier=Tier.LARGE,
        attempt=ActionKind.ESCALATE,  # what it brings is recorded, and asked for, as this
    ),
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="run directory")
    parser.add_argument("--steps", default="400000", help="decisions to learn from")
    arguments = parser.parse_args()
    own = {"own_features": "digits", "own_actions": "settle"}
    made = train(out=arguments.out, steps=arguments.steps, wandb="disabled", **own)
    print(f"utility {made.utility[Path(arguments.out)]:.3f}")
    controller = Controller.load(arguments.out)
    for question in new_questions(3, seed=0):
        decision = controller.answer(question, price=1e-4).decisions[0]
        count, chance = 10 ** decision.observation["digits"] - 1, decision.probabilities["SETTLE"]
        print(f"{question.text.strip()} ({count:.0f} digits; chance of SETTLE {chance})")
