"""Pictures: of a comparison, and of a controller's policy in the states that it really meets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from controller.checkpoint import Checkpoint
from controller.process.actions import ActionKind
from envs.replay import Replay
from envs.reward import LogUniform
from envs.traces.table import TraceTable
from training.compare.results import CONTROLLER, Point, Results
from training.compare.simulate import Ints, Played, play_checkpoint
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
_COLOURS = ("#999999", "#4477aa", "#228833", "#ee6677", "#ccbb44", "#66ccee", "#aa3377")
"""Of kinds of actions in the order of their table, with some to spare."""
_SHARES = 5
"""Bins of the leader's vote share."""

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
    axes.set(
        xscale="log",
        xlabel="mean compute per question (small-model tokens)",
        ylabel="accuracy",
        title=f"{results.num_questions} held-out questions, {len(results.prices)} prices",
    )
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
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


@dataclass
class _Watched:
    """Counts of decisions by attempts, share of the leader and kind; by level and kind.

    `kinds` are places of the actions' kinds, (A,).
    """

    max_attempts: int
    kinds: NDArray[np.int64]
    counts: NDArray[np.int64] = field(init=False)
    by_level: dict[int, NDArray[np.int64]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.max_attempts + 1, _SHARES, len(ActionKind)), np.int64)

    def __call__(self, replay: Replay, rows: Ints, actions: Ints) -> None:
        episodes = replay.episodes
        leader = np.maximum(episodes.leader[rows], 0)
        share = episodes.votes[rows, leader] / np.maximum(episodes.total[rows], 1)
        place = np.minimum((share * _SHARES).astype(np.int64), _SHARES - 1)
        made, kinds = episodes.num_attempts[rows], self.kinds[actions]
        np.add.at(self.counts, (made, place, kinds), 1)
        levels = replay.table.levels[replay.start[rows]]
        for level in np.unique(levels):
            total = self.by_level.setdefault(int(level), np.zeros(len(ActionKind), np.int64))
            np.add.at(total, kinds[levels == level], 1)


def explain(checkpoint: Checkpoint, table: TraceTable, path: Path) -> None:
    """Draw a controller's policy on some questions.

    The picture tells what it does by attempts and vote share at three prices, what it does by
    difficulty, where escalating and giving up begin to pay, and where nothing pays.
    """
    prices = LogUniform(low=checkpoint.price_range[0], high=checkpoint.price_range[1]).grid(13)
    kinds = list(dict.fromkeys(action.kind for action in checkpoint.config.actions))
    places = np.array([action.kind.place for action in checkpoint.config.actions])
    watched, played = [], []
    for price in prices:
        watch = _Watched(checkpoint.config.max_attempts, places)
        played.append(play_checkpoint(checkpoint, table, float(price), repeats=4, watch=watch))
        watched.append(watch)
    figure, axes = plt.subplots(2, 3, figsize=(13, 7.5), dpi=110, layout="constrained")
    for axis, i in zip(axes[0], (2, 6, 10), strict=True):
        _action_map(axis, watched[i])
        axis.set_title(f"price {prices[i]:.1e}", fontsize=10)
    _by_level(axes[1, 0], watched[6], kinds)
    _by_price(axes[1, 1], prices, played)
    _floor(axes[1, 2], table, played[2], played[6])
    handles = [Patch(color=_colour(kind)) for kind in kinds]
    figure.legend(
        handles, [k.value.upper() for k in kinds], loc="outside upper center", ncols=len(kinds)
    )
    save_figure(figure, path)


def _colour(kind: ActionKind) -> str:
    return _COLOURS[kind.place % len(_COLOURS)]


def _action_map(axis: Axes, watched: _Watched) -> None:
    seen = watched.counts.sum(2)  # (attempts, shares)
    common = np.where(seen > 0, watched.counts.argmax(2), np.nan).T.astype(float)
    axis.imshow(
        common,
        origin="lower",
        aspect="auto",
        cmap=ListedColormap(_COLOURS),
        vmin=-0.5,
        vmax=len(_COLOURS) - 0.5,
        extent=(-0.5, watched.max_attempts + 0.5, 0, 1),
    )
    axis.set(xlabel="attempts so far", ylabel="vote share of the leader", xlim=(-0.5, 16.5))


def _by_level(axis: Axes, watched: _Watched, kinds: Sequence[ActionKind]) -> None:
    levels = sorted(watched.by_level)
    shares = np.array([watched.by_level[v] / max(watched.by_level[v].sum(), 1) for v in levels])
    bottom = np.zeros(len(levels))
    for kind in kinds:
        share = shares[:, kind.place]
        axis.bar(range(len(levels)), share, bottom=bottom, color=_colour(kind))
        bottom += share
    axis.set_xticks(range(len(levels)), [str(v) if v else "all" for v in levels])
    axis.set(xlabel="difficulty level", ylabel="share of actions, middle price")


def _by_price(axis: Axes, prices: NDArray[np.float64], played: Sequence[Played]) -> None:
    steps = np.array([p.actions.mean(0) for p in played]).T  # (4, P)
    names = ("small attempts", "revisions", "large attempts", "verified")
    for name, means, colour in zip(names, steps, _COLOURS[1:5], strict=True):
        axis.plot(prices, means, color=colour, marker="o", ms=3, label=name)
    nothing = [float((p.actions[:, 0] + p.actions[:, 2] == 0).mean()) for p in played]
    axis.plot(prices, nothing, color="black", ls="--", label="questions given up at once")
    axis.set(xscale="log", xlabel="price", ylabel="mean per question")
    axis.legend(fontsize=7)


def _floor(axis: Axes, table: TraceTable, cheap: Played, middle: Played) -> None:
    levels = np.unique(table.levels)
    width = 0.4
    for offset, (name, played) in enumerate((("low price", cheap), ("middle price", middle))):
        accuracy = [float(played.right[table.levels == v].mean()) for v in levels]
        cost = [float(played.cost[table.levels == v].mean()) for v in levels]
        bars = axis.bar(np.arange(len(levels)) + offset * width, accuracy, width, label=name)
        axis.bar_label(bars, [f"{c:.0f}" for c in cost], fontsize=7)
    axis.set_xticks(np.arange(len(levels)) + width / 2, [str(v) if v else "all" for v in levels])
    axis.set(xlabel="difficulty level; on the bars: mean cost", ylabel="accuracy")
    axis.legend(fontsize=7)
