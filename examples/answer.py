"""Ask a trained controller, and see how the price of compute changes what it does.

python examples/answer.py --questions 2
"""

import argparse
from pathlib import Path

from controller.loop import Controller
from training.learn.threads import limit_threads
from training.report.show import new_questions

CHECKPOINT = Path(__file__).parent.parent / "checkpoints" / "controller"

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--questions", type=int, default=3, help="how many")
parser.add_argument("--controller", type=Path, default=CHECKPOINT, help="checkpoint")
arguments = parser.parse_args()

limit_threads()  # the bundled models are too small for more threads to pay
controller = Controller.load(arguments.controller)

for question in new_questions(arguments.questions, seed=0):
    print(question.text.strip())
    for price in (1e-5, 3e-4, 3e-3):  # accuracy that one token is worth
        outcome = controller.answer(question, price=price)
        actions = " -> ".join(str(decision.action) for decision in outcome.decisions)
        verdict = "right" if outcome.answer == question.reference else "wrong"
        print(f"  at {price:.0e} a token: {actions}")
        print(f"    {outcome.answer} ({verdict}) for {outcome.cost:.0f} tokens")
