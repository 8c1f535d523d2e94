"""Records what language models really wrote, as a trace set.

Recording proceeds shard by shard. A shard is on disk whole or not at all, so a
recording that is killed at any moment goes on with the shards that are missing. What a
shard holds follows from its questions and the backend's seed: it does not matter who
records it, when, or after what.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from controller.actions import ActionKind
from controller.backends.base import Backend, PromptState, Request
from controller.errors import ConfigError
from controller.types import Attempt, ModelSpec, Question
from envs.answer_kinds import noted_kinds
from envs.grader import Grader
from envs.traces import (
    ATTEMPT_SCHEMA,
    QUESTION_SCHEMA,
    TRACE_VERSION,
    merge_tables,
    tables_digest,
    write_atomically,
    write_table,
)

_WORK = "recording"


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """How much to record.

    Attributes:
        samples: small attempts per question.
        escalations: attempts per question and rung above the small model.
        revised_samples: how many of the samples are revised.
        revision_depth: revisions of each of them, every one of the last.
        shard_questions: questions per shard; what a kill can cost.
    """

    samples: int = 16
    escalations: int = 2
    revised_samples: int = 0
    revision_depth: int = 4
    shard_questions: int = 128

    def __post_init__(self) -> None:
        if self.samples < 1 or self.escalations < 0 or self.shard_questions < 1:
            raise ConfigError(
                "record: expected samples >= 1, escalations >= 0 and shard_questions >= 1, found "
                f"{self.samples}, {self.escalations} and {self.shard_questions}"
            )
        if not 0 <= self.revised_samples <= self.samples:
            raise ConfigError(
                f"revised_samples: expected 0..{self.samples}, found {self.revised_samples}"
            )


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Questions that are recorded together.

    Attributes:
        number: place among all shards.
        questions: each with its split.
    """

    number: int
    questions: Sequence[tuple[Question, str]]


@dataclass(frozen=True, kw_only=True)
class RecordedShard:
    """A shard's rows of the tables of a trace set, by the tables' names."""

    number: int
    tables: Mapping[str, pa.Table]


class Recorder(Protocol):
    """Records shards, here or elsewhere."""

    config: RecordConfig

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """One model per rung, the small one first."""
        ...

    def record(self, shards: Iterable[Shard]) -> Iterator[RecordedShard]:
        """Record shards, in any order."""
        ...


class Recording:
    """One recording, begun or resumed.

    Args:
        questions: by split.
        recorder: records them; `LocalRecorder` does so with any backend.
        out: directory of the trace set.
        notes: added to `trace.json` (decoding settings, licence, paths of models).
    """

    tables = ("questions", "attempts")
    """Tables of the set; a shard is there once its last one is."""

    def __init__(
        self,
        questions: Mapping[str, Sequence[Question]],
        recorder: Recorder,
        out: Path,
        notes: Mapping[str, Any],
    ) -> None:
        self.questions = [(q, split) for split, members in questions.items() for q in members]
        self._check_questions()
        self.recorder, self.config, self.out = recorder, recorder.config, out
        self.notes = notes
        self._work = out / _WORK

    def _check_questions(self) -> None:
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

    @property
    def num_shards(self) -> int:
        """Shards in all."""
        return -(-len(self.questions) // self.config.shard_questions)

    def run(self, progress: Callable[[int], None] | None = None) -> None:
        """Record what is missing, then write the trace set.

        Args:
            progress: called with the number of questions done.

        Raises:
            ConfigError: `out` holds another recording, or a finished trace set.
        """
        if (self.out / "trace.json").exists():
            raise ConfigError(
                f"{self.out}: expected no trace set there yet; choose another directory"
            )
        self._work.mkdir(parents=True, exist_ok=True)
        self._check_plan()
        missing = list(self._missing())
        done = len(self.questions) - sum(len(shard.questions) for shard in missing)
        report = progress or (lambda done: None)
        report(done)
        for recorded in self.recorder.record(missing):
            for table in self.tables:
                write_table(self._path(table, recorded.number), recorded.tables[table])
            done += recorded.tables["questions"].num_rows
            report(done)
        self._finish()

    def _missing(self) -> Iterator[Shard]:
        size = self.config.shard_questions
        for number in range(self.num_shards):
            if not self._path(self.tables[-1], number).exists():
                questions = self.questions[number * size : (number + 1) * size]
                yield Shard(number=number, questions=questions)

    def _check_plan(self) -> None:
        """A half-done recording is only continued by the same recording."""
        identity = hashlib.sha256()
        for question, split in self.questions:
            identity.update(f"{question}{split}".encode())
        plan = {
            "config": asdict(self.config),
            "models": [asdict(model) for model in self.recorder.models],
            "questions": identity.hexdigest(),
            "notes": self.notes,
        }
        plan = json.loads(json.dumps(plan))
        path = self._work / "plan.json"
        if not path.exists():
            write_atomically(path, lambda p: p.write_text(json.dumps(plan, indent=1)))
        elif json.loads(path.read_text()) != plan:
            raise ConfigError(
                f"{self.out}: expected to continue the recording described in {path}, asked for "
                "other questions, models or settings; choose another directory"
            )

    def _path(self, table: str, shard: int) -> Path:
        return self._work / f"{table}-{shard:05d}.parquet"

    def _finish(self) -> None:
        """Put the shards together; trace.json, written last, makes the set valid."""
        for table in self.tables:
            shards = (self._path(table, shard) for shard in range(self.num_shards))
            merge_tables(shards, self.out / f"{table}.parquet")
        self._complete()
        write_atomically(
            self.out / "trace.json",
            lambda path: path.write_text(json.dumps(self._manifest(), indent=1) + "\n"),
        )
        shutil.rmtree(self._work)

    def _complete(self) -> None:
        """What is left to do once the tables are whole: nothing."""

    def _manifest(self) -> dict[str, Any]:
        splits: dict[str, int] = {}
        for _, split in self.questions:
            splits[split] = splits.get(split, 0) + 1
        paths = self.notes.get("model_paths", {})
        return {
            "version": TRACE_VERSION,
            "digest": tables_digest(self.out, [f"{table}.parquet" for table in self.tables]),
            "models": {
                model.name: {
                    "tier": model.tier,
                    "parameters": model.parameters,
                    "max_new_tokens": model.max_new_tokens,
                    "digest": model.digest,
                    "path": paths.get(model.name),
                    "adapters": {
                        adapter.name: {
                            "parameters": adapter.parameters,
                            "digest": adapter.digest,
                            "path": paths.get(adapter.name),
                        }
                        for adapter in model.adapters
                    },
                }
                for model in self.recorder.models
            },
            "recorded": asdict(self.config),
            "answers": noted_kinds(question for question, _ in self.questions),
            "questions": len(self.questions),
            "splits": splits,
            **{name: note for name, note in self.notes.items() if name != "model_paths"},
        }


class LocalRecorder:
    """Records shards in this process.

    Args:
        backend: makes the attempts.
        grader: grades them.
        config: how much to record.
    """

    def __init__(self, backend: Backend, grader: Grader, config: RecordConfig) -> None:
        self.backend, self.grader, self.config = backend, grader, config

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """The backend's."""
        return self.backend.models

    def record(self, shards: Iterable[Shard]) -> Iterator[RecordedShard]:
        """Record shards one after the other."""
        return map(self.record_shard, shards)

    def record_shard(self, shard: Shard) -> RecordedShard:
        """Record one shard."""
        questions = shard.questions
        states = self.backend.prompt_states([q for q, _ in questions], hidden=True)
        requests = [r for question, _ in questions for r in self._requests(question)]
        attempts = self.backend.attempts(requests)
        by_id = {question.question_id: question for question, _ in questions}
        parents = [
            attempt
            for request, attempt in zip(requests, attempts, strict=True)
            if request.action is ActionKind.SAMPLE and request.index < self.config.revised_samples
        ]
        for _ in range(self.config.revision_depth):
            parents = self.backend.attempts(
                [
                    Request(question=by_id[p.question_id], action=ActionKind.REVISE, parent=p)
                    for p in parents
                    if p.error is None
                ]
            )
            attempts += parents
        attempts = self._verified(by_id, attempts)
        rows = [self._attempt_row(by_id[a.question_id], a) for a in attempts]
        question_rows = [
            question_row(q, split, state)
            for (q, split), state in zip(questions, states, strict=True)
        ]
        return RecordedShard(
            number=shard.number,
            tables={
                "questions": pa.Table.from_pylist(question_rows, schema=QUESTION_SCHEMA),
                "attempts": pa.Table.from_pylist(rows, schema=ATTEMPT_SCHEMA),
            },
        )

    def _verified(
        self, questions: Mapping[str, Question], attempts: list[Attempt]
    ) -> list[Attempt]:
        places = [i for i, attempt in enumerate(attempts) if self.backend.can_verify(attempt)]
        pairs = [(questions[attempts[i].question_id], attempts[i]) for i in places]
        scores = self.backend.verify(pairs).scores if pairs else ()
        for i, score in zip(places, scores, strict=True):
            attempts[i] = replace(attempts[i], verifier_score=score)
        return attempts

    def _requests(self, question: Question) -> Iterable[Request]:
        for index in range(self.config.samples):
            yield Request(question=question, action=ActionKind.SAMPLE, index=index)
        for rung in range(1, len(self.backend.models)):
            for index in range(self.config.escalations):
                yield Request(question=question, action=ActionKind.ESCALATE, rung=rung, index=index)

    def _attempt_row(self, question: Question, attempt: Attempt) -> dict[str, Any]:
        return {
            **{name: getattr(attempt, name, None) for name in ATTEMPT_SCHEMA.names},
            "cached_tokens": attempt.usage.cached_tokens,
            "seconds": attempt.usage.wall_s,
            "tier": self.backend.models[attempt.rung].tier,
            "action": attempt.action.value,
            "correct": self.grader.is_right(question, attempt.answer),
        }


def question_row(question: Question, split: str, state: PromptState) -> dict[str, Any]:
    """A row of questions.parquet."""
    return {
        "question_id": question.question_id,
        "dataset": question.dataset,
        "level": question.level,
        "question": question.text,
        "reference": question.reference,
        "split": split,
        "prompt_hidden": None if state.hidden is None else state.hidden.tolist(),
    }
