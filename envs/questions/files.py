"""Question sets: the bundled tasks, or a file of one's own; kinds of their answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from controller.answers import UNNAMED, UNSTATED, AnswerKind, answer_kind
from controller.bundled import bundled
from controller.errors import ConfigError, TraceFormatError
from controller.process.types import Question
from envs.records import read_records
from envs.traces.format import SPLITS, TraceSet
from envs.traces.logs import COLUMNS, read_cell

_SHARES = (0.7, 0.8)
_READ_AS = {name: name for name in ("question", "question_id", "dataset", "level", "split")}
_READ_AS |= {"reference": "answer"}
"""Columns of a file of questions, and those of an import that they are read like."""


def bundled_questions(train_scale: int = 1) -> dict[str, list[Question]]:
    """The bundled questions by split, with `train_scale` times as many to train on if there are."""
    traces = TraceSet.read(bundled("traces"))
    found: dict[str, list[Question]] = {split: [] for split in SPLITS}
    stored = stored_questions(traces.questions, traces.manifest)
    for question, split in zip(stored, traces.questions["split"].to_pylist(), strict=True):
        found[split].append(question)
    if train_scale > 1:
        from envs.questions.bundled import SPLIT_SIZES, draw_split

        sizes = [size * train_scale for size in SPLIT_SIZES["train"]]
        found["train"] = draw_split("train", sizes)
    return found


def read_questions(path: Path, answers: str = UNSTATED) -> dict[str, list[Question]]:
    """Questions from a file that `envs.records` reads, by split.

    Columns: `question` and `reference`; optional `question_id`, `dataset`, `level`, `answers`
    (see `controller.answers`; else as told) and `split`. Without `split`, 70/10/20 by a hash of the
    wording, so that questions that differ in case and white space alone stay together.

    Raises:
        TraceFormatError: the file cannot be read, or a row lacks a column.
    """
    splits: dict[str, list[Question]] = {split: [] for split in SPLITS}
    for number, record in enumerate(read_records(path), start=1):
        row = {
            name: read_cell(record, name, record.row[name], like)
            for name, like in _READ_AS.items()
            if record.row.get(name) not in (None, "") and record.row[name] == record.row[name]
        }
        for column in ("question", "reference"):
            if not row.get(column, "").strip():
                found = record.row.get(column, f"columns {[*record.row]}")
                raise record.error(column, COLUMNS[_READ_AS[column]].expected, found)
        splits[row.get("split") or split_of(row["question"])].append(
            Question(
                question_id=row.get("question_id") or f"{path.stem}/{number:06d}",
                text=row["question"],
                dataset=row.get("dataset") or path.stem,
                reference=row["reference"],
                level=row.get("level"),
                answers=_kind(record.row.get("answers") or answers, f"{path}, {record.place}").name,
            )
        )
    return splits


def _kind(name: Any, where: str) -> AnswerKind:
    try:
        return answer_kind(str(name))
    except ConfigError as error:
        raise TraceFormatError(f"{where}: {error}") from None


def kinds_of(manifest: Mapping[str, Any], datasets: Iterable[str]) -> list[AnswerKind]:
    """The kind of each question's answers by its data set, as `trace.json` says; else `exact`.

    Raises:
        TraceFormatError: an unknown kind, or a data set without one.
    """
    named = manifest.get("answers", UNNAMED)
    kinds: dict[str, AnswerKind] = {}
    datasets = list(datasets)
    for dataset in dict.fromkeys(datasets):
        name = named.get(dataset) if isinstance(named, Mapping) else named
        kinds[dataset] = _kind(name, f"trace.json, data set {dataset!r}")
    return [kinds[dataset] for dataset in datasets]


def stored_questions(table: pa.Table, manifest: Mapping[str, Any]) -> tuple[Question, ...]:
    """Questions of a trace set's table, their kinds of answers as `trace.json` says."""
    rows = table.select([n for n in table.column_names if n != "prompt_hidden"]).to_pylist()
    kinds = kinds_of(manifest, (row.get("dataset") or "" for row in rows))
    return tuple(
        Question(
            question_id=row["question_id"],
            text=row.get("question") or "",
            dataset=row.get("dataset") or "",
            reference=row.get("reference"),
            level=row.get("level"),
            answers=kind.name,
        )
        for row, kind in zip(rows, kinds, strict=True)
    )


def only_kind(manifest: Mapping[str, Any]) -> str:
    """The kind for further questions: the one that a trace set has, `auto` if there are several."""
    named = manifest.get("answers", UNNAMED)
    names = set(named.values()) if isinstance(named, Mapping) else {named}
    return str(names.pop()) if len(names) == 1 else UNSTATED


def noted_kinds(questions: Iterable[Question]) -> str | dict[str, str]:
    """What `trace.json` says of answers; raises ConfigError on two kinds in one data set."""
    found: dict[str, str] = {}
    for question in questions:
        name = question.answers or UNSTATED
        if found.setdefault(question.dataset, name) != name:
            raise ConfigError(
                f"answers: expected one kind in data set {question.dataset!r}, found "
                f"{found[question.dataset]} and {name}; give their rows different `dataset`s"
            )
    return found if len(set(found.values())) > 1 else next(iter(found.values()), UNSTATED)


@lru_cache(4096)
def wording_digest(question: str) -> bytes:
    """Eight bytes that stand for a wording, case and white space aside."""
    normal = " ".join(question.lower().split())
    return hashlib.blake2b(normal.encode(), digest_size=8).digest()


def split_of(question: str) -> str:
    """Split of a question by its wording, case and white space aside: 70/10/20."""
    position = int.from_bytes(wording_digest(question), "big") / 2**64
    return SPLITS[sum(position >= share for share in _SHARES)]
