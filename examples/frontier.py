"""Draw accuracy against compute: one checkpoint at many prices, and rules beside it.

python examples/frontier.py --out frontier.png
"""

import argparse
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from controller.checkpoint import load_checkpoint
from controller.policy.rules import AlwaysLarge, LogprobCascade, RulePolicy, SelfConsistency
from envs.traces.format import TraceSet
from envs.traces.table import build_table
from training.compare.simulate import play, play_checkpoint

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
RULES = {
    "self-consistency": [SelfConsistency(n) for n in (1, 2, 4, 8, 16)],
    "logprob cascade": [LogprobCascade(-t) for t in (0.02, 0.05, 0.1, 0.2, 0.5)],
    "always large": [AlwaysLarge()],
}

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", type=Path, default="frontier.png", help="PNG to write")
parser.add_argument("--controller", default=CHECKPOINTS / "controller", help="checkpoint")
parser.add_argument("--traces", default=CHECKPOINTS / "traces", help="trace set")
parser.add_argument("--prices", type=int, default=12, help="how many")
parser.add_argument("--repeats", type=int, default=4, help="episodes per question")
arguments = parser.parse_args()

checkpoint = load_checkpoint(arguments.controller)
ladder = [model.name for model in checkpoint.models]
test = build_table(TraceSet.read(arguments.traces), ["test"], ladder)
blind = replace(checkpoint.config, reads_prompt=False)  # rules do not pay for what they ignore
repeats = arguments.repeats

prices = np.geomspace(*checkpoint.price_range, arguments.prices)
curves = {"controller": [play_checkpoint(checkpoint, test, p, repeats=repeats) for p in prices]}
for name, rules in RULES.items():
    curves[name] = [
        play(RulePolicy(rule), test, blind, price=1.0, repeats=repeats) for rule in rules
    ]

for name, played in curves.items():
    cost, accuracy = [p.cost.mean() for p in played], [p.right.mean() for p in played]
    plt.semilogx(cost, accuracy, "o-", lw=3 if name == "controller" else 1, label=name)
    print(f"{name}:", *(f"{a:.1%} at {c:.0f}," for a, c in zip(accuracy, cost, strict=True)))
plt.xlabel("mean compute per question (small-model tokens)")
plt.ylabel("accuracy")
plt.legend()
plt.savefig(arguments.out, dpi=120, bbox_inches="tight")
