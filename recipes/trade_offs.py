"""Fixed plans against each other at equal compute: `python -m recipes.trade_offs TRACES`.

- One attempt of a larger model against votes of several small ones, and of one small one.
- Where they were recorded, revisions by the first model, each of the one before, the last of which
  counts, against votes of its independent attempts, which can be written at once.

Plans that replace another one are mixed so that they cost no more and are most often right on one
half of the questions, dealt by their ids; what counts is how the mixture does on the other half.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, cast

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import typer
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from scipy.optimize import linprog

from controller.errors import ConfigError
from controller.policy.rules import AnyRule, On, Panel, SelfConsistency
from controller.process.episodes import EpisodeConfig
from controller.process.lockstep import Floats
from envs.traces.format import TraceSet
from envs.traces.table import TraceTable, build_table
from recipes.crossvalidate import deal
from training.cli.app import main as run_program
from training.compare.simulate import play_rules
from training.compare.summary import Bootstrap
from training.granularity import learning_of
from training.learn.config import TrainConfig
from training.report.plots import STYLE, log_axis, save_figure
from training.report.show import print_rows

SEVERAL, ONE, LARGE, REVISED = "several small models", "one small model", "large", "revised"
INSTEAD = {LARGE: (SEVERAL, ONE), REVISED: (ONE,)}
"""Kinds of plans that replace others."""

_LOOKS: Mapping[str, tuple[str, str, float]] = {
    SEVERAL: ("o", "#2b8a57", 14),
    ONE: ("o", "#7d7f85", 14),
    LARGE: ("*", "#d0493f", 150),
    REVISED: ("^", "#a9771c", 60),
}
"""Marker, colour and size of each kind."""

Points = dict[str, tuple[Floats, Floats]]
"""Accuracy and cost of each question, (Q,) each, by the plan's name."""


def played(table: TraceTable, config: EpisodeConfig, large: Sequence[str]) -> dict[str, Points]:
    """How every plan does, by kind; `large` arms are asked once, the others vote."""
    small = [name for name in config.arm_names if name not in large]
    caps = dict(zip(config.arm_names, config.caps.tolist(), strict=True))
    rules: dict[str, dict[str, AnyRule]] = {
        LARGE: {name: Panel((name,), 1) for name in large},
        SEVERAL: {
            ", ".join(arms): Panel(arms, size)
            for size in range(2, len(small) + 1)
            for arms in combinations(small, size)
        },
        ONE: {
            f"{name} x{n}": On(SelfConsistency(n), name, name)
            for name in small
            for n in range(1, caps[name] + 1)
        },
    }
    names = [(kind, name) for kind, by_name in rules.items() for name in by_name]
    how = play_rules([rules[kind][name] for kind, name in names], table, config)
    points: dict[str, Points] = {REVISED: dict(in_turn(table, config))}
    for (kind, name), p in zip(names, how, strict=True):
        points.setdefault(kind, {})[name] = p.right, p.cost
    return points


def in_turn(
    table: TraceTable, config: EpisodeConfig
) -> Iterator[tuple[str, tuple[Floats, Floats]]]:
    """Attempts of the first arm, revised by it once, twice, ...: means over those that were.

    Of a question without such revisions the attempts as they are.
    """
    if 0 not in table.revisers:
        return
    by, made, token = table.revisers.index(0), table.attempts, config.token_cost[0]
    last = first = table.stream[:, 0]  # (Q, S)
    cost = token * (table.prompt_tokens[:, :1] + made["completion_tokens"][first])
    chained = first >= 0
    for times in range(1, config.max_revisions + 1):
        begin, count = np.moveaxis(table.children[last, by], -1, 0)
        chained = chained & (count > 0)
        if not chained.any():
            return
        last = np.where(chained, begin, last)
        tokens = made["prompt_tokens"][last] + made["completion_tokens"][last]
        cost = cost + config.revision_cost[0] * tokens * chained
        counted = np.where(chained.any(1, keepdims=True), chained, first >= 0)
        right, spent = (
            (values * counted).sum(1) / counted.sum(1) for values in (table.right(last), cost)
        )
        yield f"{config.arm_names[0]}, {times} times revised", (right, spent)


def mixture(right: Floats, cost: Floats, budget: float) -> Floats:
    """How often to play which of n plans, (n,), to be right most often at a mean cost.

    Accuracies and costs are means, (n,); where no plan is as cheap, the cheapest is played.
    """
    budget = max(budget, float(cost.min()))
    found = linprog(-right, cost[None], [budget], np.ones((1, len(right))), [1.0])
    return np.asarray(found.x)


def compare(
    halves: Sequence[tuple[dict[str, Points], dict[str, Points]]],
) -> Iterator[dict[str, Any]]:
    """A row for each plan that is replaced, and kind that replaces it.

    `halves` tell how plans do where mixtures are chosen, and on the other questions.
    """
    first, _ = halves[0]
    replaced = [(kind, name) for kind in INSTEAD for name in first.get(kind, ())]
    for kind, name in replaced:
        for other in INSTEAD[kind]:
            names = list(first.get(other, ()))
            if kind == REVISED:  # votes of the model that revises itself
                names = [n for n in names if n.startswith(f"{name.partition(',')[0]} x")]
            if not names:
                continue
            parts = [
                _replaced(
                    chosen[kind][name],
                    new[kind][name],
                    _stack(chosen, other, names),
                    _stack(new, other, names),
                )
                for chosen, new in halves
            ]
            lead = np.concatenate([part[0] for part in parts])
            low, high = Bootstrap(len(lead)).interval(lead)
            yield {
                "plan": name,
                "right": float(np.concatenate([new[kind][name][0] for _, new in halves]).mean()),
                "instead": other,
                "lead of that": f"{lead.mean():+.3f} ({low:+.3f} to {high:+.3f})",
                "its compute": float(np.mean([part[1] for part in parts])),
            }


def _stack(points: dict[str, Points], kind: str, names: Sequence[str]) -> NDArray[np.float64]:
    """Accuracy and cost of plans, (2, n, Q)."""
    return np.swapaxes([points[kind][name] for name in names], 0, 1)


def _replaced(
    before: tuple[Floats, Floats], ours: tuple[Floats, Floats], chosen: Floats, new: Floats
) -> tuple[Floats, float]:
    """Lead of a mixture over a plan, (Q,), and the share of its compute that it takes."""
    right, cost = chosen.mean(-1)
    weights = mixture(right, cost, float(before[1].mean()))
    right, cost = weights @ new  # (Q,) each
    return right - ours[0], float(cost.mean() / ours[1].mean())


def draw(points: dict[str, Points], out: Path) -> None:
    """Accuracy against compute of every plan, by kind."""
    with matplotlib.rc_context(fname=STYLE):
        figure, axis = plt.subplots(figsize=(7.2, 4.6))
        for kind, plans in points.items():
            marker, colour, size = _LOOKS[kind]
            shown = [(float(cost.mean()), float(right.mean())) for right, cost in plans.values()]
            if not shown:
                continue
            x, y = np.transpose(shown)
            axis.scatter(x, y, size, colour, marker=marker, label=kind)
            for name, at in zip(plans, shown, strict=True) if kind == LARGE else ():
                axis.annotate(name, at, (-8, 0), textcoords="offset points", ha="right")
        axis.set(xlabel="mean compute per question", ylabel="right")
        log_axis(axis)
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.legend(loc="lower right")
        save_figure(figure, out)


def main(
    traces: Annotated[Path, typer.Argument(help="Trace set.")],
    out: Annotated[Path, typer.Option(help="PNG file.")],
    ladder: Annotated[str, typer.Option(help="Models, comma-separated; default: the set's.")] = "",
    large: Annotated[str, typer.Option(help="Those asked alone; default: the last one.")] = "",
    limit: Annotated[int, typer.Option(help="Use so many questions only; 0: all.")] = 0,
) -> None:
    """Draw fixed plans, and print what others do at the same compute."""
    config = TrainConfig(ladder=tuple(name for name in ladder.split(",") if name))
    halves = []
    for part in deal(TraceSet.read(traces), 2, limit):
        names = [model.name for model in part.models(config.ladder)]
        table = build_table(part, ("train", "validation"), names)
        process = cast(EpisodeConfig, learning_of(part).derive(table, part, config, None))
        asked = large.split(",") if large else names[-1:]
        if not {*asked} < {*names}:
            raise ConfigError(
                f"large: expected some, not all, of the models {', '.join(names)}, found "
                f"{', '.join(asked)}"
            )
        new = build_table(part, ("test",), names)
        halves.append((played(table, process, asked), played(new, process, asked)))
    draw(halves[0][1], out)
    print_rows("fixed plans at equal compute", list(compare(halves)))


if __name__ == "__main__":
    run_program(lambda: typer.run(main))
