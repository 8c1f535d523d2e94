"""What a report shows, read from run directories and ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from controller.errors import EvaluationError
from controller.policy.rules import CASCADES, ROUTERS, STATIC, STOP_RULES
from controller.segments.rules import KINDS as SEGMENT_KINDS
from training.compare.evaluate import CONTROLLER
from training.compare.evaluation import Evaluation, read_evaluation
from training.compare.greedy import GREEDY
from training.compare.summary import Bootstrap, behind, closest_rule
from training.learn.curve import CURVE, read_curve
from training.report.episodes import action_shares, episodes

_CURVE_POINTS = 300
_CHECKED = "validation/utility"
_SAME_PRICE = 1e-3
"""Largest relative difference of prices that are taken for one: nobody sees what it changes."""

_KINDS = {
    "static": (*STATIC, "self-consistency-", *SEGMENT_KINDS["static mixtures"], *GREEDY),
    "stop": (*STOP_RULES, *SEGMENT_KINDS["stop rules"]),
    "cascade": (*CASCADES, *SEGMENT_KINDS["cascades"]),
    "prompt": (*ROUTERS, *SEGMENT_KINDS["prompt-only rules"]),
    "verify": ("verified best of ", "revise-n", *SEGMENT_KINDS["redoing segments"]),
}
"""Names of rules by how the page draws them."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """An evaluated run.

    Attributes:
        path: its directory.
        name: short, and unlike that of any other run of the report.
        evaluation: what was compared.
        right, cost: (P, Q) means per price and question of the controller.
        question_ids: the Q questions.
    """

    path: Path
    name: str
    evaluation: Evaluation
    right: NDArray[np.float64]
    cost: NDArray[np.float64]
    question_ids: tuple[str, ...]

    @property
    def prices(self) -> list[float]:
        """Prices that it was evaluated at."""
        return list(self.evaluation.summary["prices"])


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read evaluated runs that can be compared.

    Raises:
        EvaluationError: a run has no evaluation, or was evaluated on other questions or at
            other prices than the first one.
    """
    short = [path.resolve().name for path in paths]
    unique = len(set(short)) == len(short)
    runs = [_read(path, short[i] if unique else str(path)) for i, path in enumerate(paths)]
    return [runs[0], *(_aligned(run, runs[0]) for run in runs[1:])]


def _aligned(run: Run, first: Run) -> Run:
    """The run with its questions in the order of the first one's."""
    place = {name: i for i, name in enumerate(run.question_ids)}
    shared = [place[name] for name in first.question_ids if name in place]
    same_prices = len(run.prices) == len(first.prices) and np.allclose(
        run.prices, first.prices, rtol=_SAME_PRICE, atol=0
    )
    if not len(shared) == len(place) == len(first.question_ids) or not same_prices:
        raise EvaluationError(
            f"{run.path}: expected {_scope(first)} of {first.path}, found {_scope(run)}, "
            f"{len(shared)} of these questions among them; {_again(run, first)}"
        )
    return replace(
        run,
        right=run.right[:, shared],
        cost=run.cost[:, shared],
        question_ids=first.question_ids,
    )


def _scope(run: Run) -> str:
    questions, prices = len(run.question_ids), run.prices
    return (
        f"the {questions} test questions and {len(prices)} prices ({prices[0]:.4g} to "
        f"{prices[-1]:.4g})"
    )


def _again(run: Run, first: Run) -> str:
    """What to do so that both runs fit on a page."""
    if run.evaluation.is_segmented == first.evaluation.is_segmented:
        return "evaluate both runs on the same trace set with the same --num-prices"
    controllers = ",".join(first.evaluation.about["controllers"])
    return (
        "record whole attempts and segments of the same test questions, and evaluate both with the "
        "same --num-prices; `allot evaluate` takes the prices of another controller with "
        f'--beside "NAME={controllers}@TRACES" --out {run.path}'
    )


def _read(path: Path, name: str) -> Run:
    evaluation = read_evaluation(path)
    columns = ["question_id", "mean_correct", "mean_cost"]
    table = pq.read_table(evaluation.decisions, columns=columns)
    shape = (len(evaluation.summary["prices"]), -1)
    right, cost = (table[column].to_numpy().reshape(shape) for column in columns[1:])
    ids = table["question_id"].to_pylist()
    return Run(
        path=path,
        name=name,
        evaluation=evaluation,
        right=right,
        cost=cost,
        question_ids=tuple(ids[: right.shape[1]]),
    )


def report_data(runs: Sequence[Run], num_questions: int) -> dict[str, Any]:
    """Everything on the page.

    Args:
        runs: from `read_runs`; leads are those of the first one.
        num_questions: of which single episodes can be looked at.
    """
    first = runs[0]
    return {
        "prices": first.prices,
        "num_questions": len(first.question_ids),
        "policies": _policies(runs),
        "runs": [_run(run) for run in runs],
        **episodes([run.evaluation.decisions for run in runs], first.question_ids, num_questions),
    }


def _run(run: Run) -> dict[str, Any]:
    evaluation = run.evaluation
    closest = [closest_rule(evaluation.summary, i) for i in range(len(run.prices))]
    return {
        "name": run.name,
        "path": str(run.path),
        "about": evaluation.about,
        "segmented": evaluation.is_segmented,
        "actions": evaluation.decision_names("probabilities"),
        "features": evaluation.decision_names("observation"),
        "headline": evaluation.summary["headline"],
        "behind": behind(evaluation.summary),
        "best_rule": [
            {"name": name, "lead": _short([lead["lead"], *lead["interval"]])}
            for name, lead in closest
        ],
        "groups": action_shares(evaluation, run.prices),
        "curves": _curves(run.path),
    }


def _policies(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Controllers of all runs, then rules and oracles, each once if runs agree on it."""
    first, bootstrap = runs[0], Bootstrap(len(runs[0].question_ids))
    policies = []
    for i, run in enumerate(runs):
        rows = run.evaluation.summary["policies"][CONTROLLER]
        leads = [_lead(first, run, p, bootstrap) for p in range(len(run.prices))] if i else None
        policies.append(_policy(CONTROLLER, "controller", rows, leads, run=i))
    known: dict[str, list[Any]] = {}
    for i, run in enumerate(runs):
        summary = run.evaluation.summary
        oracles, others = summary["oracles"], summary["others"]
        for name, rows in {**summary["policies"], **oracles}.items():
            if name == CONTROLLER or rows in known.get(name, []):
                continue
            known.setdefault(name, []).append(rows)
            leads = None
            if i == 0 and name in summary["lead"]:
                leads = [[row["lead"], *row["interval"]] for row in summary["lead"][name]]
            kind = "oracle" if name in oracles else "whole" if name in others else _kind(name)
            policies.append(_policy(name, kind, rows, leads, run=i if i else None))
    return policies


def _lead(first: Run, other: Run, price: int, bootstrap: Bootstrap) -> list[float]:
    """Utility of the first controller less that of another, and its 95% interval."""
    difference = (first.right[price] - other.right[price]) - first.prices[price] * (
        first.cost[price] - other.cost[price]
    )
    return [float(difference.mean()), *bootstrap.interval(difference)]


def _policy(
    name: str,
    kind: str,
    rows: Sequence[Mapping[str, Any]],
    leads: list[list[float]] | None,
    run: int | None,
) -> dict[str, Any]:
    """One policy by price; `run` tells whose it is, None for one that all runs share."""
    return {
        "name": name,
        "kind": kind,
        "run": run,
        "settings": [row.get("setting") for row in rows],
        **{
            quantity: [_short([row[quantity], *row[f"{quantity}_interval"]]) for row in rows]
            for quantity in ("accuracy", "cost", "utility")
        },
        "rounds": _short([row["serial_rounds"] for row in rows]),
        "lead": leads and [_short(lead) for lead in leads],
    }


def _kind(rule: str) -> str:
    numbered = rule.rstrip("n0123456789")
    return next((kind for kind, names in _KINDS.items() if {rule, numbered} & {*names}), "other")


def _curves(run: Path) -> list[dict[str, Any]]:
    """Training curves of a run or of its seeds, each thinned out to some hundred updates."""
    curves = []
    for path in sorted([*run.glob(f"training/{CURVE}"), *run.glob(f"*/training/{CURVE}")]):
        lines = read_curve(path)
        every = max(1, len(lines) // _CURVE_POINTS)
        kept = [line for i, line in enumerate(lines) if i % every == 0 or _CHECKED in line]
        names = sorted({name for line in kept for name in line} - {"global_step"})
        owner = path.parent.parent
        curves.append(
            {
                "name": owner.name if owner != run else None,
                "steps": [line["global_step"] for line in kept],
                "metrics": {name: _short([line.get(name) for line in kept]) for name in names},
            }
        )
    return curves


def _short(values: Sequence[float | None]) -> list[float | None]:
    """To five digits: nobody sees more, and the page is smaller."""
    return [None if value is None else float(f"{value:.5g}") for value in values]
