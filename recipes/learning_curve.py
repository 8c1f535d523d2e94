"""What more questions to learn from bring: `python -m recipes.learning_curve TRACES --out DIR`.

Controllers, rules and a plan selector learn from more and more questions of a set, the fewer among
the more, a fifth of them held back for validation, and play the set's test split at the same
prices. Run again to go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from envs.traces.format import TraceSet
from recipes.crossvalidate import (
    CHOSEN,
    CONTROLLER,
    HINDSIGHT,
    MEAN,
    SELECTOR,
    Fold,
    Ladder,
    Steps,
    Unit,
    config_of,
    cross_validate,
    dealt_by,
    figure,
    hashes_of,
    summarise,
    written,
)
from recipes.lines import draw_lines
from training.cli.app import main as run_program
from training.learn.config import TrainConfig
from training.learn.threads import limit_threads
from training.report.show import print_rows

Curve = Mapping[int, Mapping[str, Any]]
"""By number of questions the mean row of `recipes.crossvalidate.summarise`."""


def learning_from(traces: TraceSet, size: int) -> TraceSet:
    """The set with so many questions outside of its test split, of more always the same first."""
    tested = np.array(traces.questions["split"].to_pylist()) == "test"
    used = np.zeros(len(tested), bool)
    used[np.lexsort((hashes_of(traces), tested))[: min(size, (~tested).sum())]] = True
    return dealt_by(traces, tested, used)


def learn(
    traces: TraceSet,
    sizes: Sequence[int],
    config: TrainConfig,
    out: Path,
    seeds: int,
    num_prices: int,
) -> dict[int, dict[str, Any]]:
    """The curve of a set; prices are those that suit the most questions."""
    curve: dict[int, dict[str, Any]] = {}
    for size in sorted(sizes, reverse=True):
        part, place = learning_from(traces, size), out / str(size)
        fold = Fold(traces=part, config=config, out=place, seeds=seeds)
        prices, played = cross_validate([fold], num_prices)
        trained = fold.prepared.prices
        config = replace(config, prices=(trained.low, trained.high))
        written(prices, played, place)
        curve[size] = next(row for row in summarise(prices, played) if row["price"] == MEAN)
    return dict(sorted(curve.items()))


def draw(curve: Curve, out: Path) -> None:
    """Mean utility against questions."""
    rows = [*curve.values()]
    known = [name for name in (CONTROLLER, SELECTOR, CHOSEN, HINDSIGHT) if name in rows[0]]
    labels = {"xlabel": "questions to learn from", "ylabel": "utility, mean over prices"}
    draw_lines(out, [*curve], {name: [row[name] for row in rows] for name in known}, **labels)


def main(
    traces: Annotated[Path, typer.Argument(help="Trace set.")],
    out: Annotated[Path, typer.Option(help="Trainings, what was played, and a picture.")],
    sizes: Annotated[
        str, typer.Option(help="Questions, separated by commas.")
    ] = "100,300,1000,3000",
    seeds: Annotated[int, typer.Option(min=1)] = 1,
    ladder: Ladder = "",
    unit: Unit = "flops",
    steps: Steps = 0,
    num_prices: Annotated[int, typer.Option(min=1)] = 12,
) -> None:
    """Learn from more and more questions, and play the same ones."""
    limit_threads()
    config, counts = config_of(ladder, unit, steps), [int(size) for size in sizes.split(",")]
    curve = learn(TraceSet.read(traces), counts, config, out, seeds, num_prices)
    draw(curve, out / "learning.png")
    rows = [
        {"questions": str(size)}
        | {name: figure(value, 4) for name, value in row.items() if name != "price"}
        for size, row in curve.items()
    ]
    print_rows(f"{traces}, mean over {num_prices} prices", rows)


if __name__ == "__main__":
    run_program(lambda: typer.run(main))
