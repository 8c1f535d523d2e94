"""Single episodes for a report, and what they add up to by difficulty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from training.compare.evaluation import Evaluation

MAX_TEXT = 4000
"""Longer texts are cut, and the page says so."""


def action_shares(evaluation: Evaluation, prices: Sequence[float]) -> list[dict[str, Any]]:
    """What was done by difficulty level, or by dataset where no levels are known.

    Returns:
        One entry per group: `name`, `questions`, and by price `accuracy`, `cost`,
        `given_up` (share of episodes without an attempt) and, by action other than STOP,
        how often it was taken per question.
    """
    columns = ["dataset", "level", "mean_correct", "mean_cost", "decisions.list.element.action"]
    table = pq.ParquetFile(evaluation.decisions).read(columns=columns).combine_chunks()
    names, group = _groups(table)
    lists = table["decisions"].combine_chunks()
    row = pc.list_parent_indices(lists).to_numpy()
    action = np.array(pc.struct_field(pc.list_flatten(lists), "action").to_pylist())
    price = np.repeat(np.arange(len(prices)), len(table) // len(prices))  # (rows,)
    taken = [a for a in evaluation.decision_names("probabilities") if a != "STOP"]
    right, cost = table["mean_correct"].to_numpy(), table["mean_cost"].to_numpy()
    first = action[np.unique(row, return_index=True)[1]]  # (rows,)
    entries = []
    for g, name in enumerate(names):
        at = [(group == g) & (price == p) for p in range(len(prices))]
        members = int(at[0].sum())
        entries.append(
            {
                "name": name,
                "questions": members,
                "accuracy": [round(float(right[i].mean()), 4) for i in at],
                "cost": [round(float(cost[i].mean()), 1) for i in at],
                "given_up": [round(float((first[i] == "STOP").mean()), 4) for i in at],
                "actions": {
                    a: [round(float((action == a)[i[row]].sum() / members), 4) for i in at]
                    for a in taken
                },
            }
        )
    return entries


def _groups(table: pa.Table) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the groups, in order, and the group of each row."""
    levels, level = np.unique(pc.fill_null(table["level"], 0).to_numpy(), return_inverse=True)
    if levels.any():
        return [f"level {number}" if number else "no level" for number in levels], level
    names, dataset = np.unique(table["dataset"].to_pylist(), return_inverse=True)
    return [str(name) or "all questions" for name in names], dataset


def episodes(
    decisions: Sequence[Path], question_ids: Sequence[str], num_questions: int
) -> dict[str, Any]:
    """Episodes of some test questions, drawn at random, as many of each level as there are.

    Returns:
        `questions`, each with its `group`; `attempts` and `segments`, which episodes refer to
        by position; `episodes` by run, question and price.
    """
    columns = ["question_id", "dataset", "level", "question", "reference"]
    table = pq.read_table(decisions[0], columns=columns).slice(0, len(question_ids))
    names, group = _groups(table)
    chosen = _draw(group, num_questions)
    questions = table.take(chosen).to_pylist()
    groups = [names[g] for g in group[chosen]]
    place = {question["question_id"]: i for i, question in enumerate(questions)}
    brought = _Brought()
    played = []
    for path in decisions:
        rows = pq.read_table(path, filters=[("question_id", "in", list(place))]).to_pylist()
        by_question: list[list[dict[str, Any]]] = [[] for _ in questions]
        for row in rows:
            by_question[place[row["question_id"]]].append(_episode(row, brought))
        played.append(by_question)
    return {
        "questions": [
            {**_cut(question), "group": name}
            for question, name in zip(questions, groups, strict=True)
        ],
        "attempts": [dict(key) for key in brought.attempts],
        "segments": [dict(key) for key in brought.segments],
        "episodes": played,
    }


def _draw(group: NDArray[np.int64], num_questions: int) -> list[int]:
    """Positions of questions, sorted by group; every group gives its share in turn."""
    rng = np.random.default_rng(0)
    left = [rng.permutation(np.flatnonzero(group == g)).tolist() for g in range(group.max() + 1)]
    drawn: list[list[int]] = [[] for _ in left]
    for _ in range(min(num_questions, len(group))):
        g = min((g for g in range(len(left)) if left[g]), key=lambda g: len(drawn[g]))
        drawn[g].append(left[g].pop())
    return [position for members in drawn for position in sorted(members)]


@dataclass(frozen=True)
class _Brought:
    """Whatever actions brought, each once, with its position."""

    attempts: dict[tuple[Any, ...], int] = field(default_factory=dict)
    segments: dict[tuple[Any, ...], int] = field(default_factory=dict)


def _place(entry: Mapping[str, Any], known: dict[tuple[Any, ...], int]) -> int:
    return known.setdefault(tuple(_cut(entry).items()), len(known))


def _episode(row: Mapping[str, Any], brought: _Brought) -> dict[str, Any]:
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
                **_more(decision, brought),
            }
            for decision in row["decisions"]
        ],
    }


def _more(decision: Mapping[str, Any], brought: _Brought) -> dict[str, Any]:
    """What decisions of its granularity have beside what all have."""
    if "segment" not in decision:
        attempts = [_place(attempt, brought.attempts) for attempt in decision["attempts"]]
        return {"leader": decision["leader"], "attempts": attempts}
    segment = decision["segment"]
    return {
        "answer": decision["answer"],
        "correct": decision["correct"],
        "segment": None if segment is None else _place(segment, brought.segments),
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
