"""All benchmarks round by round, so that whatever else the machine does hits all alike."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import environments, forward, generation, recording, serving, soak, training
from benchmarks.load import Load
from benchmarks.optimum import BOXES_TRAINING, TRAINING, share_of_boxes, share_of_optimum
from training.learn.threads import limit_threads

Benchmark = Callable[[int], Mapping[str, Any]]
"""Takes the number of the round, which is also its seed."""


def by_name(
    traces: Path, models: Path, controller: Path, litellm: Path | None, *, whole: bool
) -> dict[str, Benchmark]:
    """Each benchmark, of a size that takes a minute at most, or whole, as large as by itself.

    `models` is a directory of small and large; without `litellm`, a virtual environment with
    litellm[proxy], `serve` leaves that out.
    """
    small = models / "small"

    def size(short: int, long: int) -> int:
        return long if whole else short

    optimum = replace(TRAINING, total_steps=size(1_000_000, 5_000_000))
    boxes = replace(BOXES_TRAINING, total_steps=size(1_000_000, 2_000_000))
    load = Load(seconds=size(5, 10))
    return {
        "env": lambda _: environments.environment(traces),
        "scale": lambda _: environments.scale(traces, size(1_000_000, 10_000_000)),
        "ppo": lambda seed: training.ppo(
            traces, seed, steps=size(1_000_000, 3_000_000), sb3_steps=size(10_000, 60_000)
        ),
        "tracking": lambda _: training.tracking(traces, size(400_000, 1_000_000)),
        "optimum": lambda seed: share_of_optimum(
            seed, optimum, num_questions=size(50_000, 200_000)
        ),
        "boxes": lambda seed: share_of_boxes(seed, boxes),
        "generate": lambda seed: generation.run(small, size(48, 192), num_repeats=1, seed=seed),
        "forward": lambda seed: forward.forward(small, seed, num_questions=size(48, 96)),
        "record": lambda _: recording.recording(
            (str(small), str(models / "large")), size(128, 256)
        ),
        "serve": lambda number: serving.serving(controller, number, load=load, litellm=litellm),
        "soak": lambda _: soak.soak(controller, soak.Soak(questions=size(2_500, 10_000))),
        "endure": lambda _: soak.soak(
            controller,
            soak.Soak(questions=size(2_500, 70_000), clients=64, max_in_flight=48, faults=50),
        ),
        "workers": lambda _: soak.by_workers(controller, size(1_000, 3_000)),
        "growth": lambda _: {
            **environments.by_questions(),
            **environments.by_environments(traces),
            **forward.by_samples(small),
            **serving.by_clients(controller),
        },
    }


def run(
    chosen: Mapping[str, Benchmark], rounds: int, report: Callable[[str], None]
) -> dict[str, Any]:
    """Run benchmarks in turns; `report` is called with the name of each before it runs.

    Returns:
        `machine`, and `figures`: per benchmark and number the median, least and most over rounds.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for name, bench in chosen.items():
            report(f"round {number + 1}: {name}")
            for figure, value in bench(number).items():
                if isinstance(value, int | float):
                    found.setdefault((name, figure), []).append(float(value))
    rows = [
        {
            "benchmark": name,
            "figure": figure,
            "median": statistics.median(values),
            "least": min(values),
            "most": max(values),
        }
        for (name, figure), values in found.items()
    ]
    return {"machine": machine(), "rounds": rounds, "figures": rows}


def machine() -> dict[str, Any]:
    """Processor and versions that the figures depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help="Benchmarks; default: all.", metavar="NAME")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Medians over so many.")] = 3,
    whole: Annotated[
        bool, typer.Option("--whole", help="As large as by itself, not a minute at most.")
    ] = False,
    litellm: Annotated[
        Path | None, typer.Option(help="Virtual environment with litellm[proxy], for serve.")
    ] = None,
    traces: Annotated[Path, typer.Option(help="Trace set.")] = Path("checkpoints/traces"),
    models: Annotated[Path, typer.Option(help="Directory of small and large.")] = Path(
        "checkpoints"
    ),
    controller: Annotated[Path, typer.Option(help="Checkpoint.")] = Path("checkpoints/controller"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure environments, training, generation, recording and serving."""
    limit_threads()
    benchmarks = by_name(traces, models, controller, litellm, whole=whole)
    for name in names or ():
        if name not in benchmarks:
            raise typer.BadParameter(f"expected names among {list(benchmarks)}, found {name!r}")
    chosen = {name: benchmarks[name] for name in names or benchmarks}
    found = run(chosen, rounds, Console(stderr=True).print)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    table = Table(*found["figures"][0], box=None)
    for row in found["figures"]:
        table.add_row(*(f"{v:,.4g}" if isinstance(v, float) else v for v in row.values()))
    Console().print(found["machine"], table)


if __name__ == "__main__":
    typer.run(main)
