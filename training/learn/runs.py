"""Trainings as a user starts them: one seed or several, each in a directory of its own.

On a Ray cluster they run side by side, each a task that its directory lets go on anywhere.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType

from rich.console import Console

from controller.checkpoint import AnyCheckpoint, is_finished, load_any
from controller.files import write_json
from controller.registry import IMPORTED
from envs.granularity import AnyTraces, read_traces, recorded_of
from training.compare.evaluate import compare
from training.compare.results import Results, Seeds
from training.compare.summary import summarise
from training.learn.config import TrainConfig
from training.learn.settings import STORED, Settings, WandbMode, store
from training.learn.threads import limit_threads
from training.learn.train import ControllerTraining, Prepared, prepare, suited
from training.record.cluster import Cluster, map_on
from training.report.plots import plot_frontier
from training.report.show import print_frontier, print_seeds
from training.report.tracking import Tracker
from training.report.view import training_view

Say = Callable[[str], None]
"""Told, in a line, what happens."""

SCORED_PRICES = 12
_REPEATS = 2
_PICTURE = "validation.png"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training made, by directory in the order of the seeds.

    `utility` is the mean on validation questions, and `best_rule` that of the best rule in
    hindsight; `seeds` are None of a single one.
    """

    checkpoints: Mapping[Path, AnyCheckpoint] = field(repr=False)
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
        found = [p for p in path.glob("seed-*") if is_finished(p)]
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
    """Train every seed that is not finished, then say what they amount to, and against rules.

    Raises:
        KeyboardInterrupt: a signal stopped it; the next call goes on from there.
    """
    limit_threads()
    say = partial(console.print, highlight=False, soft_wrap=True)
    traces, cluster = read_traces(settings.run.traces), settings.cluster.cluster()
    config = suited(settings.train, traces)
    runs = run_directories(replace(settings, train=config))
    begun = [out for out in runs if (out / STORED).exists()]
    for out in begun:  # Other settings are refused before anything is fitted.
        store(runs[out], settings.run.traces, out)
    prepared = prepare(traces, config)
    if not begun:  # What does not fit the traces is refused before a directory is made.
        ControllerTraining(traces, config, settings.run.out, prepared)
    for out, config in runs.items():
        store(config, settings.run.traces, out)
    models = " -> ".join(model.name for model in prepared.models)
    best = f"validation utility of the best rule in hindsight: {prepared.best_rule:.4f}"
    say(f"models {models}; {best}")
    if cluster is not None:
        train_on_cluster([_job(out, config, settings) for out, config in runs.items()], cluster)
    with asked_to_stop() as stop:
        checkpoints, utility = {}, {}
        for out, config in runs.items():
            training = ControllerTraining(traces, config, out, prepared)
            checkpoints[out] = _trained(training, settings, stop, say)
            utility[out] = training.utility
            say(f"{out}: validation utility {utility[out]:.4f}")
            if floor := checkpoints[out].floor:
                say(f"{out}: {floor}")
    seeds = None
    results = _held_against_rules(list(checkpoints.values()), prepared, traces, say)
    if len(runs) > 1:
        seeds = results.seeds
        scores = {"prices": list(results.prices), **asdict(seeds)}
        write_json(settings.run.out / "seeds.json", scores)
        print_seeds(console, seeds)
    picture = settings.run.out / _PICTURE
    plot_frontier(results, picture)
    print_frontier(console, results)
    say(f"picture: {picture}")
    return Trained(
        checkpoints=checkpoints, utility=utility, best_rule=prepared.best_rule, seeds=seeds
    )


def _job(out: Path, config: TrainConfig, settings: Settings) -> TrainJob:
    return TrainJob(
        out=out.resolve(),
        traces=settings.run.traces.resolve(),
        config=replace(config, start=config.start and str(Path(config.start).resolve())),
        name=str(out),
        wandb=settings.run.wandb,
        environment={n: v for n, v in os.environ.items() if n.startswith(("WANDB_", IMPORTED))},
    )


def _trained(
    training: ControllerTraining, settings: Settings, stop: Callable[[], bool], say: Say
) -> AnyCheckpoint:
    if training.finished:
        return load_any(training.out)
    total = training.config.ppo.num_updates * training.config.ppo.steps_per_update
    with (
        tracker_of(training, settings.run.traces, str(training.out), settings.run.wandb) as tracker,
        training_view(Console(stderr=True), training.out.name, training.ppo.steps, total) as view,
    ):
        checkpoint = training.run(tracker, view, stop, say)
    if tracker.offline_directory:
        say(f"W&B, with an account: wandb sync {tracker.offline_directory}")
    return checkpoint


def _held_against_rules(
    checkpoints: list[AnyCheckpoint], prepared: Prepared, traces: AnyTraces, say: Say
) -> Results:
    """What controllers and rules do on questions that no training has looked at.

    Those are the half of the validation split that is held back; the test split is left to
    `allot evaluate`.
    """
    tuning, test = prepared.tuning.train, prepared.calibration
    say(
        f"held against rules on {test.num_questions:,} validation questions that were not learnt "
        f"from; rules are tuned on {tuning.num_questions:,} others"
    )
    num_prices = SCORED_PRICES if prepared.prices.low < prepared.prices.high else 1
    read = prepared.tuning.read
    comparison = compare(
        checkpoints, tuning, test, num_prices=num_prices, repeats=_REPEATS, read=read
    )
    names = [model.name for model in prepared.models]
    held = recorded_of(traces, ["validation"], names).questions
    known = set(test.question_ids)
    return summarise(comparison, [q for q in held if q.question_id in known])


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One training; its paths are absolute, since a worker does not run where the command does.

    A worker takes over `environment`: settings of W&B, and what is imported to know what callers
    added. Its name is the run's, or the directory's.
    """

    out: Path
    traces: Path
    config: TrainConfig
    name: str = ""
    wandb: WandbMode = "disabled"
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


def run_job(job: TrainJob, prepared: Prepared | None = None) -> None:
    """Train, or go on with a training, in this process."""
    limit_threads()
    os.environ.update(job.environment)
    training = ControllerTraining(read_traces(job.traces), job.config, job.out, prepared)
    if not training.finished:
        with tracker_of(training, job.traces, job.name or str(job.out), job.wandb) as tracker:
            training.run(tracker)


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


def train_on_cluster(jobs: Sequence[TrainJob], cluster: Cluster) -> None:
    """Train side by side what is not finished; directories must be the same on all machines.

    A training whose worker dies goes on elsewhere, from its last saved state.

    Raises:
        ConfigError: no cluster, or no room on it.
    """
    map_on(cluster, run_job, [job for job in jobs if not is_finished(job.out)])
