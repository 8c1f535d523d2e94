"""What is to be recorded, and how a recording that is there goes on."""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from controller.backends.prompts import REVISER
from controller.errors import ConfigError
from controller.files import write_json
from controller.process.types import Attempt, Question
from envs.questions.files import noted_kinds, stored_questions
from envs.traces.format import MANIFEST, QUESTION_SCHEMA, read_manifest, write_table
from training.record.parts import Parts

_PLAN, _PLANNED = "plan.json", "planned.parquet"

_MAY_CHANGE = {
    *("models", "recorded", "answers", "questions"),
    *("splits", "digest", "summary", "unfinished"),
}
"""Notes of a trace set that an extended one may have otherwise."""

_MODELS_MAY_CHANGE = {"parameters", "path", "server", "revises", "verifies"}
_MAY_GROW = {"smalls", "samples", "escalations", "shard_questions", "revisers", "verifier"}

Asked = tuple[Question, str]
"""A question and its split."""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What a recording lacks of one question.

    Attributes:
        question: which.
        split: its split.
        indices: of attempts, by model.
        parents: attempts to be revised, by the model that revises; or to be judged.
        verifies: whether they are to be judged.
        described: whether its own row is there.
    """

    question: Question
    split: str
    indices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    parents: Mapping[str, tuple[Attempt, ...]] = field(default_factory=dict)
    verifies: bool = False
    described: bool = False

    def of(self, model: str) -> tuple[int | Attempt, ...]:
        """What one model is to do: attempts by index, and attempts to be revised or judged."""
        return (*self.indices.get(model, ()), *self.parents.get(model, ()))

    def count(self, models: Iterable[str] | None = None) -> int:
        """Attempts that are missing, by all models or some."""
        every = {*self.indices, *self.parents} if models is None else models
        return sum(len(self.of(model)) for model in every)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Questions, each with its split, attempts wanted by model, and what `trace.json` will say."""

    questions: tuple[Asked, ...]
    wanted: Mapping[str, int]
    manifest: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.questions:
            raise ConfigError("questions: expected at least one, found none")
        for question, _ in self.questions:
            if question.reference is None:
                raise ConfigError(f"{question.question_id}: expected a reference to grade with")
        ids = Counter(question.question_id for question, _ in self.questions)
        ((most, count),) = ids.most_common(1)
        if count > 1:
            raise ConfigError(f"question_id: expected no repeats, found {most!r} twice")

    @classmethod
    def read(cls, parts: Parts) -> Plan:
        """The plan of an unfinished recording; raises ConfigError if there is none."""
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
        write_json(parts.work / _PLAN, {"wanted": self.wanted, "manifest": self.manifest})

    def continued(self, parts: Parts) -> Plan:
        """This plan as the continuation of what is there.

        Questions that have been recorded and are not planned any more stay.

        Raises:
            ConfigError: what is there was recorded otherwise.
        """
        manifest = _begun(parts)
        if manifest is None:
            return self
        begun = (parts.work / _PLAN).exists()
        path = parts.work / _PLANNED if begun else parts.out / "questions.parquet"
        stored = _read_questions(path, manifest)
        _check_continues(manifest, json.loads(json.dumps(self.manifest)), parts.out)
        planned = {asked[0].question_id: asked for asked in self.questions}
        held, more = parts.held(), []
        for asked in stored:
            question_id = asked[0].question_id
            if question_id not in planned and question_id in held:
                more.append(asked)
            elif planned.get(question_id, asked) != asked:
                raise ConfigError(
                    f"{parts.out}: expected to continue the recording there, asked for another "
                    f"question {question_id!r}; choose another directory"
                )
        questions = (*self.questions, *more)
        kinds = {"answers": noted_kinds(question for question, _ in questions)}
        return replace(self, questions=questions, manifest={**self.manifest, **kinds})

    @property
    def revisers(self) -> tuple[str, ...]:
        """Models that revise attempts of all."""
        entries = self.manifest.get("models", {})
        return tuple(name for name in self.wanted if entries.get(name, {}).get("revises"))

    @property
    def verifier(self) -> str | None:
        """The model that judges attempts of all."""
        return _verifier(self.manifest)

    def missing(self, parts: Parts) -> list[Missing]:
        """What is not on disk yet, revisions and judgements aside."""
        held, described = parts.held(), parts.described()

        def lacking(name: str) -> dict[str, Any]:
            own = held.get(name, set())
            indices = {
                model: tuple(index for index in range(count) if (model, index) not in own)
                for model, count in self.wanted.items()
            }
            return {"indices": indices, "described": name in described}

        return self._lacking(lacking)

    def unrevised(self, parts: Parts, known: Sequence[Path] = ()) -> list[Missing]:
        """Revisions that are not on disk, of attempts that are, but in no `known` file."""
        if not self.revisers:
            return []
        parents = parts.parents(self.manifest["recorded"]["revised_samples"], known)
        rungs = {model: rung for rung, model in enumerate(self.wanted)}

        def lacking(name: str) -> dict[str, Any]:
            held = [(replace(a, rung=rungs[a.model]), by) for a, by in parents.get(name, ())]
            left = {r: tuple(a for a, by in held if r not in by) for r in self.revisers}
            return {"parents": left, "described": True}

        return self._lacking(lacking)

    def unscored(self, parts: Parts, known: Sequence[Path] = ()) -> list[Missing]:
        """Judgements that are not on disk; as `unrevised`."""
        judge = self.verifier
        if judge is None:
            return []
        left = parts.unscored(known)
        more = {"verifies": True, "described": True}
        return self._lacking(lambda name: {"parents": {judge: tuple(left.get(name, ()))}, **more})

    def _lacking(self, told: Callable[[str], dict[str, Any]]) -> list[Missing]:
        """What is told of questions by id, spread over splits, data sets and levels."""
        asked = spread(self.questions)
        found = (Missing(question=q, split=split, **told(q.question_id)) for q, split in asked)
        return [missing for missing in found if missing.count()]


def question_row(
    question: Question, split: str | None = None, hidden: Any = None
) -> dict[str, Any]:
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
    """Questions of a table as `question_row` makes it."""
    table = pq.read_table(path)
    return (*zip(stored_questions(table, manifest), table["split"].to_pylist(), strict=True),)


def check_begun(out: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse what cannot go on in a directory whatever its models are: before these are loaded.

    Raises:
        ConfigError: what is there was recorded otherwise.
    """
    before = _begun(Parts(out))
    if before is not None:
        _check_continues({**before, "models": {}}, json.loads(json.dumps(manifest)), out)


def _begun(parts: Parts) -> dict[str, Any] | None:
    """The notes of what a directory holds; None where it holds nothing."""
    if (parts.work / _PLAN).exists():
        return json.loads((parts.work / _PLAN).read_text())["manifest"]
    if not (parts.out / MANIFEST).exists():
        return None
    manifest = read_manifest(parts.out, "a trace set")
    if "recorded" not in manifest:
        raise ConfigError(
            f"{parts.out}: expected nothing there, or a recorded trace set to extend; choose "
            "another directory"
        )
    return manifest


def _verifier(manifest: Mapping[str, Any]) -> str | None:
    models = manifest.get("models", {})
    return next((name for name, entry in models.items() if entry.get("verifies")), None)


def _check_continues(before: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    """Raise if attempts of two recordings would not be of one kind."""
    revises = any(entry.get("revises") for entry in now["models"].values())

    def fixed(manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Notes that attempts recorded `before` depend on; those that name nothing are left out."""
        notes = {name: note for name, note in manifest.items() if name not in _MAY_CHANGE}
        for name, then in before["models"].items():
            entry = dict(manifest["models"].get(name, {}))
            if revises and REVISER not in then.get("adapters", {}):
                others = {k: v for k, v in entry.get("adapters", {}).items() if k != REVISER}
                entry["adapters"] = others
            notes |= {f"{name}: {k}": v for k, v in entry.items() if k not in _MODELS_MAY_CHANGE}
        held = set(before["recorded"]) - _MAY_GROW
        if revises:
            held -= {"revised_samples"}
        if _verifier(before):
            notes["verifies"] = _verifier(manifest)
        return notes | {name: manifest["recorded"].get(name) for name in sorted(held)}

    changed = ", ".join(_differences(fixed(before), fixed(now)))
    if changed:
        raise ConfigError(
            f"{out}: expected to continue the recording there, which may get more questions, "
            f"samples and models; asked for another {changed}; choose another directory"
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs, by its innermost name, as in `temperature (0.5 instead of 0.7)`."""
    for name in {**before, **now}:
        then, asked = before.get(name), now.get(name)
        if isinstance(then, Mapping) and isinstance(asked, Mapping):
            yield from _differences(then, asked)
        elif then != asked:
            yield f"{name} ({reprlib.repr(asked)} instead of {reprlib.repr(then)})"
