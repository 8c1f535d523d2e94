"""What a report shows, read from run directories and ready for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from controller.errors import EvaluationError
from training.compare.evaluation import Evaluation, read_evaluation
from training.compare.results import CONTROLLER, QUANTITIES, Point
from training.compare.summary import Bootstrap
from training.compare.yardsticks import kind_of
from training.learn.resume import CURVE, read_curve
from training.report.episodes import action_shares, episodes

_CURVE_POINTS = 300
_CHECKED = "validation/utility"
_SAME_PRICE = 1e-3
"""Largest relative difference of prices that are taken for one: nobody sees what it changes."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """An evaluated run, of a name unlike any other's; `right` and `cost` are means, (P, Q)."""

    path: Path
    name: str
    evaluation: Evaluation
    right: NDArray[np.float64]
    cost: NDArray[np.float64]
    question_ids: tuple[str, ...]

    @property
    def prices(self) -> list[float]:
        """Prices that it was evaluated at."""
        return list(self.evaluation.results.prices)


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
    controllers = ",".join(first.evaluation.about.controllers)
    return (
        "record whole attempts and segments of the same test questions, and evaluate both with the "
        "same --num-prices; `allot evaluate` takes the prices of another controller with "
        f'--beside "NAME={controllers}@TRACES" --out {run.path}'
    )


def _read(path: Path, name: str) -> Run:
    evaluation = read_evaluation(path)
    columns = ["question_id", "mean_correct", "mean_cost"]
    table = pq.read_table(evaluation.decisions, columns=columns)
    shape = (len(evaluation.results.prices), -1)
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
    evaluation, results = run.evaluation, run.evaluation.results
    closest = [results.closest_rule(i) for i in range(len(run.prices))]
    return {
        "name": run.name,
        "path": str(run.path),
        "about": asdict(evaluation.about),
        "segmented": evaluation.is_segmented,
        "actions": evaluation.decision_names("probabilities"),
        "features": evaluation.decision_names("observation"),
        "headline": results.to_json()["headline"],
        "behind": results.behind,
        "best_rule": [{"name": name, "lead": _short(lead.measured)} for name, lead in closest],
        "groups": action_shares(evaluation, run.prices),
        "curves": _curves(run.path),
    }


def _policies(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Controllers of all runs, then rules and oracles, each once if runs agree on it."""
    first, bootstrap = runs[0], Bootstrap(len(runs[0].question_ids))
    policies = []
    for i, run in enumerate(runs):
        leads = [_lead(first, run, p, bootstrap) for p in range(len(run.prices))] if i else None
        points = run.evaluation.results.controller
        policies.append(_policy(CONTROLLER, "controller", points, leads, run=i))
    known: dict[str, list[Sequence[Point]]] = {}
    for i, run in enumerate(runs):
        results = run.evaluation.results
        for name, points in results.everyone.items():
            if name == CONTROLLER or points in known.get(name, []):
                continue
            known.setdefault(name, []).append(points)
            leads = None
            if i == 0 and name in results.lead:
                leads = [lead.measured for lead in results.lead[name]]
            is_oracle, is_other = name in results.oracles, name in results.others
            kind = "oracle" if is_oracle else "whole" if is_other else kind_of(name)
            policies.append(_policy(name, kind, points, leads, run=i if i else None))
    return policies


def _lead(first: Run, other: Run, price: int, bootstrap: Bootstrap) -> tuple[float, float, float]:
    """Utility of the first controller less that of another, and its 95% interval."""
    difference = (first.right[price] - other.right[price]) - first.prices[price] * (
        first.cost[price] - other.cost[price]
    )
    return float(difference.mean()), *bootstrap.interval(difference)


def _policy(
    name: str,
    kind: str,
    points: Sequence[Point],
    leads: Sequence[tuple[float, float, float]] | None,
    run: int | None,
) -> dict[str, Any]:
    """One policy by price; `run` tells whose it is, None for one that all runs share."""
    return {
        "name": name,
        "kind": kind,
        "run": run,
        "settings": [point.setting for point in points],
        **{q: [_short(point.measured(q)) for point in points] for q in QUANTITIES},
        "rounds": _short([point.serial_rounds for point in points]),
        "lead": leads and [_short(lead) for lead in leads],
    }


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
