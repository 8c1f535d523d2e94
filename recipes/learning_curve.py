"""What more questions to learn from bring: `python -m recipes.learning_curve TRACES --out DIR`.

Controllers, rules and a plan selector learn from more and more questions of a set, the fewer among
the more, a fifth of them held back for validation, and play the set's test split at the same
prices. Run again to go on.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import matplotlib
import numpy as np
import typer
from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from envs.traces.format import TraceSet
from recipes.crossvalidate import (
    CHOSEN,
    CONTROLLER,
    HINDSIGHT,
    MEAN,
    SELECTOR,
    Fold,
    cross_validate,
    summarise,
    written,
)
from training.cli.app import main as run_program
from training.learn.config import PPOConfig, TrainConfig
from training.learn.threads import limit_threads
from training.report.plots import STYLE, save_figure
from training.report.show import print_rows

Curve = Mapping[int, Mapping[str, Any]]
"""By number of questions the mean row of `recipes.crossvalidate.summarise`."""


def learning_from(traces: TraceSet, size: int) -> TraceSet:
    """The set with so many questions outside of its test split, of more always the same first."""
    names, splits = (traces.questions[name].to_pylist() for name in ("question_id", "split"))
    hashes = np.array([zlib.crc32(name.encode()) for name in names])
    tested = np.array(splits) == "test"
    used = np.zeros(len(names), bool)
    used[np.lexsort((hashes, tested))[: min(size, (~tested).sum())]] = True
    learnt = np.where(hashes // 1000 % 5 == 0, "validation", "train")
    split = np.where(tested, "test", np.where(used, learnt, "unused")).tolist()
    place = traces.questions.schema.get_field_index("split")
    return replace(traces, questions=traces.questions.set_column(place, "split", [split]))


def learn(
    traces: TraceSet, sizes: Sequence[int], config: TrainConfig, out: Path, **how: int
) -> dict[int, dict[str, Any]]:
    """The curve of a set; prices are those that suit the most questions."""
    curve: dict[int, dict[str, Any]] = {}
    for size in sorted(sizes, reverse=True):
        part, place = learning_from(traces, size), out / str(size)
        fold = Fold(traces=part, config=config, out=place, seeds=how["seeds"])
        prices, played = cross_validate([fold], how["num_prices"])
        trained = fold.prepared.prices
        config = replace(config, prices=(trained.low, trained.high))
        written(prices, played, place)
        curve[size] = next(row for row in summarise(prices, played) if row["price"] == MEAN)
    return dict(sorted(curve.items()))


def draw(curve: Curve, out: Path) -> None:
    """Mean utility against questions."""
    with matplotlib.rc_context(fname=STYLE):
        figure, axes = plt.subplots(figsize=(5.2, 4.2))
        styles = {
            HINDSIGHT: "#8a8d94",
            CHOSEN: "#c8453c",
            SELECTOR: "#0a8a94",
            CONTROLLER: "#1b1c1e",
        }
        for name, colour in styles.items():
            if name in next(iter(curve.values())):
                rows = [row[name] for row in curve.values()]
                axes.plot([*curve], rows, "o-", color=colour, label=name)
        axes.set(xlabel="questions to learn from", ylabel="utility, mean over prices", xscale="log")
        axes.xaxis.set_major_locator(FixedLocator([*curve]))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.legend()
        save_figure(figure, out)


def main(
    traces: Annotated[Path, typer.Argument(help="Trace set.")],
    out: Annotated[Path, typer.Option(help="Trainings, what was played, and a picture.")],
    sizes: Annotated[
        str, typer.Option(help="Questions, separated by commas.")
    ] = "100,300,1000,3000",
    seeds: Annotated[int, typer.Option(min=1)] = 1,
    ladder: Annotated[str, typer.Option(help="Models, comma-separated; default: the set's.")] = "",
    unit: Annotated[
        Literal["flops", "dollars", "seconds"], typer.Option(help="Of costs.")
    ] = "flops",
    steps: Annotated[int, typer.Option(help="Of each training; 0: as suit.")] = 0,
    num_prices: Annotated[int, typer.Option(min=1)] = 12,
) -> None:
    """Learn from more and more questions, and play the same ones."""
    limit_threads()
    config = TrainConfig(
        ladder=tuple(name for name in ladder.split(",") if name),
        unit=unit,
        ppo=PPOConfig(total_steps=steps),
    )
    counts = [int(size) for size in sizes.split(",")]
    curve = learn(TraceSet.read(traces), counts, config, out, seeds=seeds, num_prices=num_prices)
    draw(curve, out / "learning.png")
    rows = []
    for size, row in curve.items():
        told = {name: f"{v:.4f}" for name, v in row.items() if isinstance(v, float)}
        leads = {
            name: "{:+.4f} ({:+.4f} to {:+.4f})".format(*v)
            for name, v in row.items()
            if isinstance(v, tuple)
        }
        rows.append({"questions": str(size), **told, **leads})
    print_rows(f"{traces}, mean over {num_prices} prices", rows)


if __name__ == "__main__":
    run_program(lambda: typer.run(main))
