"""Pictures of a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.compare.results import CONTROLLER, Point, Results
from training.compare.yardsticks import GREEDY, KINDS, kind_of

_PRICE = "price (accuracy per small-model token)"
_ACTION_COLOURS = ("#777777", "#4477aa", "#66ccee", "#ccbb44", "#ee6677", "#228833")

_STYLES = {
    "static": ("always one model, or a vote", "s", "#777777"),
    "stop": ("stop rules", "^", "#4477aa"),
    "cascade": ("cascades", "X", "#ee6677"),
    "prompt": ("prompt-only routers", "D", "#ccbb44"),
    "verify": ("verified or revised attempts", "P", "#228833"),
    "other": ("other rules", "v", "#66ccee"),
}
"""By kind of rule: title, marker and colour."""
_OTHERS = ("#aa3377", "#332288", "#117733")
"""Colours of other controllers."""


def plot_frontier(results: Results, path: Path) -> None:
    """Accuracy against mean cost: the controller's frontier and the best of each kind of rule."""
    figure, axes = plt.subplots(figsize=(8, 5), dpi=140, layout="constrained")
    rules = {n: p for n, p in results.policies.items() if n not in (CONTROLLER, *results.others)}
    for kind in (*KINDS, "other"):
        members = [name for name in rules if kind_of(name) == kind and name not in GREEDY]
        if members:
            title, marker, colour = _STYLES[kind]
            cost, accuracy = _envelope(point for name in members for point in rules[name])
            label = f"{title} (best of {len(members)})"
            axes.plot(cost, accuracy, marker=marker, color=colour, lw=0.8, ms=5, label=label)
    for name, marker in zip(GREEDY, "ph", strict=True):
        if name in rules:
            point = rules[name][0]
            axes.plot(point.cost, point.accuracy, marker, color="#999933", ms=9, label=name)
    for name, colour in zip(results.others, cycle(_OTHERS), strict=False):
        _plot_controller(axes, results.policies[name], colour, name)
    label = "controller, one checkpoint, 95% interval"
    _plot_controller(axes, results.controller, "black", label)
    axes.set_xscale("log")
    axes.set_xlabel("mean compute per question (small-model tokens)")
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
    axes.set_title(f"{results.num_questions} held-out questions, {len(results.prices)} prices")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
    save_figure(figure, path)


def _envelope(points: Iterable[Point]) -> tuple[list[float], list[float]]:
    """Costs and accuracies of the points that no cheaper one is as accurate as."""
    cost: list[float] = []
    accuracy: list[float] = []
    for point in sorted((p for p in points if p.cost > 0), key=lambda p: (p.cost, -p.accuracy)):
        if not accuracy or point.accuracy > accuracy[-1]:
            cost.append(point.cost)
            accuracy.append(point.accuracy)
    return cost, accuracy


def _plot_controller(axes: Axes, policy: Sequence[Point], colour: str, label: str) -> None:
    points = [point for point in policy if point.cost > 0]
    cost, accuracy = [p.cost for p in points], [p.accuracy for p in points]
    low, high = ([p.accuracy_interval[end] for p in points] for end in (0, 1))
    axes.fill_between(cost, low, high, color=colour, alpha=0.12, lw=0)
    axes.plot(cost, accuracy, "o-", color=colour, lw=2, ms=4, label=label)


def plot_utility(results: Results, path: Path) -> None:
    """Utility of every tuned rule less the controller's, with paired 95% intervals."""
    figure, axes = plt.subplots(figsize=(9, 5), dpi=140, layout="constrained")
    axes.axhline(0, color="black", lw=2, label=CONTROLLER)
    for (name, leads), marker in zip(results.lead.items(), cycle("osD^vPX*ph."), strict=False):
        lead, low, high = np.array([entry.measured for entry in leads]).T  # (P,) each
        axes.errorbar(
            results.prices,
            -lead,
            (high - lead, lead - low),
            marker=marker,
            color=_STYLES[kind_of(name)][-1],
            lw=0.8,
            elinewidth=0.5,
            ms=5,
            label=name,
        )
    highest = -min(entry.interval[0] for leads in results.lead.values() for entry in leads)
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
    """Shares of actions in all decisions of the controller, by price."""
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
