"""Trainings that can be done anywhere: each reads its traces and writes its own directory.

On a Ray cluster they run side by side, each a task that its directory lets go on anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controller.errors import AllotError, BackendError
from envs.granularity import read_traces
from training.learn.config import TrainConfig
from training.learn.settings import WandbMode
from training.learn.threads import limit_threads
from training.learn.train import ControllerTraining, Prepared
from training.record.cluster import Cluster, connected
from training.report.tracking import Tracker
from training.report.view import View

_POLL_S = 0.5

Progress = Callable[[float, str], None]
"""Told the share of all work that is done, and how far it is."""


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One training; its paths are absolute, since a worker does not run where the command does.

    Attributes:
        name: of its run; the directory's if empty.
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


def run_job(
    job: TrainJob,
    view: View,
    stop: Callable[[], bool] | None = None,
    prepared: Prepared | None = None,
) -> None:
    """Train, or go on with a training, in this process; `stop` is asked after each update.

    Raises:
        KeyboardInterrupt: it was stopped; the next call goes on from there.
    """
    limit_threads()
    os.environ.update(job.environment)
    training = ControllerTraining(read_traces(job.traces), job.config, job.out, prepared)
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


class Board:
    """Where trainings say how far they are, and hear whether to stop."""

    def __init__(self) -> None:
        self._steps: dict[int, int] = {}
        self._stopping = False

    def report(self, job: int, steps: int) -> bool:
        """Take a job's steps so far; whether it is to stop."""
        self._steps[job] = steps
        return self._stopping

    def steps(self) -> dict[int, int]:
        """Steps so far, by job."""
        return self._steps

    def stop(self) -> None:
        """Ask all jobs to save and stop."""
        self._stopping = True


def train_on_cluster(
    jobs: Sequence[TrainJob],
    cluster: Cluster,
    progress: Progress = lambda share, text: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train what is not finished; directories must be the same on all machines.

    Raises:
        KeyboardInterrupt: they were stopped; the next call goes on from there.
        ConfigError: no cluster, or no room on it.
    """
    todo = [job for job in jobs if not job.finished]
    if not todo:
        return
    with connected(cluster) as ray:
        if cluster.workers is None:
            cluster.num_workers(ray.cluster_resources())
        board = ray.remote(num_cpus=0)(Board).remote()
        task = ray.remote(num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=3)(_train)
        running = [task.remote(number, job, board) for number, job in enumerate(todo)]
        done = _follow(ray, running, board, todo, progress, stop)
    if not all(done):
        raise KeyboardInterrupt


def _train(number: int, job: TrainJob, board: Any) -> bool:
    """In a worker: one training, which tells the board after each update; whether it is done."""
    import ray

    stopping = False

    def view(steps: int, metrics: Mapping[str, float]) -> None:
        nonlocal stopping
        stopping = ray.get(board.report.remote(number, steps))

    try:
        run_job(job, view, lambda: stopping)
    except KeyboardInterrupt:  # which Ray would take for its own
        return False
    return True


def _follow(
    ray: Any,
    running: list[Any],
    board: Any,
    jobs: Sequence[TrainJob],
    progress: Progress,
    stop: Callable[[], bool],
) -> list[bool]:
    """Wait for all jobs; whether each is finished."""
    total, waiting, asked = sum(job.total_steps for job in jobs), running, False
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_POLL_S)
        try:
            ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, AllotError) else error from None
        except ray.exceptions.RayError as error:
            raise BackendError(
                f"training: expected workers to live, found one dead four times: {error}; run the "
                "same command again to go on"
            ) from None
        if stop() and not asked:
            board.stop.remote()
            asked = True
        steps = sum(ray.get(board.steps.remote()).values())
        progress(steps / total, f"{len(running) - len(waiting)} of {len(running)} trainings done")
    finished: list[bool] = ray.get(running)
    return finished
