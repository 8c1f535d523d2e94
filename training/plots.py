"""Pictures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.evaluate import CONTROLLER

Array = NDArray[np.float64]

_PRICE = "price (accuracy per small-model token)"
_ACTION_COLOURS = ("#777777", "#4477aa", "#66ccee", "#ccbb44", "#ee6677", "#228833")

_STYLES = {
    "always small": ("s", "#777777"),
    "always large": ("D", "#333333"),
    "self-consistency": ("o", "#4477aa"),
    "adaptive consistency": ("^", "#66ccee"),
    "early-stopping consistency": ("v", "#228833"),
    "vote cascade": ("P", "#ccbb44"),
    "adaptive cascade": ("X", "#ee6677"),
    "logprob cascade": ("*", "#aa3377"),
}


def plot_frontier(summary: dict[str, Any], path: Path) -> None:
    """Accuracy against mean cost: the controller's frontier and every tuned rule.

    Args:
        summary: from `training.summary.summarise`.
        path: PNG to write.
    """
    figure, axes = plt.subplots(figsize=(8, 5), dpi=140, layout="constrained")
    for name, (marker, colour) in _STYLES.items():
        if name not in summary["policies"]:
            continue
        points = sorted(
            {(row["cost"], row["accuracy"]) for row in summary["policies"][name] if row["cost"] > 0}
        )
        axes.plot(*zip(*points, strict=True), marker=marker, color=colour, lw=0.8, ms=6, label=name)
    rows = [row for row in summary["policies"][CONTROLLER] if row["cost"] > 0]
    cost, accuracy = [r["cost"] for r in rows], [r["accuracy"] for r in rows]
    axes.fill_between(
        cost,
        [r["accuracy_interval"][0] for r in rows],
        [r["accuracy_interval"][1] for r in rows],
        color="black",
        alpha=0.12,
        lw=0,
        label="95% interval",
    )
    axes.plot(cost, accuracy, "ko-", lw=2, ms=4, label="controller, one checkpoint")
    axes.set_xscale("log")
    axes.set_xlabel("mean compute per question (small-model tokens)")
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
    axes.set_title(f"{summary['num_questions']} held-out questions, {len(rows)} prices")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
    save_figure(figure, path)


def plot_utility(summary: dict[str, Any], path: Path) -> None:
    """Utility against price, with 95% intervals: the controller and every tuned rule.

    Args:
        summary: from `training.summary.summarise`.
        path: PNG to write.
    """
    figure, axes = plt.subplots(figsize=(8, 5), dpi=140, layout="constrained")
    prices = summary["prices"]
    for name in summary["lead"]:
        marker, colour = _STYLES.get(name, (None, "#bbbbbb"))
        value, ends = _with_ends(summary["policies"][name], "utility")
        label = name if name in _STYLES else None
        bars = np.abs(ends - value)
        axes.errorbar(prices, value, bars, marker=marker, color=colour, lw=0.8, ms=4, label=label)
    value, ends = _with_ends(summary["policies"][CONTROLLER], "utility")
    axes.fill_between(prices, *ends, color="black", alpha=0.12, lw=0)
    axes.plot(prices, value, "ko-", lw=2, ms=4, label=CONTROLLER)
    axes.set(xscale="log", xlabel=_PRICE, ylabel="utility", title="utility with 95% intervals")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)


def _with_ends(rows: list[dict[str, Any]], quantity: str) -> tuple[Array, Array]:
    """A quantity, (P,), and its intervals' ends, (2, P)."""
    return (
        np.array([row[quantity] for row in rows]),
        np.array([row[f"{quantity}_interval"] for row in rows]).T,
    )


def plot_actions(shares: Mapping[float, Mapping[str, float]], path: Path) -> None:
    """What the controller does at each price.

    Args:
        shares: by price and name of action, its share in all decisions.
        path: PNG to write.
    """
    figure, axes = plt.subplots(figsize=(8, 4), dpi=140, layout="constrained")
    prices = sorted(shares)
    names = list(shares[prices[0]])
    axes.stackplot(
        prices,
        [[shares[price][name] for price in prices] for name in names],
        labels=names,
        colors=_ACTION_COLOURS,
    )
    axes.set(xscale="log", xlabel=_PRICE, ylabel="share of decisions", ylim=(0, 1))
    axes.margins(x=0)
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically, and close it."""
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary)
    plt.close(figure)
    temporary.replace(path)
