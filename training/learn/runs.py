"""Trainings as a user starts them: one seed or several, each in a directory of its own."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from controller.checkpoint import AnyCheckpoint, load_any
from envs.granularity import read_traces
from envs.traces.format import write_atomically
from training.compare.results import Seeds
from training.compare.simulate import play_checkpoint
from training.compare.summary import summarise_seeds
from training.learn.config import TrainConfig
from training.learn.jobs import TrainJob, tracker_of, train_on_cluster, wandb_environment
from training.learn.settings import Settings, store
from training.learn.threads import limit_threads
from training.learn.train import ControllerTraining, Prepared, prepare, suited
from training.record.cluster import Cluster
from training.report.show import print_seeds
from training.report.view import progress_bar, training_view

Floats = NDArray[np.float64]

SCORED_PRICES = 12


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training made, by directory in the order of the seeds.

    Attributes:
        checkpoints: controllers.
        utility: mean utility of each on validation questions, at the prices of a check.
        best_rule: that of the best rule in hindsight.
        seeds: what several seeds amount to; None of a single one.
    """

    checkpoints: Mapping[Path, AnyCheckpoint]
    utility: Mapping[Path, float]
    best_rule: float
    seeds: Seeds | None = None


def run_directories(settings: Settings) -> dict[Path, TrainConfig]:
    """What each run directory is to hold."""
    run, config = settings.run, settings.train
    if run.seeds == 1:
        return {run.out: config}
    seeds = range(config.ppo.seed, config.ppo.seed + run.seeds)
    return {
        run.out / f"seed-{seed}": replace(config, ppo=replace(config.ppo, seed=seed))
        for seed in seeds
    }


def seed_directories(paths: Sequence[Path]) -> list[Path]:
    """Checkpoints, with those of its seeds in place of a directory of `--seeds`."""

    def seeds(path: Path) -> list[Path]:
        found = [p.parent for p in path.glob("seed-*/controller.json")]
        return sorted(found, key=lambda p: int(p.name.removeprefix("seed-")))

    return [p for path in paths for p in seeds(path) or [path]]


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a request, which the yielded function tells of.

    The second one raises KeyboardInterrupt at once. Outside the main thread, which alone
    receives signals, nothing is ever asked.
    """
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_all(settings: Settings, console: Console) -> Trained:
    """Train every seed that is not finished, then say what they amount to.

    Raises:
        KeyboardInterrupt: a signal stopped it; the next call goes on from there.
    """
    limit_threads()
    traces = read_traces(settings.run.traces)
    config = suited(settings.train, traces)
    runs = run_directories(replace(settings, train=config))
    for out, config in runs.items():
        store(config, settings.run.traces, out)
    prepared = prepare(traces, config)
    models = " -> ".join(model.name for model in prepared.models)
    console.print(
        f"models {models}; validation utility of the best rule in hindsight: "
        f"{prepared.best_rule:.4f}",
        highlight=False,
        soft_wrap=True,
    )
    with asked_to_stop() as stop:
        if settings.run.ray:
            _train_on_cluster(settings, runs, stop)
        checkpoints, utility = {}, {}
        for out, config in runs.items():
            training = ControllerTraining(traces, config, out, prepared)
            checkpoints[out] = _trained(training, settings, stop, console)
            utility[out] = training.utility
            console.print(f"{out}: validation utility {utility[out]:.4f}", highlight=False)
            if floor := checkpoints[out].floor:
                console.print(f"{out}: {floor}", highlight=False, soft_wrap=True)
    seeds = None
    if len(runs) > 1:
        prices = prepared.prices.grid(SCORED_PRICES)
        seeds = _score(list(checkpoints.values()), prepared, prices)
        text = json.dumps({"prices": prices.tolist(), **asdict(seeds)}, indent=1)
        write_atomically(settings.run.out / "seeds.json", lambda path: path.write_text(text))
        print_seeds(console, seeds)
    return Trained(
        checkpoints=checkpoints, utility=utility, best_rule=prepared.best_rule, seeds=seeds
    )


def _train_on_cluster(
    settings: Settings, runs: Mapping[Path, TrainConfig], stop: Callable[[], bool]
) -> None:
    jobs = [
        TrainJob(
            out=out.resolve(),
            traces=settings.run.traces.resolve(),
            config=config,
            name=str(out),
            wandb=settings.run.wandb,
            environment=wandb_environment(),
        )
        for out, config in runs.items()
    ]
    cluster = Cluster(address=settings.run.ray, cpus=settings.run.worker_cpus)
    with progress_bar("training", 1.0) as update:
        train_on_cluster(jobs, cluster, update, stop)


def _trained(
    training: ControllerTraining, settings: Settings, stop: Callable[[], bool], console: Console
) -> AnyCheckpoint:
    if training.finished:
        return load_any(training.out)
    total = training.config.ppo.num_updates * training.config.ppo.steps_per_update
    with (
        tracker_of(training, settings.run.traces, str(training.out), settings.run.wandb) as tracker,
        training_view(Console(stderr=True), training.out.name, training.ppo.steps, total) as view,
    ):
        checkpoint = training.run(tracker, view, stop, console.print)
    if tracker.offline_directory:
        console.print(
            f"W&B, with an account: wandb sync {tracker.offline_directory}",
            highlight=False,
            soft_wrap=True,
        )
    return checkpoint


def _score(checkpoints: list[AnyCheckpoint], prepared: Prepared, prices: Floats) -> Seeds:
    """How the seeds do on questions that no training has looked at.

    Those are the half of the validation split that is held back; the test split is left to
    `allot evaluate`.
    """
    return summarise_seeds(
        np.array(
            [
                [
                    play_checkpoint(checkpoint, prepared.calibration, price).utility(price).mean()
                    for price in prices
                ]
                for checkpoint in checkpoints
            ]
        )  # (S, P)
    )
