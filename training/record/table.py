"""What was recorded, in a row per model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from controller.process.types import CUT

_COLUMNS = (
    "question_id",
    "model",
    "parent_id",
    "answer",
    "correct",
    "completion_tokens",
    "prompt_tokens",
    "cached_tokens",
    "finish_reason",
    "error",
)


def summary(
    out: Path, speeds: Mapping[str, float] | None = None
) -> dict[str, dict[str, float | None]]:
    """How each model did, revisions aside.

    Args:
        out: directory of the tables.
        speeds: tokens per second by model, where they were measured.

    Returns:
        By model: `attempts`; shares of them that could be `read`, were `cut`, `failed` and were
        `right`; the share of questions whose most frequent answer is right, `majority`; `tokens`
        per attempt, `tokens_per_s` and the share of the prompts that was `cached`.
    """
    rows = pq.read_table(out / "attempts.parquet", columns=list(_COLUMNS)).to_pylist()
    by_model: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["parent_id"] is None:
            by_model.setdefault(row["model"], []).append(row)
    return {
        model: {**_shares(own), "tokens_per_s": (speeds or {}).get(model)}
        for model, own in by_model.items()
    }


def _shares(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    votes: dict[str, Counter[str]] = {}
    right = set()
    for row in rows:
        counts = votes.setdefault(row["question_id"], Counter())
        if row["answer"] is not None:
            counts[row["answer"]] += 1
        if row["correct"]:
            right.add((row["question_id"], row["answer"]))
    leaders = [(q, counts.most_common(1)[0][0]) for q, counts in votes.items() if counts]
    prompts = sum(row["prompt_tokens"] for row in rows)
    n = len(rows)
    return {
        "attempts": n,
        "read": sum(row["answer"] is not None for row in rows) / n,
        "cut": sum(row["finish_reason"] == CUT for row in rows) / n,
        "failed": sum(row["error"] is not None for row in rows) / n,
        "right": sum(bool(row["correct"]) for row in rows) / n,
        "majority": sum(leader in right for leader in leaders) / len(votes),
        "tokens": sum(row["completion_tokens"] for row in rows) / n,
        "cached": sum(row["cached_tokens"] or 0 for row in rows) / prompts if prompts else None,
    }
