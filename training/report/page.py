"""The page of a report: what it shows, read from run directories, and how it is put together."""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from controller.errors import EvaluationError
from controller.files import write_text
from controller.process.cost import TOKENS
from controller.process.lockstep import Floats, Ints
from training.compare.evaluation import ASKED, Evaluation, read_evaluation
from training.compare.results import CONTROLLER, QUANTITIES, Point
from training.compare.summary import Bootstrap
from training.compare.yardsticks import kind_of
from training.learn.resume import CURVE, read_curve

MAX_TEXT = 4000
"""Longer texts are cut, and the page says so."""

_PROGRAM = ("dom.js", "figures.js", "table.js", "explorer.js", "main.js")

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
    right: Floats
    cost: Floats
    question_ids: tuple[str, ...]

    @property
    def prices(self) -> list[float]:
        """Prices that it was evaluated at."""
        return list(self.evaluation.results.prices)


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read evaluated runs; EvaluationError unless all have the same questions and prices."""
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
    same_unit = _unit(run) == _unit(first)
    same = len(shared) == len(place) == len(first.question_ids)
    if not (same and same_prices and same_unit):
        raise EvaluationError(
            f"{run.path}: expected {_scope(first)} of {first.path}, found {_scope(run)}, "
            f"{len(shared)} of these questions among them; {_again(run, first)}"
        )
    right, cost = run.right[:, shared], run.cost[:, shared]
    return replace(run, right=right, cost=cost, question_ids=first.question_ids)


def _scope(run: Run) -> str:
    prices, count = run.prices, len(run.question_ids)
    ends = f"{prices[0]:.4g} to {prices[-1]:.4g}"
    return f"the {count} test questions and {len(prices)} prices ({ends}; costs in {_unit(run)})"


def _unit(run: Run) -> str:
    currency = run.evaluation.results.currency
    name = "".join(run.evaluation.about.models[:1])
    if currency == TOKENS:
        return f"tokens of {name or 'one model'}"
    return f"{currency.size:.3g} {currency.name}"


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
    ids = tuple(table["question_id"].to_pylist()[: right.shape[1]])
    return Run(
        path=path, name=name, evaluation=evaluation, right=right, cost=cost, question_ids=ids
    )


def report_data(runs: Sequence[Run], num_questions: int) -> dict[str, Any]:
    """Everything on the page of runs, with single episodes of so many questions."""
    first = runs[0]
    currency = first.evaluation.results.currency
    return {
        "prices": first.prices,
        "currency": None if currency == TOKENS else currency._asdict(),
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
        "verdict": results.verdict,
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


def write_report(runs: Sequence[Path], out: Path, num_questions: int) -> None:
    """Compare evaluated runs, the most interesting first, on a page that needs nothing else."""
    page = render(report_data(read_runs(runs), num_questions))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)


def render(data: dict[str, Any]) -> str:
    """HTML of what `report_data` returns.

    Questions, attempts and names are not to be trusted. They reach the page as JSON without
    `<`, `>` and `&`, or escaped by Jinja; the program only ever makes text nodes of them. The
    page's policy lets the browser run the two scripts of these digests and nothing else, and
    load nothing.
    """
    program = "\n".join(["(() => {", "'use strict';", *map(_text, _PROGRAM), "})();"])
    plotly = get_plotlyjs()
    environment = Environment(
        loader=PackageLoader("training.report", ""), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["share"] = lambda value: "?" if value is None else f"{value:.0%}"
    return environment.get_template("page.html").render(
        policy=_security_policy(program, plotly),
        style=Markup(_text("page.css")),
        program=Markup(program),
        plotly=Markup(plotly),
        data=htmlsafe_json_dumps(data, allow_nan=False, separators=(",", ":")),
        names=[run["name"] for run in data["runs"]],
        runs=data["runs"],
        about=data["runs"][0]["about"],
        num_questions=data["num_questions"],
        num_prices=len(data["prices"]),
        num_episodes=len(data["questions"]),
        version=version("allot"),
    )


def _text(name: str) -> str:
    return files("training.report").joinpath(name).read_text(encoding="utf-8")


def _security_policy(*scripts: str) -> str:
    """Content security policy that allows these scripts, inline styles and data images."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def action_shares(evaluation: Evaluation, prices: Sequence[float]) -> list[dict[str, Any]]:
    """What was done by difficulty level, or by dataset where no levels are known.

    Entries have `name`, `questions`, and by price `accuracy`, `cost`, `given_up` (share of episodes
    without an attempt) and, by action other than STOP, how often it was taken per question.
    """
    episodes = evaluation.episodes("dataset", "level", "mean_correct", "mean_cost")
    names, group = _groups(episodes)
    price = np.repeat(np.arange(len(prices)), len(episodes) // len(prices))  # (rows,)
    taken = [a for a in evaluation.decision_names("probabilities") if a != "STOP"]
    counts = pd.DataFrame(map(Counter, episodes["actions"])).reindex(columns=taken).fillna(0)
    told = pd.DataFrame(
        {
            "accuracy": episodes["mean_correct"],
            "cost": episodes["mean_cost"],
            "given_up": episodes["actions"].str[0] == "STOP",
        }
    )
    means, entries = told.join(counts).groupby([group, price]).mean(), []
    for g, name in enumerate(names):
        here = means.loc[g]  # by price
        entries.append(
            {
                "name": name,
                "questions": int((group == g).sum()) // len(prices),
                "accuracy": [round(x, 4) for x in here["accuracy"]],
                "cost": [round(x, 1) for x in here["cost"]],
                "given_up": [round(x, 4) for x in here["given_up"]],
                "actions": {a: [round(x, 4) for x in here[a]] for a in taken},
            }
        )
    return entries


def _groups(rows: pd.DataFrame) -> tuple[list[str], Ints]:
    """Names of the groups, in order, and the group of each row."""
    known = pd.to_numeric(rows["level"]).fillna(0).astype(int)
    levels, level = np.unique(known, return_inverse=True)
    if levels.any():
        return [f"level {number}" if number else "no level" for number in levels], level
    names, dataset = np.unique(rows["dataset"].tolist(), return_inverse=True)
    return [str(name) or "all questions" for name in names], dataset


def episodes(
    decisions: Sequence[Path], question_ids: Sequence[str], num_questions: int
) -> dict[str, Any]:
    """Episodes of some test questions, drawn at random, as many of each level as there are.

    `attempts`, or segments, are referred to by position in `episodes`, by run, question and price.
    """
    table = pq.read_table(decisions[0], columns=list(ASKED)).slice(0, len(question_ids))
    names, group = _groups(table.to_pandas())
    chosen = _draw(group, num_questions)
    questions = table.take(chosen).to_pylist()
    groups = [names[g] for g in group[chosen]]
    place = {question["question_id"]: i for i, question in enumerate(questions)}
    attempts: dict[tuple[Any, ...], int] = {}
    played = []
    for path in decisions:
        rows = pq.read_table(path, filters=[("question_id", "in", list(place))]).to_pylist()
        by_question: list[list[dict[str, Any]]] = [[] for _ in questions]
        for row in rows:
            by_question[place[row["question_id"]]].append(_episode(row, attempts))
        played.append(by_question)
    return {
        "questions": [
            {**_cut(question), "group": name}
            for question, name in zip(questions, groups, strict=True)
        ],
        "attempts": [dict(key) for key in attempts],
        "episodes": played,
    }


def _draw(group: Ints, num_questions: int) -> list[int]:
    """Positions of questions, sorted by group; every group gives its share in turn."""
    rng = np.random.default_rng(0)
    left = [rng.permutation(np.flatnonzero(group == g)).tolist() for g in range(group.max() + 1)]
    drawn: list[list[int]] = [[] for _ in left]
    for _ in range(min(num_questions, len(group))):
        g = min((g for g in range(len(left)) if left[g]), key=lambda g: len(drawn[g]))
        drawn[g].append(left[g].pop())
    return [position for members in drawn for position in sorted(members)]


def _episode(row: Mapping[str, Any], attempts: dict[tuple[Any, ...], int]) -> dict[str, Any]:
    return {
        "answer": row["answer"],
        "correct": row["correct"],
        "cost": round(row["cost"], 1),
        "decisions": [
            {
                "action": decision["action"],
                "probabilities": [round(p, 3) for p in decision["probabilities"].values()],
                "value": round(decision["value"], 4),
                "observation": [float(f"{x:.4g}") for x in decision["observation"].values()],
                "cost": round(decision["cost"], 1),
                "leader": decision["leader"],
                "attempts": [
                    attempts.setdefault(tuple(_cut(attempt).items()), len(attempts))
                    for attempt in decision["attempts"]
                ],
            }
            for decision in row["decisions"]
        ],
    }


def _cut(entry: Mapping[str, Any]) -> dict[str, Any]:
    """With texts and numbers cut to a length that a page can bear."""

    def cut(value: Any) -> Any:
        if isinstance(value, str) and len(value) > MAX_TEXT:
            return value[:MAX_TEXT] + f" … ({len(value) - MAX_TEXT} more characters)"
        if isinstance(value, float):
            return float(f"{value:.4g}") if math.isfinite(value) else None
        return value

    return {name: cut(value) for name, value in entry.items()}
