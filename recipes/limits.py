"""Where compute stops helping: `python -m recipes.limits TRACES PLAYED --out PNG`.

PLAYED is what `recipes.crossvalidate` wrote: each question's controller has not learnt from it.
The picture shows, by the size of a puzzle, how often each arm and the controller are right, and
what the controller spends; of a set without levels, by how often the best arm is right at a task.
Printed: the share of the controller's compute that goes to places that no arm solves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import typer
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from envs.traces.format import TraceSet
from recipes.crossvalidate import CONTROLLER
from training.cli.app import main as run_program
from training.report.plots import STYLE, save_figure, worth_text

SOLVED = 0.05
"""Share of right attempts below which an arm does not solve a place."""
SHOWN = (1, 5, 9)
"""Which of the prices are drawn: low, middle, high."""
PANELS, LEAST_LEVELS = 6, 3
"""Most puzzles that are drawn, and fewest sizes of each."""
LEGEND = 9.5
"""Inches that the names of arms and prices take beside each other."""
BINS = (0.0, SOLVED, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Of the best arm's accuracy, where there are no sizes."""


def places(traces: TraceSet, question_ids: Sequence[str]) -> pd.DataFrame:
    """Mean accuracy of each arm, from small to large, by dataset and level."""
    attempts = traces.attempts.select(["question_id", "model", "action", "correct"]).to_pandas()
    questions = traces.questions.select(["question_id", "dataset", "level"]).to_pandas()
    questions = questions[questions["question_id"].isin(question_ids)].fillna({"level": 0})
    tried = attempts[attempts["action"] != "revise"].merge(questions, on="question_id")
    arms = [model.name for model in traces.models() if model.name in set(tried["model"])]
    table = tried.pivot_table("correct", ["dataset", "level"], "model", aggfunc="mean")
    return table[arms]


def spent(traces: TraceSet, played: pd.DataFrame) -> pd.DataFrame:
    """The controller's mean accuracy and cost, and its questions, by price, dataset and level."""
    questions = traces.questions.select(["question_id", "dataset", "level"]).to_pandas()
    mine = played[played["policy"] == CONTROLLER].merge(questions.fillna({"level": 0}))
    groups = mine.groupby(["price", "dataset", "level"])
    return groups.agg(right=("right", "mean"), cost=("cost", "mean"), n=("cost", "size"))


def wasted(arms: pd.DataFrame, by_place: pd.DataFrame) -> dict[float, float]:
    """By price the share of all compute that is spent where no arm solves enough."""
    hopeless = arms.index[arms.max(axis=1) <= SOLVED]
    shares = {}
    for price, rows in by_place.groupby(level="price"):
        total = rows["cost"] * rows["n"]
        here = total[rows.droplevel("price").index.isin(hopeless)]
        shares[float(price)] = float(here.sum() / max(total.sum(), 1e-9))
    return shares


def draw(arms: pd.DataFrame, by_place: pd.DataFrame, out: Path) -> None:
    """Accuracy above, compute below; a column for each puzzle that has sizes, or one for all."""
    prices = by_place.index.unique("price").sort_values()[list(SHOWN)]
    sizes = arms.groupby("dataset").size()
    puzzles = sizes[sizes >= LEAST_LEVELS].sort_values(ascending=False).index[:PANELS].tolist()
    with matplotlib.rc_context(fname=STYLE):
        columns = max(len(puzzles), 1)
        width = max(2.6 * columns + 2, LEGEND)
        figure, axes = plt.subplots(
            2, columns, figsize=(width, 5.6), sharex="col", sharey="row", squeeze=False
        )
        for column, puzzle in zip(axes.T, puzzles, strict=False):
            mine = by_place.xs(puzzle, level="dataset")
            _column(column, arms.loc[puzzle], [mine.loc[price] for price in prices], prices)
            column[0].set_title(puzzle.replace("_", " "))
            column[1].set_xlabel("size")
        if not puzzles:
            best = pd.cut(arms.max(axis=1), BINS, include_lowest=True, labels=BINS[1:])
            grouped = [_binned(by_place.loc[price], best) for price in prices]
            _column(axes[:, 0], arms.groupby(best, observed=True).mean(), grouped, prices)
            axes[1, 0].set_xlabel("share that the best arm solves, up to")
        axes[0, 0].set_ylabel("right")
        axes[0, 0].yaxis.set_major_formatter(PercentFormatter(1))
        axes[1, 0].set_ylabel("compute per question")
        axes[1, 0].set_yscale("symlog", linthresh=1)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        save_figure(figure, out)


def _binned(by_place: pd.DataFrame, best: pd.Series) -> pd.DataFrame:
    """Means over the questions of the places in each bin."""
    rows = by_place.join(best.rename("best"))
    weighted = rows[["right", "cost"]].mul(rows["n"], axis=0).assign(n=rows["n"])
    sums = weighted.groupby(rows["best"], observed=True).sum()
    return sums[["right", "cost"]].div(sums["n"], axis=0)


def _column(
    axes: Sequence[Axes] | NDArray[Any],
    arms: pd.DataFrame,
    mine: Sequence[pd.DataFrame],
    prices: Sequence[float],
) -> None:
    colours = plt.get_cmap("viridis")(np.linspace(0.15, 0.8, len(arms.columns)))
    for arm, colour in zip(arms.columns, colours, strict=True):
        axes[0].plot(arms.index, arms[arm], color=colour, label=arm, lw=1.2)
    for rows, price, style in zip(mine, prices, ("-", "--", ":"), strict=True):
        label = f"controller, right answer worth {worth_text(price)}"
        for axis, name in zip(axes, ("right", "cost"), strict=True):
            axis.plot(rows.index, rows[name], style, color="#1b1c1e", label=label, lw=2)


def main(
    traces: Annotated[Path, typer.Argument(help="Trace set.")],
    played: Annotated[Path, typer.Argument(help="What recipes.crossvalidate played on the set.")],
    out: Annotated[Path, typer.Option(help="PNG file.")],
) -> None:
    """Draw where compute stops helping and print what is spent beyond that point."""
    recorded, episodes = TraceSet.read(traces), pq.read_table(played).to_pandas()
    arms = places(recorded, episodes["question_id"].unique())
    by_place = spent(recorded, episodes)
    draw(arms, by_place, out)
    for price, share in wasted(arms, by_place).items():
        print(f"price {price:.1e}: {share:.1%} of compute where no arm is right in {SOLVED:.0%}")


if __name__ == "__main__":
    run_program(lambda: typer.run(main))
