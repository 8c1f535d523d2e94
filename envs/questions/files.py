"""Question sets: the bundled tasks, or a file of one's own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from controller.answers import UNSTATED, answer_kind
from controller.errors import ConfigError, TraceFormatError
from controller.process.types import Question
from envs.questions.bundled import SPLIT_SIZES, draw_split
from envs.records import read_records

SPLITS = ("train", "validation", "test")
_SHARES = (0.7, 0.8)


def bundled_questions(train_scale: int = 1) -> dict[str, list[Question]]:
    """The questions of the bundled trace set, by split.

    Args:
        train_scale: how many times as many train questions, those of the bundled set among them,
            where a task and level has them.
    """
    sizes = {**SPLIT_SIZES, "train": tuple(n * train_scale for n in SPLIT_SIZES["train"])}
    return {split: draw_split(split, sizes[split]) for split in SPLITS}


def read_questions(path: Path, answers: str = UNSTATED) -> dict[str, list[Question]]:
    """Questions from a file that `envs.records` reads, by split.

    Columns: `question` and `reference`; optional `question_id`, `dataset`, `level`, `answers`
    (see `controller.answers`) and `split`. Without `split`, 70/10/20 by a hash of the wording,
    so that questions that differ in case and white space alone stay together.

    Args:
        path: of the file.
        answers: kind of answers of rows that name none.

    Raises:
        TraceFormatError: the file cannot be read, or a row lacks a column.
    """
    splits: dict[str, list[Question]] = {split: [] for split in SPLITS}
    for number, record in enumerate(read_records(path), start=1):
        row = record.row
        for column in ("question", "reference"):
            if not isinstance(row.get(column), str) or not row[column].strip():
                raise record.error(column, "text", row.get(column))
        split = row.get("split") or split_of(row["question"])
        if split not in splits:
            raise record.error("split", f"one of {list(SPLITS)}", split)
        splits[split].append(
            Question(
                question_id=str(row.get("question_id") or f"{path.stem}/{number:06d}"),
                text=row["question"],
                dataset=row.get("dataset") or path.stem,
                reference=row["reference"],
                level=row.get("level"),
                answers=_kind(row.get("answers"), answers, f"{path}, {record.place}"),
            )
        )
    return splits


def _kind(named: Any, otherwise: str, where: str) -> str:
    try:
        return answer_kind(str(named or otherwise)).name
    except ConfigError as error:
        raise TraceFormatError(f"{where}: {error}") from None


def wording_digest(question: str) -> bytes:
    """Eight bytes that stand for a wording, case and white space aside."""
    normal = " ".join(question.lower().split())
    return hashlib.blake2b(normal.encode(), digest_size=8).digest()


def split_of(question: str) -> str:
    """Split of a question by its wording, case and white space aside: 70/10/20."""
    position = int.from_bytes(wording_digest(question), "big") / 2**64
    return SPLITS[sum(position >= share for share in _SHARES)]
