"""Trainings that can be done anywhere: each reads its traces and writes its own directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from envs.granularity import read_traces
from training.learn.config import TrainConfig
from training.learn.settings import WandbMode
from training.learn.threads import limit_threads
from training.learn.train import ControllerTraining
from training.report.tracking import Tracker
from training.report.view import View


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One training.

    Attributes:
        out: run directory, absolute: a worker does not run where the command does.
        traces: trace set, absolute.
        config: what to train.
        name: of its run; the directory's if empty.
        wandb: mode of W&B.
        environment: variables that a worker takes over.
    """

    out: Path
    traces: Path
    config: TrainConfig
    name: str = ""
    wandb: WandbMode = "disabled"
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def total_steps(self) -> int:
        """Environment steps in all."""
        return self.config.ppo.num_updates * self.config.ppo.steps_per_update

    @property
    def finished(self) -> bool:
        """Whether its checkpoint is there."""
        return (self.out / "controller.json").exists()


def wandb_environment() -> dict[str, str]:
    """This process' settings of W&B."""
    return {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}


def run_job(job: TrainJob, view: View, stop: Callable[[], bool] | None = None) -> None:
    """Train, or go on with a training, in this process.

    Args:
        job: what.
        view: called after each update.
        stop: asked after each update whether to save and stop.

    Raises:
        KeyboardInterrupt: it was stopped; the next call goes on from there.
    """
    limit_threads()
    os.environ.update(job.environment)
    training = ControllerTraining(read_traces(job.traces), job.config, job.out)
    if not training.finished:
        with tracker_of(training, job.traces, job.name or str(job.out), job.wandb) as tracker:
            training.run(tracker, view, stop)


def tracker_of(training: ControllerTraining, traces: Path, name: str, mode: WandbMode) -> Tracker:
    """The W&B run of a training."""
    return Tracker(
        training.out,
        "train",
        {"traces": str(traces), **training.settings()},
        mode=mode,
        group=traces.name,
        name=name,
        resume=True,
    )
