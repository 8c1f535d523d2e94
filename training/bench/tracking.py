"""What W&B costs a training."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from envs.traces import TraceSet
from training.config import PPOConfig, TrainConfig
from training.settings import WandbMode
from training.threads import limit_threads
from training.tracking import Tracker
from training.train import ControllerTraining, Prepared, prepare


def run(traces: Path, *, steps: int = 1_000_000, repeats: int = 3) -> dict[str, Any]:
    """The same training without W&B and with W&B offline, in turn.

    Args:
        traces: trace set.
        steps: of each training.
        repeats: of each; medians are reported.

    Returns:
        `steps_per_s` and `offline_steps_per_s` from the first update to the saved checkpoint,
        `ratio` of the two, and `start_and_finish_s`, what W&B adds before and after.
    """
    limit_threads()
    trace_set, config = TraceSet.read(traces), TrainConfig(ppo=PPOConfig(total_steps=steps))
    prepared = prepare(trace_set, config)
    assert prepared.best_rule  # worked out beforehand, once for all
    inside: dict[WandbMode, list[float]] = {"disabled": [], "offline": []}
    around: list[float] = []
    for _ in range(repeats):
        for mode, seconds in inside.items():
            spent, whole = _train(trace_set, config, prepared, mode)
            seconds.append(spent)
            if mode == "offline":
                around.append(whole - spent)
    made = config.ppo.num_updates * config.ppo.steps_per_update
    without, offline = (made / statistics.median(seconds) for seconds in inside.values())
    return {
        "repeats": repeats,
        "steps_per_s": without,
        "offline_steps_per_s": offline,
        "ratio": offline / without,
        "start_and_finish_s": statistics.median(around),
    }


def _train(
    traces: TraceSet, config: TrainConfig, prepared: Prepared, mode: WandbMode
) -> tuple[float, float]:
    """Seconds of the training alone, and with the start and finish of W&B."""
    with TemporaryDirectory() as directory:
        training = ControllerTraining(traces, config, Path(directory), prepared)
        started = time.perf_counter()
        with Tracker(training.out, "train", training.settings(), mode=mode) as tracker:
            before = time.perf_counter()
            training.run(tracker)
            spent = time.perf_counter() - before
        return spent, time.perf_counter() - started
