"""Pictures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.compare.evaluate import CONTROLLER

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
    "greedy small attempt": ("p", "#aa3377"),
    "greedy large attempt": ("h", "#aa3377"),
    "fixed length": ("^", "#4477aa"),
    "confident stop": ("v", "#66ccee"),
    "redo unlikely segments": ("P", "#228833"),
    "SpecReason, a segment": ("X", "#ccbb44"),
    "SpecReason, to the end": ("*", "#999933"),
    "prompt-only router": ("D", "#777777"),
}
_OTHERS = ("#ee6677", "#4477aa", "#228833")
"""Colours of other controllers."""


def plot_frontier(summary: dict[str, Any], path: Path) -> None:
    """Accuracy against mean cost: the controller's frontier and every tuned rule.

    Args:
        summary: from `training.compare.summary.summarise`.
        path: PNG to write.
    """
    figure, axes = plt.subplots(figsize=(8, 5), dpi=140, layout="constrained")
    for name, (marker, colour) in _STYLES.items():
        if name not in summary["policies"]:
            continue
        points = sorted(
            {(row["cost"], row["accuracy"]) for row in summary["policies"][name] if row["cost"] > 0}
        )
        cost, accuracy = [c for c, _ in points], [a for _, a in points]
        axes.plot(cost, accuracy, marker=marker, color=colour, lw=0.8, ms=6, label=name)
    for name, colour in zip(summary["others"], cycle(_OTHERS), strict=False):
        _plot_controller(axes, summary["policies"][name], colour, name)
    ours = summary["policies"][CONTROLLER]
    _plot_controller(axes, ours, "black", "controller, one checkpoint, 95% interval")
    axes.set_xscale("log")
    axes.set_xlabel("mean compute per question (small-model tokens)")
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
    axes.set_title(f"{summary['num_questions']} held-out questions, {len(ours)} prices")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
    save_figure(figure, path)


def _plot_controller(
    axes: Axes, policy: Sequence[Mapping[str, Any]], colour: str, label: str
) -> None:
    rows = [row for row in policy if row["cost"] > 0]
    cost, accuracy = [r["cost"] for r in rows], [r["accuracy"] for r in rows]
    low, high = ([r["accuracy_interval"][end] for r in rows] for end in (0, 1))
    axes.fill_between(cost, low, high, color=colour, alpha=0.12, lw=0)
    axes.plot(cost, accuracy, "o-", color=colour, lw=2, ms=4, label=label)


def plot_utility(summary: dict[str, Any], path: Path) -> None:
    """Utility of every tuned rule less the controller's, with paired 95% intervals.

    Args:
        summary: from `training.compare.summary.summarise`.
        path: PNG to write.
    """
    figure, axes = plt.subplots(figsize=(9, 5), dpi=140, layout="constrained")
    axes.axhline(0, color="black", lw=2, label=CONTROLLER)
    palette = plt.get_cmap("tab20")
    colours = (palette(i) for i in range(palette.N))
    for name, rows in summary["lead"].items():
        marker, colour = _STYLES[name] if name in _STYLES else (".", next(colours))
        lead = np.array([row["lead"] for row in rows])
        low, high = np.array([row["interval"] for row in rows]).T  # (P,) each
        axes.errorbar(
            summary["prices"],
            -lead,
            (high - lead, lead - low),
            marker=marker,
            color=colour,
            lw=0.8,
            elinewidth=0.5,
            ms=5,
            label=name,
        )
    highest = -min(row["interval"][0] for rows in summary["lead"].values() for row in rows)
    axes.set(
        xscale="log",
        xlabel=_PRICE,
        ylabel="utility less the controller's",
        ylim=(-0.25, max(0.05, highest)),
        title="every tuned rule against the controller, paired 95% intervals",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    save_figure(figure, path)


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
