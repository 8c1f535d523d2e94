"""Train a controller on recorded attempts and compare it with two fixed rules.

    python examples/train.py --out runs/example --steps 1000000

No language model runs: episodes are replayed from the trace set, many at a time.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from controller.policy.rules import AlwaysLarge, RulePolicy, SelfConsistency
from envs.traces.format import TraceSet
from envs.traces.table import build_table
from training.compare.simulate import play, play_checkpoint
from training.learn.threads import limit_threads
from training.learn.train import ControllerTraining, TrainConfig
from training.ppo import PPOConfig
from training.report.tracking import Tracker

TRACES = Path(__file__).parent.parent / "checkpoints" / "traces"

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", type=Path, required=True, help="directory of the checkpoint")
parser.add_argument("--traces", type=Path, default=TRACES, help="trace set")
parser.add_argument("--steps", type=int, default=1_000_000, help="decisions to learn from")
arguments = parser.parse_args()

limit_threads()
traces = TraceSet.read(arguments.traces)
config = TrainConfig(ppo=PPOConfig(total_steps=arguments.steps, num_envs=512))
with Tracker(arguments.out, "train", {}, mode="disabled") as tracker:
    checkpoint = ControllerTraining(traces, config, arguments.out).run(tracker)

test = build_table(traces, ["test"], [model.name for model in checkpoint.models])
blind = replace(checkpoint.config, reads_prompt=False)  # rules do not pay for what they ignore
rules = {"one small attempt": SelfConsistency(1), "always large": AlwaysLarge()}
print(f"{'utility at price':<16}", *(f"{name:>18}" for name in ("controller", *rules)))
for price in np.geomspace(*checkpoint.price_range, 5):
    played = [play_checkpoint(checkpoint, test, price, repeats=2)]
    for rule in rules.values():
        played.append(play(RulePolicy(rule), test, blind, price=price, repeats=2))
    print(f"{price:<16.1e}", *(f"{p.utility(price).mean():>18.3f}" for p in played))
