"""A controller's policy as pictures, from the states that it really meets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from numpy.typing import NDArray

from controller.checkpoint import Checkpoint
from controller.process.actions import ActionKind
from envs.replay import Replay
from envs.reward import LogUniform
from envs.traces.table import TraceTable
from training.compare.simulate import Ints, Played, play_checkpoint
from training.report.plots import save_figure

_COLOURS = ("#999999", "#4477aa", "#228833", "#ee6677", "#ccbb44", "#66ccee", "#aa3377")
"""Of kinds of actions in the order of their table, with some to spare."""
_SHARES = 5
"""Bins of the leader's vote share."""


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
    axis.set_xlabel("attempts so far")
    axis.set_ylabel("vote share of the leader")
    axis.set_xlim(-0.5, 16.5)


def _by_level(axis: Axes, watched: _Watched, kinds: Sequence[ActionKind]) -> None:
    levels = sorted(watched.by_level)
    shares = np.array([watched.by_level[v] / max(watched.by_level[v].sum(), 1) for v in levels])
    bottom = np.zeros(len(levels))
    for kind in kinds:
        share = shares[:, kind.place]
        axis.bar(range(len(levels)), share, bottom=bottom, color=_colour(kind))
        bottom += share
    axis.set_xticks(range(len(levels)), [str(v) if v else "all" for v in levels])
    axis.set_xlabel("difficulty level")
    axis.set_ylabel("share of actions, middle price")


def _by_price(axis: Axes, prices: NDArray[np.float64], played: Sequence[Played]) -> None:
    columns = {
        "small attempts": [p.actions[:, 0].mean() for p in played],
        "revisions": [p.actions[:, 1].mean() for p in played],
        "large attempts": [p.actions[:, 2].mean() for p in played],
        "verified": [p.actions[:, 3].mean() for p in played],
    }
    colours = (_COLOURS[1], _COLOURS[2], _COLOURS[3], _COLOURS[4])
    for (name, values), colour in zip(columns.items(), colours, strict=True):
        axis.plot(prices, values, color=colour, marker="o", ms=3, label=name)
    nothing = [float((p.actions[:, 0] + p.actions[:, 2] == 0).mean()) for p in played]
    axis.plot(prices, nothing, color="black", ls="--", label="questions given up at once")
    axis.set_xscale("log")
    axis.set_xlabel("price")
    axis.set_ylabel("mean per question")
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
    axis.set_xlabel("difficulty level; on the bars: mean cost")
    axis.set_ylabel("accuracy")
    axis.legend(fontsize=7)
