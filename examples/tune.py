"""Search for settings of a training with Optuna, which ends trials that fall behind.

python examples/tune.py --out runs/study --trials 30 --steps 1000000
"""

import argparse
from pathlib import Path

import optuna

from controller.bundled import bundled
from envs.granularity import read_traces
from training.learn.config import PPOConfig, TrainConfig
from training.learn.threads import limit_threads
from training.learn.train import ControllerTraining, prepare
from training.report.tracking import Tracker

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", type=Path, required=True, help="directory of the trials")
parser.add_argument("--traces", type=Path, default=bundled("traces"), help="trace set")
parser.add_argument("--trials", type=int, default=30, help="trainings")
parser.add_argument("--steps", type=int, default=1_000_000, help="decisions to learn from, each")
arguments = parser.parse_args()
limit_threads()
traces = read_traces(arguments.traces)
# A patience that never runs out: questions that choose are then held back from learning.
prepared = prepare(traces, TrainConfig(patience=1000))


def objective(trial):
    ppo = PPOConfig(
        total_steps=arguments.steps,
        num_envs=64,
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        entropy_coefficient=trial.suggest_float("entropy_coefficient", 1e-4, 1e-1, log=True),
    )
    config = TrainConfig(patience=1000, ppo=ppo)
    out = arguments.out / f"trial-{trial.number}"

    def prune(steps, metrics):  # called after each update
        if "validation/utility" in metrics:
            trial.report(metrics["validation/utility"], steps)
            if trial.should_prune():
                raise optuna.TrialPruned

    with Tracker(out, "train", {}, mode="disabled") as tracker:
        training = ControllerTraining(traces, config, out, prepared)
        training.run(tracker, prune)
    return training.utility


study = optuna.create_study(
    direction="maximize",
    sampler=optuna.samplers.TPESampler(seed=0),
    pruner=optuna.pruners.MedianPruner(n_startup_trials=2),
)
study.optimize(objective, arguments.trials)
print(f"best of {len(study.trials)}: {study.best_value:.4f} with {study.best_params}")
