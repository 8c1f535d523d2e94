"""Pictures of a comparison: opaque and in large letters, for dark pages and small screens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

from envs.pictures import action_colour
from training.compare.results import CONTROLLER, Lead, Point, Results
from training.compare.yardsticks import GREEDY, kind_of

_FAMILIES = {
    "selector": ("plan selector", "#0a8a94"),
    "prompt": ("prompt-only routers", "#2b8a57"),
    "cascade": ("cascades", "#d0493f"),
    "static": ("one model, or a vote", "#7d7f85"),
    "verify": ("verified or revised", "#a9771c"),
    "stop": ("stop rules", "#2f6fb5"),
    "other": ("other rules", "#8558b4"),
}
"""By kind of rule: title and colour, those of the report's page; the strongest rule apart."""

_OTHERS = ("#b03a8c", "#c2187a", "#d4720b")
"""Colours of other controllers."""

INK, MUTED, _LINE = "#1b1c1e", "#5d6066", "#dedfdb"
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _LINE,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.dpi": 200,
    "figure.facecolor": "#fbfbf9",
    "axes.facecolor": "#fbfbf9",
    "font.size": 10.5,
    "grid.color": _LINE,
    "legend.fontsize": 10,
    "legend.title_fontsize": 10,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}
"""Settings of matplotlib for all pictures."""
WORTH = "what a right answer is worth (small-model tokens)"


@matplotlib.rc_context(STYLE)
def plot_frontier(results: Results, path: Path) -> None:
    """Accuracy against compute, and below the paired lead over the best rule at each price."""
    size, ratios = (5.2, 6.4), (3, 1.1)
    figure, (above, below) = plt.subplots(2, 1, figsize=size, height_ratios=ratios)
    for family, names in _families(results).items():
        title, colour = _FAMILIES[family]
        label = f"{title} ({len(names)})" if len(names) > 1 else title
        _plot_mixtures(above, [p for name in names for p in results.policies[name]], colour, label)
    for name, marker in zip(GREEDY, "ph", strict=True):
        if name in results.policies:
            point = results.policies[name][0]
            above.plot(point.cost, point.accuracy, marker, color=MUTED, ms=8, label=name)
    for name, colour in zip(results.others, cycle(_OTHERS), strict=False):
        _plot_controller(above, results.policies[name], colour, name)
    _plot_controller(above, results.controller, INK, CONTROLLER)
    above.set(xlabel="mean compute per question (small-model tokens)", ylabel="accuracy")
    least = min(p.accuracy for points in results.policies.values() for p in points if p.cost > 0)
    above.set_ylim(bottom=least - 0.02)
    above.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    above.set_title(f"{results.num_questions:,} held-out questions")
    log_axis(above)
    closest = [results.closest_rule(i)[1] for i in range(len(results.prices))]
    _plot_lead(below, closest, -1, INK, "o-", lw=1.5, ms=4)
    below.set(xlabel=WORTH, ylabel="utility, points")
    below.set_title("Ahead of the best rule, paired 95%")
    title = "the best of (so many) rules, mixtures included"
    figure.legend(loc="outside lower center", ncols=2, title=title)
    save_figure(figure, path)


def _families(results: Results) -> dict[str, list[str]]:
    """Names of the rules that were played by kind, those at temperature 0 aside."""
    found: dict[str, list[str]] = {family: [] for family in _FAMILIES}
    for name in results.policies:
        if name not in (CONTROLLER, *results.others, *GREEDY):
            found["selector" if name == _FAMILIES["selector"][0] else kind_of(name)].append(name)
    return {family: names for family, names in found.items() if names}


def _plot_mixtures(axes: Axes, points: Iterable[Point], colour: str, label: str) -> None:
    """All that a coin between operating points reaches, and the points that matter for it."""
    cost, accuracy = _envelope(points)
    if len(cost) > 1:
        between = np.geomspace(cost[1], cost[-1], 200)
        axes.plot(between, np.interp(between, cost, accuracy), color=colour, lw=1.5, label=label)
        axes.plot(cost[1:], accuracy[1:], "o", color=colour, ms=3)


def _envelope(points: Iterable[Point]) -> tuple[list[float], list[float]]:
    """Costs and accuracies at the corners of what mixtures of points reach, from (0, 0) on."""
    corners = [(0.0, 0.0)]
    for cost, accuracy in sorted((p.cost, p.accuracy) for p in points if p.cost > 0):
        if accuracy <= corners[-1][1]:
            continue
        while len(corners) > 1 and _bends_up(corners[-2], corners[-1], (cost, accuracy)):
            corners.pop()
        corners.append((cost, accuracy))
    return [cost for cost, _ in corners], [accuracy for _, accuracy in corners]


def _bends_up(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])


def _plot_controller(axes: Axes, policy: Sequence[Point], colour: str, label: str) -> None:
    points = [point for point in policy if point.cost > 0]
    axes.plot(
        [p.cost for p in points],
        [p.accuracy for p in points],
        "o-",
        color=colour,
        lw=2.5,
        ms=4.5,
        label=label,
    )


def _plot_lead(
    axes: Axes, leads: Sequence[Lead], sign: int, colour: str, style: str, **more: Any
) -> None:
    """Leads in points, or with a sign of 1 how far another is behind, against 1 / price."""
    lead, low, high = 100 * np.array([entry.measured for entry in leads]).T  # (P,) each
    middle, below, above = (-lead, high - lead, lead - low)
    if sign < 0:
        middle, below, above = lead, lead - low, high - lead
    worth = [1 / entry.price for entry in leads]
    axes.axhline(0, color=INK, lw=1)
    axes.errorbar(worth, middle, (below, above), fmt=style, color=colour, elinewidth=1.2, **more)
    log_axis(axes)


def log_axis(axes: Axes) -> None:
    """A logarithmic x axis with plain numbers."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    subs = (1, 3) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 6, 8)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.xaxis.set_minor_locator(NullLocator())


def _short(value: float, place: object = None) -> str:
    """A number without zeros.

    >>> _short(300), _short(10_000), _short(3e6)
    ('300', '10k', '3M')
    """
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


@matplotlib.rc_context(STYLE)
def plot_utility(results: Results, path: Path) -> None:
    """How far the best rule of each kind is behind the controller, with paired intervals."""
    figure, axes = plt.subplots(figsize=(5.2, 5.2))
    highest = 5.0
    for place, (family, names) in enumerate(_families(results).items()):
        title, colour = _FAMILIES[family]
        known = [results.lead[name] for name in names if name in results.lead]
        closest = [min(row, key=lambda entry: entry.lead) for row in zip(*known, strict=True)]
        _plot_lead(axes, closest, 1, colour, "osD^vPX"[place] + "-", lw=1.5, ms=4, label=title)
        highest = max(highest, *(-100 * entry.interval[0] for entry in closest))
    axes.set(xlabel=WORTH, ylabel="utility less the controller's, points")
    axes.set_ylim(-25, highest)
    axes.set_title("The best rule of each kind, paired 95%")
    figure.legend(loc="outside lower center", ncols=2)
    save_figure(figure, path)


@matplotlib.rc_context(STYLE)
def plot_actions(shares: Mapping[float, Mapping[str, float]], path: Path) -> None:
    """Shares of actions in all decisions of the controller, by price."""
    figure, axes = plt.subplots(figsize=(5.2, 4.6))
    prices = sorted(shares, reverse=True)
    names = [name for name in shares[prices[0]] if any(shares[price][name] for price in prices)]
    axes.stackplot(
        [1 / price for price in prices],
        [[shares[price][name] for price in prices] for name in names],
        labels=names,
        colors=[action_colour(name) for name in names],
    )
    axes.set(xlabel=WORTH, ylabel="share of decisions", ylim=(0, 1))
    axes.set_title("What the controller does, by price")
    log_axis(axes)
    axes.margins(x=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.legend(loc="outside lower center", ncols=3)
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically, and close it."""
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary)
    plt.close(figure)
    temporary.replace(path)
