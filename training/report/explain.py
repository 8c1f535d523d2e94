"""A controller's policy as pictures, from the states that it really meets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from controller.checkpoint import Checkpoint
from controller.process.actions import ActionKind
from envs.pictures import action_colour
from envs.replay import Replay
from envs.reward import LogUniform
from envs.traces.table import TraceTable
from training.compare.simulate import Ints, Played, play_checkpoint
from training.report.plots import INK, MUTED, STYLE, WORTH, log_axis, save_figure

_SHOWN = (2, 6, 10)
"""Which of the prices have a map: low, middle, high."""
_SHARES = 5
"""Bins of the leader's vote share."""
_RARE = 1e-3
"""Share of all decisions below which a place is left white."""
_WIDE, _LARGEST, _SMALLEST = 230.0, 22.0, 0.08
"""Width of a map and side of the most frequent place, in points; the least share of its area."""


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


@matplotlib.rc_context(STYLE)
def explain(checkpoint: Checkpoint, table: TraceTable, path: Path) -> None:
    """Draw a controller's policy on some questions.

    The picture tells what it does by attempts and vote share at three prices, what it does by
    difficulty, where escalating and giving up begin to pay, and where nothing pays.
    """
    prices = LogUniform(low=checkpoint.price_range[0], high=checkpoint.price_range[1]).grid(13)
    kinds = checkpoint.config.kinds
    places = np.array([action.kind.place for action in checkpoint.config.actions])
    watched, played = [], []
    for price in prices:
        watch = _Watched(checkpoint.config.max_attempts, places)
        played.append(play_checkpoint(checkpoint, table, float(price), repeats=4, watch=watch))
        watched.append(watch)
    figure, axes = plt.subplots(2, 3, figsize=(13, 7.8), dpi=110)
    for axis, i in zip(axes[0], _SHOWN, strict=True):
        _action_map(axis, watched[i], kinds)
        axis.set_title(f"A right answer is worth {_worth(prices[i])} tokens")
    _by_level(axes[1, 0], watched[_SHOWN[1]], kinds)
    _by_price(axes[1, 1], prices, played)
    _where_it_pays(axes[1, 2], table, prices, played)
    handles = [Patch(color=_colour(kind)) for kind in kinds]
    figure.legend(
        handles, [k.value.upper() for k in kinds], loc="outside upper center", ncols=len(kinds)
    )
    save_figure(figure, path)


def _worth(price: float) -> str:
    return f"{float(f'{1 / price:.2g}'):,.0f}"


def _colour(kind: ActionKind) -> str:
    return action_colour(kind.value.upper())


def _action_map(axis: Axes, watched: _Watched, kinds: Sequence[ActionKind]) -> None:
    """The most frequent action at each place, the larger the more often it was met."""
    seen = watched.counts.sum(2)  # (attempts, shares)
    common = watched.counts.argmax(2)
    made, share = np.nonzero(seen >= _RARE * seen.sum())
    often = np.sqrt(seen[made, share] / seen.max())
    side = min(_LARGEST, _WIDE / (made.max() + 1))
    colours = {kind.place: _colour(kind) for kind in kinds}
    axis.scatter(
        made,
        (share + 0.5) / _SHARES,
        s=side**2 * np.maximum(often, _SMALLEST),
        c=[colours[place] for place in common[made, share]],
        marker="s",
    )
    axis.set(xlabel="attempts so far; size: how often", ylabel="vote share of the leader")
    axis.set(xlim=(-0.7, made.max() + 0.7), ylim=(0, 1))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _by_level(axis: Axes, watched: _Watched, kinds: Sequence[ActionKind]) -> None:
    levels = sorted(watched.by_level)
    shares = np.array([watched.by_level[v] / max(watched.by_level[v].sum(), 1) for v in levels])
    bottom = np.zeros(len(levels))
    for kind in kinds:
        share = shares[:, kind.place]
        axis.bar(range(len(levels)), share, bottom=bottom, color=_colour(kind))
        bottom += share
    _name_levels(axis, levels)
    axis.set(ylabel="share of actions", title="By difficulty, at the middle price")


def _by_price(axis: Axes, prices: NDArray[np.float64], played: Sequence[Played]) -> None:
    worth = 1 / prices
    for place, name in enumerate(("SAMPLE", "REVISE", "ESCALATE", "VERIFY")):
        values = [p.actions[:, place].mean() for p in played]
        if any(values):
            axis.plot(worth, values, color=action_colour(name), marker="o", ms=4, lw=2)
    nothing = [float((p.actions[:, 0] + p.actions[:, 2] == 0).mean()) for p in played]
    axis.plot(worth, nothing, color=INK, ls="--", label="questions given up at once")
    axis.set(xlabel=WORTH, ylabel="mean per question", title="By price")
    log_axis(axis)
    axis.legend(loc="upper left")


def _where_it_pays(
    axis: Axes, table: TraceTable, prices: NDArray[np.float64], played: Sequence[Played]
) -> None:
    """Accuracy by level at two prices, and on the bars what a question costs there."""
    levels = np.unique(table.levels).tolist()
    for offset, i, shade in ((-0.2, _SHOWN[0], INK), (0.2, _SHOWN[1], MUTED)):
        accuracy = [float(played[i].right[table.levels == v].mean()) for v in levels]
        cost = [float(played[i].cost[table.levels == v].mean()) for v in levels]
        label = f"worth {_worth(prices[i])} tokens"
        bars = axis.bar(np.arange(len(levels)) + offset, accuracy, 0.38, color=shade, label=label)
        axis.bar_label(bars, [f"{c:.0f}" for c in cost], fontsize=9, color=MUTED)
    _name_levels(axis, levels)
    axis.set(ylabel="accuracy; on the bars: mean cost", title="Where compute pays")
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.legend()


def _name_levels(axis: Axes, levels: Sequence[int]) -> None:
    axis.set_xticks(range(len(levels)), [str(v) if v else "all" for v in levels])
    axis.set_xlabel("difficulty level")
    axis.grid(visible=False, axis="x")
