"""Pictures of a comparison and of a policy: opaque, in large letters, for any page and screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from controller.checkpoint import Checkpoint
from controller.files import write_atomically
from controller.process.actions import ActionKind
from controller.process.cost import TOKENS, Currency
from controller.process.lockstep import Floats, Ints
from envs.pictures import action_colour, action_colours
from envs.replay import Replay
from envs.reward import LogUniform
from envs.traces.table import TraceTable
from training.compare.equal_accuracy import cost_at_accuracy
from training.compare.results import CONTROLLER, Lead, Point, Results
from training.compare.simulate import Played, Watcher, play_checkpoint
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

_INK, _MUTED = "#1b1c1e", "#5d6066"
STYLE = Path(__file__).with_name("pictures.mplstyle")
"""Settings of matplotlib for all pictures."""
_MANY = 1000
"""Questions whose cost is told in dollars or seconds: one costs little."""

_SHOWN = (2, 6, 10)
"""Which of the prices have a map: low, middle, high."""
_SHARES = 5
"""Bins of the leader's vote share."""
_RARE = 1e-3
"""Share of all decisions below which a place is left white."""
_WIDE, _LARGEST, _SMALLEST = 230.0, 22.0, 0.08
"""Width of a map and side of the most frequent place, in points; the least share of its area."""


@matplotlib.rc_context(fname=STYLE)
def plot_frontier(results: Results, path: Path) -> None:
    """Accuracy against compute, and below the paired lead over the best rule at each price."""
    currency = results.currency
    unit = 1.0 if currency == TOKENS else currency.size * _MANY
    policies = {
        name: [replace(point, cost=point.cost * unit) for point in points]
        for name, points in results.policies.items()
    }
    figure, (above, below) = plt.subplots(2, 1, figsize=(5.2, 6.4), height_ratios=(3, 1.1))
    for family, names in _families(results).items():
        title, colour = _FAMILIES[family]
        label = f"{title} ({len(names)})" if len(names) > 1 else title
        _plot_mixtures(above, [p for name in names for p in policies[name]], colour, label)
    for name, marker in zip(GREEDY, "ph", strict=True):
        if name in results.policies:
            point = policies[name][0]
            above.plot(point.cost, point.accuracy, marker, color=_MUTED, ms=8, label=name)
    for name, colour in zip(results.others, cycle(_OTHERS), strict=False):
        _plot_controller(above, policies[name], colour, name)
    _plot_controller(above, policies[CONTROLLER], _INK, CONTROLLER)
    axis = f"mean compute per question ({TOKENS.name})"
    if currency != TOKENS:
        axis = f"mean cost of {_MANY:,} questions ({currency.name})"
    above.set(xlabel=axis, ylabel="accuracy")
    least = min(p.accuracy for points in results.policies.values() for p in points if p.cost > 0)
    above.set_ylim(bottom=least - 0.02)
    above.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    above.set_title(_gain(results))
    log_axis(above)
    closest = [results.closest_rule(i)[1] for i in range(len(results.prices))]
    _plot_lead(below, closest, results.currency, 1, _INK, "o-", lw=1.5, ms=4)
    below.set(ylabel="utility, points")
    below.set_title(f"Ahead of the best rule, {results.num_questions:,} questions, 95%")
    title = "the best of (so many) rules, mixtures included"
    figure.legend(loc="outside lower center", ncols=2, title=title)
    save_figure(figure, path)


def _worth_axis(currency: Currency) -> str:
    return f"what a right answer is worth ({currency.name})"


def _gain(results: Results) -> str:
    """What the picture shows, in words."""
    large = results.headline.get("always large")
    if large is None or not large.ratio < 1:
        return "Accuracy against cost"
    return f"As right as always large for {large.ratio:.0%} of its cost"


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
    places = sorted({(p.cost, p.accuracy) for p in points if p.cost > 0})
    cost, accuracy = np.array([(0.0, 0.0), *places]).T  # (P,)
    least = cost_at_accuracy(accuracy[None], cost[None], accuracy[None])[0]
    corner = cost <= least * (1 + 1e-9)
    return cost[corner].tolist(), accuracy[corner].tolist()


def _plot_controller(axes: Axes, policy: Sequence[Point], colour: str, label: str) -> None:
    points = np.array([(p.cost, p.accuracy) for p in policy if p.cost > 0]).reshape(-1, 2)
    axes.plot(*points.T, "o-", color=colour, lw=2.5, ms=4.5, label=label)


def _plot_lead(
    axes: Axes,
    leads: Sequence[Lead],
    currency: Currency,
    sign: int,
    colour: str,
    style: str,
    **more: Any,
) -> None:
    """Leads, or with a sign of -1 what is behind, in points against 1 / price."""
    lead, *ends = sign * 100 * np.array([entry.measured for entry in leads]).T  # (P,) each
    low, high = np.sort(ends, axis=0)
    axes.axhline(0, color=_INK, lw=1)
    worth = [currency.size / entry.price for entry in leads]
    reach = lead - low, high - lead
    axes.errorbar(worth, lead, reach, fmt=style, color=colour, elinewidth=1.2, **more)
    axes.set_xlabel(_worth_axis(currency))
    log_axis(axes)


def log_axis(axes: Axes) -> None:
    """A logarithmic x axis with plain numbers; a linear one where nothing costs anything."""
    shown = [line.get_xdata() for line in axes.lines]
    shown += [np.asarray(dots.get_offsets())[:, 0] for dots in axes.collections]
    if not any((np.asarray(x, float) > 0).any() for x in shown):
        return
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


@matplotlib.rc_context(fname=STYLE)
def plot_utility(results: Results, path: Path) -> None:
    """How far the best rule of each kind is behind the controller, with paired intervals."""
    figure, axes = plt.subplots(figsize=(5.2, 5.2))
    highest = 5.0
    for place, (family, names) in enumerate(_families(results).items()):
        title, colour = _FAMILIES[family]
        known = [results.lead[name] for name in names if name in results.lead]
        closest = [min(row, key=lambda entry: entry.lead) for row in zip(*known, strict=True)]
        style = "osD^vPX"[place] + "-"
        _plot_lead(axes, closest, results.currency, -1, colour, style, lw=1.5, ms=4, label=title)
        highest = max(highest, *(-100 * entry.interval[0] for entry in closest))
    axes.set(ylabel="utility less the controller's, points")
    axes.set_ylim(-25, highest)
    axes.set_title("The best rule of each kind, paired 95%")
    figure.legend(loc="outside lower center", ncols=2)
    save_figure(figure, path)


@matplotlib.rc_context(fname=STYLE)
def plot_actions(
    shares: Mapping[float, Mapping[str, float]], path: Path, currency: Currency = TOKENS
) -> None:
    """Shares of actions in all decisions of the controller, by price."""
    figure, axes = plt.subplots(figsize=(5.2, 4.6))
    prices = sorted(shares, reverse=True)
    names = [name for name in shares[prices[0]] if any(shares[price][name] for price in prices)]
    worth = [currency.size / price for price in prices]
    rows = [[shares[price][name] for price in prices] for name in names]
    axes.stackplot(worth, rows, labels=names, colors=action_colours(names))
    axes.set(xlabel=_worth_axis(currency), ylabel="share of decisions", ylim=(0, 1))
    axes.set_title("What the controller does, by price")
    log_axis(axes)
    axes.margins(x=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.legend(loc="outside lower center", ncols=3)
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically, and close it."""
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))
    plt.close(figure)


def _watch(kinds: Ints, seen: list[pd.DataFrame]) -> Watcher:
    """Takes down attempts so far, bin of the leader's share, place of the kind, and level."""

    def watch(replay: Replay, rows: Ints, actions: Ints) -> None:
        episodes = replay.episodes
        leader = np.maximum(episodes.leader[rows], 0)
        share = episodes.votes[rows, leader] / np.maximum(episodes.total[rows], 1)
        columns = {
            "made": episodes.num_attempts[rows],
            "share": np.minimum((share * _SHARES).astype(np.int64), _SHARES - 1),
            "kind": kinds[actions],
            "level": replay.table.levels[replay.start[rows]],
        }
        seen.append(pd.DataFrame(columns))

    return watch


@matplotlib.rc_context(fname=STYLE)
def plot_policy(checkpoint: Checkpoint, table: TraceTable, path: Path) -> None:
    """Draw what a policy does by attempts, votes and difficulty, and what that brings."""
    currency = checkpoint.config.cost.currency
    prices = LogUniform(low=checkpoint.price_range[0], high=checkpoint.price_range[1]).grid(13)
    kinds = checkpoint.config.kinds
    places = np.array([action.kind.place for action in checkpoint.config.actions])
    watched, played = [], []
    for price in prices.tolist():
        seen: list[pd.DataFrame] = []
        watch = _watch(places, seen)
        played.append(play_checkpoint(checkpoint, table, price, repeats=4, watch=watch))
        watched.append(pd.concat(seen))
    figure, axes = plt.subplots(2, 3, figsize=(13, 7.8), dpi=110)
    for axis, i in zip(axes[0], _SHOWN, strict=True):
        _action_map(axis, watched[i], kinds)
        axis.set_title(f"A right answer is worth {worth_text(prices[i], currency)}")
    _by_level(axes[1, 0], watched[_SHOWN[1]], kinds)
    _by_price(axes[1, 1], prices, played, currency)
    _where_it_pays(axes[1, 2], table, prices, played, currency)
    handles = [Patch(color=_colour(kind), label=kind.value.upper()) for kind in kinds]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(kinds))
    save_figure(figure, path)


def worth_text(price: float, currency: Currency = TOKENS) -> str:
    """What a right answer is worth at a price, to two digits."""
    rounded = float(f"{1 / price:.2g}")
    return f"{rounded:,.0f} tokens" if currency == TOKENS else currency.text(1 / price)


def _colour(kind: ActionKind) -> str:
    return action_colour(kind.value.upper())


def _action_map(axis: Axes, decisions: pd.DataFrame, kinds: Sequence[ActionKind]) -> None:
    """The most frequent action at each place, the larger the more often it was met."""
    met = decisions.value_counts(["made", "share", "kind"]).reset_index()
    places = met.sort_values("kind").sort_values("count", ascending=False, kind="stable")
    places = places.groupby(["made", "share"]).agg(kind=("kind", "first"), seen=("count", "sum"))
    places = places[places["seen"] >= _RARE * places["seen"].sum()].reset_index()
    made, often = places["made"], np.sqrt(places["seen"] / places["seen"].max())
    side = min(_LARGEST, _WIDE / (made.max() + 1))
    colours = places["kind"].map({kind.place: _colour(kind) for kind in kinds})
    sizes = side**2 * np.maximum(often, _SMALLEST)
    axis.scatter(made, (places["share"] + 0.5) / _SHARES, sizes, colours, marker="s")
    axis.set(xlabel="attempts so far; size: how often", ylabel="vote share of the leader")
    axis.set(xlim=(-0.7, made.max() + 0.7), ylim=(0, 1))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _by_level(axis: Axes, decisions: pd.DataFrame, kinds: Sequence[ActionKind]) -> None:
    taken = decisions.groupby("level")["kind"].value_counts(normalize=True).unstack()
    levels, bottom = taken.index.tolist(), np.zeros(len(taken))
    for kind in kinds:
        share = taken.get(kind.place, pd.Series(0.0, taken.index)).fillna(0).to_numpy()
        axis.bar(range(len(levels)), share, bottom=bottom, color=_colour(kind))
        bottom += share
    _name_levels(axis, levels)
    axis.set(ylabel="share of actions", title="By difficulty, at the middle price")


def _by_price(axis: Axes, prices: Floats, played: Sequence[Played], currency: Currency) -> None:
    worth = currency.size / prices
    for place, name in enumerate(("SAMPLE", "REVISE", "ESCALATE", "VERIFY")):
        values = [p.actions[:, place].mean() for p in played]
        if any(values):
            axis.plot(worth, values, color=action_colour(name), marker="o", ms=4, lw=2)
    nothing = [float((p.actions[:, 0] + p.actions[:, 2] == 0).mean()) for p in played]
    axis.plot(worth, nothing, color=_INK, ls="--", label="questions given up at once")
    axis.set(xlabel=_worth_axis(currency), ylabel="mean per question", title="By price")
    log_axis(axis)
    axis.legend(loc="upper left")


def _where_it_pays(
    axis: Axes, table: TraceTable, prices: Floats, played: Sequence[Played], currency: Currency
) -> None:
    """Accuracy by level at two prices, and on the bars what a question costs there."""
    levels = np.unique(table.levels).tolist()
    for offset, i, shade in ((-0.2, _SHOWN[0], _INK), (0.2, _SHOWN[1], _MUTED)):
        accuracy = [float(played[i].right[table.levels == v].mean()) for v in levels]
        cost = [float(played[i].cost[table.levels == v].mean()) for v in levels]
        label = f"worth {worth_text(prices[i], currency)}"
        bars = axis.bar(np.arange(len(levels)) + offset, accuracy, 0.38, color=shade, label=label)
        axis.bar_label(bars, [currency.text(c) for c in cost], fontsize=9, color=_MUTED)
    _name_levels(axis, levels)
    axis.set(ylabel="accuracy; on the bars: mean cost", title="Where compute pays")
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.legend()


def _name_levels(axis: Axes, levels: Sequence[int]) -> None:
    axis.set_xticks(range(len(levels)), [str(v) if v else "all" for v in levels])
    axis.set_xlabel("difficulty level")
    axis.grid(visible=False, axis="x")
