"""What is to be recorded, and how a recording that is there goes on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from controller.errors import ConfigError
from controller.process.types import Question
from envs.questions.answer_kinds import kinds_of, noted_kinds
from envs.traces.format import (
    MANIFEST,
    QUESTION_SCHEMA,
    tables_digest,
    write_atomically,
    write_table,
)
from training.record.parts import Parts

_PLAN, _PLANNED = "plan.json", "planned.parquet"

_MAY_CHANGE = {
    "models",
    "recorded",
    "answers",
    "questions",
    "splits",
    "digest",
    "summary",
    "unfinished",
}
"""Notes of a trace set that an extended one may have otherwise."""

_MODELS_MAY_CHANGE = {"parameters", "path", "server"}
_MAY_GROW = {"samples", "escalations", "shard_questions"}

Asked = tuple[Question, str]
"""A question and its split."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be recorded.

    Attributes:
        questions: each with its split, in the order of the finished set.
        wanted: attempts per question by model.
        manifest: what `trace.json` says that is known beforehand.
    """

    questions: tuple[Asked, ...]
    wanted: Mapping[str, int]
    manifest: Mapping[str, Any]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for question, _ in self.questions:
            if question.reference is None:
                raise ConfigError(f"{question.question_id}: expected a reference to grade with")
            if question.question_id in seen:
                raise ConfigError(
                    f"question_id: expected no repeats, found {question.question_id!r} twice"
                )
            seen.add(question.question_id)
        if not seen:
            raise ConfigError("questions: expected at least one, found none")

    @classmethod
    def read(cls, parts: Parts) -> Plan:
        """The plan of an unfinished recording.

        Raises:
            ConfigError: there is none.
        """
        path = parts.work / _PLAN
        if not path.exists():
            raise ConfigError(f"{parts.out}: expected an unfinished recording there, found none")
        plan = json.loads(path.read_text())
        return cls(questions=_read_questions(parts.work / _PLANNED, plan["manifest"]), **plan)

    def write(self, parts: Parts) -> None:
        """Note what is to be recorded, so that it can be resumed or ended early."""
        parts.work.mkdir(parents=True, exist_ok=True)
        rows = [question_row(question, split) for question, split in self.questions]
        write_table(parts.work / _PLANNED, pa.Table.from_pylist(rows, schema=QUESTION_SCHEMA))
        text = json.dumps({"wanted": self.wanted, "manifest": self.manifest}, indent=1)
        write_atomically(parts.work / _PLAN, lambda path: path.write_text(text))

    def continued(self, parts: Parts) -> Plan:
        """This plan as the continuation of what is there.

        Questions that have been recorded and are not planned any more stay.

        Raises:
            ConfigError: what is there was recorded otherwise.
        """
        found = _found(parts)
        if found is None:
            return self
        manifest, stored = found
        _check_continues(manifest, json.loads(json.dumps(self.manifest)), parts.out)
        planned = {question.question_id: (question, split) for question, split in self.questions}
        held, more = parts.held(), []
        for question, split in stored:
            asked = planned.get(question.question_id)
            if asked is None and question.question_id in held:
                more.append((question, split))
            elif asked not in (None, (question, split)):
                raise ConfigError(
                    f"{parts.out}: expected to continue the recording there, asked for another "
                    f"question {question.question_id!r}; choose another directory"
                )
        questions = (*self.questions, *more)
        kinds = {"answers": noted_kinds(question for question, _ in questions)}
        return replace(self, questions=questions, manifest={**self.manifest, **kinds})

    def whole(self, held: Mapping[str, set[tuple[str, int]]]) -> list[Asked]:
        """Questions that have all of their attempts."""
        wanted = {(name, index) for name, count in self.wanted.items() for index in range(count)}
        nothing: set[tuple[str, int]] = set()
        return [
            (question, split)
            for question, split in self.questions
            if wanted <= held.get(question.question_id, nothing)
        ]

    def write_manifest(self, parts: Parts, whole: Sequence[Asked], more: Mapping[str, Any]) -> None:
        """Write `trace.json` about the whole questions, which makes the set valid."""
        manifest = {
            **self.manifest,
            "digest": tables_digest(parts.out, [f"{table}.parquet" for table in parts.schemas]),
            "questions": len(whole),
            "splits": dict(Counter(split for _, split in whole)),
            **more,
        }
        text = json.dumps(manifest, indent=1) + "\n"
        write_atomically(parts.out / MANIFEST, lambda path: path.write_text(text))


def question_row(question: Question, split: str, hidden: Any = None) -> dict[str, Any]:
    """A row of questions.parquet."""
    return {
        "question_id": question.question_id,
        "dataset": question.dataset,
        "level": question.level,
        "question": question.text,
        "reference": question.reference,
        "split": split,
        "prompt_hidden": None if hidden is None else hidden.tolist(),
    }


def spread(questions: Iterable[Asked]) -> list[Asked]:
    """Questions in an order whose every beginning has its share of each split, data set and level.

    >>> a, b = (Question(question_id=i, text=i, dataset=i[0]) for i in ("a1", "b1"))
    >>> c, d = (Question(question_id=i, text=i, dataset=i[0]) for i in ("a2", "b2"))
    >>> [q.question_id for q, _ in spread((q, "test") for q in (a, c, b, d))]
    ['a1', 'b1', 'a2', 'b2']
    """
    asked = list(questions)
    groups = [(split, question.dataset, question.level) for question, split in asked]
    sizes, seen, places = Counter(groups), Counter[Any](), []
    for group in groups:
        places.append((seen[group] + 0.5) / sizes[group])
        seen[group] += 1
    return [asked[i] for i in sorted(range(len(asked)), key=places.__getitem__)]


def _read_questions(path: Path, manifest: Mapping[str, Any]) -> tuple[Asked, ...]:
    """Questions of a table as `question_row` makes it, their kinds of answers as noted."""
    columns = [name for name in QUESTION_SCHEMA.names if name != "prompt_hidden"]
    rows = pq.read_table(path, columns=columns).to_pylist()
    kinds = kinds_of(manifest, [row["dataset"] for row in rows])
    return tuple(
        (
            Question(
                question_id=row["question_id"],
                text=row["question"],
                dataset=row["dataset"],
                reference=row["reference"],
                level=row["level"],
                answers=kind.name,
            ),
            row["split"],
        )
        for row, kind in zip(rows, kinds, strict=True)
    )


def _found(parts: Parts) -> tuple[Mapping[str, Any], tuple[Asked, ...]] | None:
    """Manifest and questions of the recording that is there, unfinished or finished."""
    if (parts.work / _PLAN).exists():
        plan = Plan.read(parts)
        return plan.manifest, plan.questions
    if not (parts.out / MANIFEST).exists():
        return None
    manifest = json.loads((parts.out / MANIFEST).read_text())
    if "recorded" not in manifest:
        raise ConfigError(
            f"{parts.out}: expected nothing there, or a recorded trace set to extend; choose "
            "another directory"
        )
    return manifest, _read_questions(parts.out / "questions.parquet", manifest)


def _check_continues(before: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    """Raise if attempts of two recordings would not be of one kind."""
    changed = [
        name
        for name in {**before, **now}
        if name not in _MAY_CHANGE and before.get(name) != now.get(name)
    ]
    for name, entry in before["models"].items():
        found = now["models"].get(name)
        changed += [
            f"{name}: {key}"
            for key, value in entry.items()
            if key not in _MODELS_MAY_CHANGE and (found or {}).get(key) != value
        ]
    changed += [
        name
        for name, value in before["recorded"].items()
        if name not in _MAY_GROW and now["recorded"].get(name) != value
    ]
    if changed:
        raise ConfigError(
            f"{out}: expected to continue the recording there, which may get more questions, "
            f"samples and models; asked for another {', '.join(changed)}; choose another directory"
        )
