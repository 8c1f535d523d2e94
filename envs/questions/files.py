"""Question sets: the bundled tasks, or a file of one's own."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from controller.answers import UNSTATED, answer_kind
from controller.errors import ConfigError, TraceFormatError
from controller.process.types import Question
from envs.questions.bundled import SPLIT_SIZES, draw_split

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
    """Questions from a JSONL, CSV or parquet file, by split.

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
    for number, row in enumerate(read_rows(path), start=1):
        for column in ("question", "reference"):
            if not isinstance(row.get(column), str) or not row[column].strip():
                raise TraceFormatError(
                    f"{path}, row {number}: expected text in column {column!r}, found "
                    f"{row.get(column)!r}"
                )
        split = row.get("split") or split_of(row["question"])
        if split not in splits:
            raise TraceFormatError(
                f"{path}, row {number}: expected split to be one of {list(SPLITS)}, found {split!r}"
            )
        splits[split].append(
            Question(
                question_id=str(row.get("question_id") or f"{path.stem}/{number:06d}"),
                text=row["question"],
                dataset=row.get("dataset") or path.stem,
                reference=row["reference"],
                level=row.get("level"),
                answers=_kind(row.get("answers"), answers, f"{path}, row {number}"),
            )
        )
    return splits


def _kind(named: Any, otherwise: str, where: str) -> str:
    try:
        return answer_kind(str(named or otherwise)).name
    except ConfigError as error:
        raise TraceFormatError(f"{where}: {error}") from None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL, CSV or parquet file, by column.

    Raises:
        TraceFormatError: the file is missing or something else.
    """
    if not path.exists():
        raise TraceFormatError(f"{path}: expected a JSONL, CSV or parquet file, found none")
    try:
        if path.suffix == ".parquet":
            rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                rows = [{k: v or None for k, v in row.items()} for row in csv.DictReader(file)]
        else:
            rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except (json.JSONDecodeError, UnicodeDecodeError, csv.Error, pa.ArrowInvalid) as error:
        raise TraceFormatError(f"{path}: expected JSONL, CSV or parquet: {error}") from None
    if not all(isinstance(row, dict) for row in rows):
        raise TraceFormatError(f"{path}: expected one object per line")
    return rows


def wording_digest(question: str) -> bytes:
    """Eight bytes that stand for a wording, case and white space aside."""
    normal = " ".join(question.lower().split())
    return hashlib.blake2b(normal.encode(), digest_size=8).digest()


def split_of(question: str) -> str:
    """Split of a question by its wording, case and white space aside: 70/10/20."""
    position = int.from_bytes(wording_digest(question), "big") / 2**64
    return SPLITS[sum(position >= share for share in _SHARES)]
