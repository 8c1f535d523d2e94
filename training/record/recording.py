"""Records what language models really wrote, as a trace set.

A recording is what was planned, and the parts of it that are on disk. Whatever it lacks is asked
of the models; what they write is on disk within a minute. So a recording that is killed at any
moment goes on, a finished one can be extended, and one that takes too long can be finished early.
An attempt follows from its question, its number and the seed: it does not matter who records it,
when, or after what.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from controller.answers import UNSTATED
from controller.errors import ConfigError
from controller.process.actions import ActionKind
from controller.process.types import ModelSpec, Question
from envs.questions.answer_kinds import noted_kinds
from envs.traces.format import ATTEMPT_SCHEMA, QUESTION_SCHEMA, TRACE_VERSION
from training.record.parts import PART_S, Parts, Rows, locked
from training.record.plans import Plan, question_row, spread
from training.record.progress import Watch, summary

TABLES: Mapping[str, pa.Schema] = {"questions": QUESTION_SCHEMA, "attempts": ATTEMPT_SCHEMA}
"""Of a trace set."""

_HEAVY = 2**24
"""Parameters from which on a question takes a model a while."""


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """How much to record.

    Attributes:
        samples: attempts per question by each small model.
        escalations: attempts per question by each large model.
        smalls: how many models are small; those that come first.
        revised_samples: how many samples of the first model are revised.
        revision_depth: revisions of each of them, every one of the last.
        shard_questions: questions that local models, or a worker, answer side by side; None for
            128, or 8 where a model has more than 16 million parameters.
    """

    samples: int = 16
    escalations: int = 2
    smalls: int = 1
    revised_samples: int = 0
    revision_depth: int = 4
    shard_questions: int | None = None

    def __post_init__(self) -> None:
        if min(self.samples, self.smalls, self.shard_questions or 1) < 1 or self.escalations < 0:
            raise ConfigError(
                "record: expected samples, smalls and shard_questions of at least 1 and "
                f"escalations of at least 0, found {self.samples}, {self.smalls}, "
                f"{self.shard_questions} and {self.escalations}"
            )
        if not 0 <= self.revised_samples <= self.samples:
            raise ConfigError(
                f"revised_samples: expected 0..{self.samples}, found {self.revised_samples}"
            )

    def tier(self, rung: int) -> str:
        """Tier of the model on a rung."""
        return "small" if rung < self.smalls else "large"

    def action(self, rung: int) -> ActionKind:
        """How the model on a rung is asked."""
        return ActionKind.SAMPLE if rung < self.smalls else ActionKind.ESCALATE

    def attempts_by(self, rung: int) -> int:
        """Attempts per question, revisions aside."""
        return self.samples if rung < self.smalls else self.escalations

    def is_revised(self, rung: int, index: int) -> bool:
        """Whether an attempt of that index by the model on a rung is revised."""
        return rung == 0 and index < self.revised_samples


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What a recording lacks of one question: indices of attempts by model, and maybe its row."""

    question: Question
    split: str
    indices: Mapping[str, tuple[int, ...]]
    described: bool = False


class Recorder(Protocol):
    """Records what is missing, here or elsewhere."""

    config: RecordConfig

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """All models, the small ones first."""

    def record(self, todo: Sequence[Missing], add: Watch) -> None:
        """Record what is missing, more or less in order."""


class Source(Protocol):
    """Describes who records."""

    def recorder(self, config: RecordConfig) -> Recorder:
        """The recorder itself, with its models in memory."""

    def notes(self, models: Sequence[ModelSpec], out: Path) -> dict[str, Any]:
        """What `trace.json` says about it, seen from the directory of the trace set."""


class Recording:
    """One recording: begun, resumed or extended.

    Args:
        questions: by split.
        recorder: records them.
        out: directory of the trace set.
        notes: added to `trace.json` (decoding settings, licence); `model_paths` and `servers` say
            where models are, by name.
    """

    schemas: Mapping[str, pa.Schema] = TABLES

    def __init__(
        self,
        questions: Mapping[str, Sequence[Question]],
        recorder: Recorder,
        out: Path,
        notes: Mapping[str, Any],
    ) -> None:
        self.recorder, self.out = recorder, out
        self.parts = Parts(out, self.schemas)
        self.speeds: dict[str, float] = {}
        asked = tuple(
            (replace(question, answers=question.answers or UNSTATED), split)
            for split, members in questions.items()
            for question in members
        )
        kinds = {"answers": noted_kinds(question for question, _ in asked)}
        self.plan = Plan(
            questions=asked, wanted=self._wanted(), manifest=self._manifest(notes) | kinds
        )

    def _wanted(self) -> dict[str, int]:
        models, attempts_by = self.recorder.models, self.recorder.config.attempts_by
        return {model.name: attempts_by(rung) for rung, model in enumerate(models)}

    def _tier(self, rung: int) -> str:
        return self.recorder.config.tier(rung)

    def _manifest(self, notes: Mapping[str, Any]) -> dict[str, Any]:
        """What `trace.json` says that is known beforehand."""
        models = enumerate(self.recorder.models)
        return {
            "version": TRACE_VERSION,
            "models": {m.name: _model_entry(m, self._tier(rung), notes) for rung, m in models},
            "recorded": asdict(self.recorder.config),
            **{k: note for k, note in notes.items() if k not in ("model_paths", "servers")},
        }

    def run(self, progress: Callable[[Recording], Watch] | None = None) -> None:
        """Record what is missing, which `progress` is shown, then write the trace set.

        Raises:
            ConfigError: `out` holds something that this recording does not continue, or another
                process records there.
        """
        with locked(self.out):
            self.plan = self.plan.continued(self.parts)
            missing = self.missing()
            if not missing and not self.parts.work.exists():
                return
            self.plan.write(self.parts)
            try:
                watch = progress(self) if progress else lambda rows: None
                self.recorder.record(missing, self._adder(watch))
            finally:
                self.parts.flush()
            write_set(self.plan, self.parts, self._complete)

    def _adder(self, watch: Watch) -> Watch:
        per_question = sum(self.plan.wanted.values())
        most = per_question * shard_size(self.recorder)
        started, tokens = time.monotonic(), Counter[str]()

        def add(rows: Mapping[str, Rows]) -> None:
            self.parts.add(rows)
            if self.parts.pending >= most or self.parts.pending_s >= PART_S:
                self.parts.flush()
            for row in rows.get("attempts", ()):
                tokens[row["model"]] += row["completion_tokens"]
            seconds = time.monotonic() - started
            self.speeds.update({model: count / seconds for model, count in tokens.items()})
            watch(rows)

        return add

    def counts(self) -> tuple[int, int]:
        """Attempts that are wanted, and those of them that are missing; revisions aside."""
        wanted = len(self.plan.questions) * sum(self.plan.wanted.values())
        return wanted, sum(len(i) for m in self.missing() for i in m.indices.values())

    def missing(self) -> list[Missing]:
        """What is not on disk yet, spread over splits, data sets and levels."""
        held, described = self.parts.held(), self.parts.held_questions()
        found = []
        for question, split in spread(self.plan.questions):
            own = held.get(question.question_id, set())
            lacking = {
                name: tuple(index for index in range(count) if (name, index) not in own)
                for name, count in self.plan.wanted.items()
            }
            missing = Missing(
                question=question,
                split=split,
                indices={name: indices for name, indices in lacking.items() if indices},
                described=question.question_id in described,
            )
            if missing.indices:
                found.append(missing)
        return found

    def _complete(self) -> dict[str, Any]:
        """What is left to do once the tables are whole."""
        return {"summary": summary(self.out, self.speeds)}


def shard_size(recorder: Recorder) -> int:
    """Questions that local models, or a worker, answer side by side."""
    heavy = max((model.parameters or 0 for model in recorder.models), default=0) > _HEAVY
    return recorder.config.shard_questions or (8 if heavy else 128)


def finish(out: Path) -> None:
    """End a recording early: a set of the questions that have all of their attempts.

    What other questions have stays aside, for the recording to be continued some time.

    Raises:
        ConfigError: there is no unfinished recording, or not one question is whole.
    """
    parts = Parts(out, TABLES)
    with locked(out):
        write_set(Plan.read(parts), parts, lambda: {"summary": summary(out)})


def write_set(
    plan: Plan, parts: Parts, complete: Callable[[], dict[str, Any]] = lambda: {}
) -> None:
    """Put the parts together; trace.json, written last, makes the set valid.

    `complete` is called once the tables are whole, and returns further notes.

    Raises:
        ConfigError: not one question has all of its attempts.
    """
    whole = plan.whole(parts.held())
    if not whole:
        raise ConfigError(
            f"{parts.out}: expected a question with all of its attempts, found none yet; record "
            "for longer, or ask for less"
        )
    described = parts.held_questions()
    rows = [question_row(q, split) for q, split in whole if q.question_id not in described]
    parts.add({"questions": rows})
    parts.flush()
    places = {question.question_id: place for place, (question, _) in enumerate(whole)}
    models = {name: place for place, name in enumerate(plan.wanted)}
    left = set()
    for table in parts.schemas:
        order, others = _ordered(parts, table, places, models)
        if others:
            left.add(parts.next_path(table))
            parts.write(parts.next_path(table), table, others)
        parts.write(parts.out / f"{table}.parquet", table, order)
    notes = complete()
    unfinished = len(plan.questions) - len(whole)
    plan.write_manifest(parts, whole, notes | ({"unfinished": unfinished} if unfinished else {}))
    parts.clear(left)


def _ordered(
    parts: Parts, table: str, places: Mapping[str, int], models: Mapping[str, int]
) -> tuple[list[int], list[int]]:
    """Rows of a table that belong into a set, and all others.

    The first are ordered by the `places` of their questions, then by the places of `models`, then
    by index, revisions last.
    """
    known = {"question_id", "attempt_id", "model", "index"} & {*parts.schemas[table].names}
    columns = parts.read(table, sorted(known))
    questions = columns["question_id"]
    kept = [row for row, question in enumerate(questions) if question in places]
    others = [row for row, question in enumerate(questions) if question not in places]
    if "attempt_id" not in columns:
        if table == "questions":  # a kill while the set was written may have left a row twice
            kept = list({questions[row]: row for row in kept}.values())
        return sorted(kept, key=lambda row: places[questions[row]]), others
    ids, by, index = (columns[name] for name in ("attempt_id", "model", "index"))

    def key(row: int) -> tuple[Any, ...]:
        root, *revisions = ids[row].split(">")
        number = int(root.rpartition(":")[2]) if revisions else index[row]
        return places[questions[row]], len(revisions), models.get(by[row], -1), number, ids[row]

    return sorted({(questions[row], ids[row]): row for row in kept}.values(), key=key), others


def _model_entry(model: ModelSpec, tier: str, notes: Mapping[str, Any]) -> dict[str, Any]:
    paths, server = notes.get("model_paths", {}), notes.get("servers", {}).get(model.name)
    return {
        "tier": tier,
        "parameters": model.parameters,
        "max_new_tokens": model.max_new_tokens,
        "digest": model.digest,
        "path": paths.get(model.name),
        **({"server": server} if server else {}),
        **({"prompt": list(model.prompt)} if model.prompt else {}),
        "adapters": {
            adapter.name: {
                "parameters": adapter.parameters,
                "digest": adapter.digest,
                "path": paths.get(adapter.name),
            }
            for adapter in model.adapters
        },
    }
