"""All benchmarks in one run, round by round: whatever else the machine does hits all alike."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from training.bench import (
    environment,
    forward,
    generation,
    optimum,
    ppo,
    recording,
    scale,
    serving,
    tracking,
)
from training.bench.load import Load

Figures = Mapping[str, Any]


def benches(
    traces: Path, models: tuple[Path, ...], controller: Path
) -> dict[str, Callable[[], Figures]]:
    """Each benchmark by name, of a size that takes a minute at most.

    Args:
        traces: trace set.
        models: directories, the small one first.
        controller: checkpoint.
    """
    short = optimum.OptimumBench(
        num_questions=50_000, ppo=replace(optimum.TRAINING, total_steps=1_000_000)
    )
    return {
        "env": partial(environment.run, traces, repeats=3),
        "scale": partial(scale.run, traces, attempts=1_000_000, repeats=3),
        "ppo": partial(ppo.run, traces, steps=1_000_000, sb3_steps=10_000),
        "tracking": partial(tracking.run, traces, steps=400_000, repeats=1),
        "optimum": partial(optimum.run, 1, short, workers=0),
        "generate": partial(generation.run, models[0], 48, num_repeats=1),
        "forward": partial(forward.run, models[0], num_questions=48, repeats=1),
        "record": partial(recording.run, tuple(map(str, models)), 128),
        "serve": partial(serving.run, controller, load=Load(seconds=5.0), rounds=1),
    }


def run(
    chosen: Mapping[str, Callable[[], Figures]],
    rounds: int,
    report: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Run benchmarks in turns.

    Args:
        chosen: by name.
        rounds: of all of them.
        report: called with the name of each before it runs.

    Returns:
        `machine`, and `figures`: per benchmark and number the median, least and most over rounds.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in chosen}
    for number in range(rounds):
        for name, bench in chosen.items():
            report(f"round {number + 1}: {name}")
            for figure, value in bench().items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    found[name].setdefault(figure, []).append(float(value))
    rows = [
        {
            "benchmark": name,
            "figure": figure,
            "median": statistics.median(values),
            "least": min(values),
            "most": max(values),
        }
        for name, figures in found.items()
        for figure, values in figures.items()
    ]
    return {"machine": machine(), "rounds": rounds, "figures": rows}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
