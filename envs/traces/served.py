"""Attempts from the log of a service (`allot serve --log FILE`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from controller.answers import AnswerKind, is_right
from controller.errors import TraceFormatError
from envs.questions.files import read_rows

Row = dict[str, Any]

_EPISODE, _VERSION = "episode", 1


def is_service_log(rows: Sequence[Row]) -> bool:
    """Whether rows are lines of a service's log."""
    return bool(rows) and all("event" in row and "logger" in row for row in rows[:10])


def episode_rows(
    rows: Sequence[Row], references: Mapping[str, str], kind: AnswerKind
) -> Iterator[Row]:
    """Attempts of those episodes whose reference is known.

    Attempts that failed tell about servers, not about models, and are left out.

    Args:
        rows: lines of the log.
        references: by question id or question.
        kind: of the answers.

    Raises:
        ValueError: an episode of an unknown version, or without its answers.
    """
    for row in _episodes(rows):
        name, question = row["question_id"], row["question"] or row["question_id"]
        reference = references.get(name, references.get(question))
        if reference is None:
            continue
        if row.get("answers_hidden"):
            raise ValueError(
                f"{name}: expected answers that can be graded, found digests, as they are whole "
                "texts; serve with --log-texts"
            )
        for attempt in row["attempts"]:
            if attempt["error"] is None:
                yield _attempt(row["episode_id"], attempt) | {
                    "question": question,
                    "question_id": name,
                    "dataset": "served",
                    "reference": reference,
                    "correct": is_right(kind, attempt["answer"], reference),
                }


def read_episodes(path: Path) -> list[Row]:
    """Episodes of a log.

    Raises:
        TraceFormatError: the file is no log, or of an unknown version.
    """
    rows = read_rows(path)
    if not is_service_log(rows):
        raise TraceFormatError(f"{path}: expected a log of allot serve, found something else")
    try:
        return list(_episodes(rows))
    except ValueError as error:
        raise TraceFormatError(f"{path}: {error}") from None


def _episodes(rows: Sequence[Row]) -> Iterator[Row]:
    for row in rows:
        if row["event"] == _EPISODE:
            if row.get("version") != _VERSION:
                raise ValueError(f"expected version {_VERSION}, found {row.get('version')!r}")
            yield row


def _attempt(episode: str, attempt: Row) -> Row:
    parent = attempt["parent_id"]
    copied = (
        *("model", "rung", "action", "answer", "text", "prompt_tokens", "completion_tokens"),
        *("mean_logprob", "min_logprob", "verifier_score"),
    )
    return {name: attempt[name] for name in copied} | {
        # Each episode counts its attempts from 0.
        "attempt_id": f"{episode}/{attempt['attempt_id']}",
        "parent_id": None if parent is None else f"{episode}/{parent}",
    }


def logged_sizes(rows: Sequence[Row]) -> dict[str, float]:
    """Parameters by model name, as far as the log tells."""
    models = [model for row in rows if row["event"] == _EPISODE for model in row["models"]]
    return {m["name"]: float(m["parameters"]) for m in models if m["parameters"]}


def read_references(path: Path) -> dict[str, str]:
    """References by question id and by question, from a JSONL, CSV or parquet file.

    Raises:
        TraceFormatError: a row without a reference, or with neither id nor question.
    """
    found: dict[str, str] = {}
    for number, row in enumerate(read_rows(path), start=1):
        keys = [str(row[name]) for name in ("question_id", "question") if row.get(name)]
        if not keys or row.get("reference") is None:
            raise TraceFormatError(
                f"{path}, row {number}: expected reference, and question_id or question, found "
                f"{sorted(row)}"
            )
        found |= dict.fromkeys(keys, str(row["reference"]))
    return found
