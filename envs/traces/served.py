"""Attempts from the log of a service (`allot serve --log FILE`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from envs.records import Record, read_records
from envs.traces.logs import Log, Row

_EPISODE, _VERSION = "episode", 1

_COPIED = (
    *("model", "rung", "action", "answer", "text", "prompt_tokens", "completion_tokens"),
    *("mean_logprob", "min_logprob", "verifier_score"),
)


def served_attempts(record: Record, log: Log) -> Iterator[Row]:
    """Attempts of an episode whose reference is known.

    Attempts that failed tell about servers, not about models, and are left out.

    Raises:
        TraceFormatError: an episode of an unknown version, or without its answers.
    """
    row = record.row
    if not _is_episode(record):
        return
    name, question = row["question_id"], row["question"] or row["question_id"]
    known = log.known(name, question)
    if known is None:
        log.notes["questions without a reference, left out"] += 1
        return
    if row.get("answers_hidden"):
        raise record.error(
            "answers_hidden",
            f"answers of {name} that can be graded, not digests, as they are whole texts; serve "
            "with --log-texts",
            True,
        )
    sizes = {model["name"]: model["parameters"] for model in row["models"]}
    for attempt in row["attempts"]:
        if attempt["error"] is not None:
            log.notes["attempts that failed, left out"] += 1
            continue
        parent = attempt["parent_id"]
        yield {column: attempt[column] for column in _COPIED} | {
            "question": question,
            "question_id": name,
            "dataset": "served",
            "reference": known["reference"],
            "parameters": sizes.get(attempt["model"]),
            # Each episode counts its attempts from 0.
            "attempt_id": f"{row['episode_id']}/{attempt['attempt_id']}",
            "parent_id": None if parent is None else f"{row['episode_id']}/{parent}",
        }


def read_episodes(path: Path) -> list[Row]:
    """Episodes of a log; raises TraceFormatError if it is none, or of an unknown version."""
    rows = []
    for record in read_records(path):
        if "event" not in record.row:
            raise record.error("event", "a line of a log of allot serve", None)
        if _is_episode(record):
            rows.append(record.row)
    return rows


def _is_episode(record: Record) -> bool:
    """Whether a line tells of one; raises TraceFormatError if of an unknown version."""
    row = record.row
    if row["event"] != _EPISODE:
        return False
    if row.get("version") != _VERSION:
        raise record.error("version", str(_VERSION), row.get("version"))
    return True


_ALIASES = {"question_id": ("task_id", "custom_id"), "question": ("prompt",)}
"""What problems of EvalPlus and requests of the OpenAI batch API call it."""


def read_references(path: Path) -> dict[str, Row]:
    """Rows with references, by question id and by question.

    A problem that programs solve has no reference: its tests have been run.

    Raises:
        TraceFormatError: a row without one or its question, or two that contradict one another.
    """
    found: dict[str, Row] = {}
    for record in read_records(path):
        row = dict(record.row)
        for name, theirs in _ALIASES.items():
            row.setdefault(name, next((row[t] for t in theirs if row.get(t)), None))
        keys = [str(row[name]) for name in _ALIASES if row.get(name)]
        if not keys:
            raise record.error("question_id", "question_id or question", None)
        if row.get("reference") is None and "entry_point" not in row:
            raise record.error("reference", "a right answer", None)
        for key in keys:
            if found.setdefault(key, row).get("reference") != row.get("reference"):
                raise record.error("reference", f"one right answer for {key!r}", row)
    return found
