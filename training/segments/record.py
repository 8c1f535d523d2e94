"""Records trees of segments: every continuation that a decision process may ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from controller.backends.local.segments import SegmentWriter
from controller.errors import ConfigError
from controller.process.types import ModelSpec, Question
from controller.segments.types import (
    Prefix,
    Segment,
    Segmentation,
    SegmentBackend,
    SegmentRequest,
)
from envs.questions.grader import Grader, KindGrader
from envs.segments.traces import (
    ESCALATE,
    KIND,
    PROMPT,
    SAMPLE,
    SEGMENT_SCHEMA,
    SEGMENT_TRACE_VERSION,
    TO_END,
)
from envs.traces.format import QUESTION_SCHEMA
from training.record.parts import WHOLE, Rows
from training.record.plans import Missing, question_row
from training.record.progress import Watch
from training.record.recording import Recording
from training.record.sources import Models
from training.segments.values import add_values


@dataclass(frozen=True, kw_only=True)
class TreeConfig:
    """How much to record of attempts as trees.

    Attributes:
        attempts: trees per question.
        draws: how often each segment is written, by the number of places before it where
            another draw than the first was taken.
        keep_text: whether to record what the segments say.
        shard_questions: questions per shard; what a kill can cost.
    """

    tables: ClassVar[Mapping[str, pa.Schema]] = {
        "questions": QUESTION_SCHEMA,
        "segments": SEGMENT_SCHEMA,
    }
    format: ClassVar[Mapping[str, Any]] = {"kind": KIND, "version": SEGMENT_TRACE_VERSION}
    extends: ClassVar[bool] = False

    attempts: int = 1
    draws: tuple[int, ...] = (3, 2, 1)
    keep_text: bool = False
    shard_questions: int = 64

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.shard_questions < 1 or not self.draws or min(self.draws) < 1:
            raise ConfigError(
                "segments: expected attempts, shard_questions and draws of at least 1, found "
                f"{self.attempts}, {self.shard_questions} and {self.draws}"
            )

    def wanted(self, models: Sequence[ModelSpec]) -> dict[str, int]:
        """All trees of a question at once."""
        return {WHOLE[0]: 1}

    def tier(self, rung: int) -> str:
        """Tier of the model on a rung."""
        return "large" if rung else "small"

    def shard_size(self, models: Sequence[ModelSpec]) -> int:
        """Questions per shard."""
        return self.shard_questions

    def complete(self, out: Path, speeds: Mapping[str, float]) -> dict[str, Any]:
        """Add the values of prefixes, in place of the hidden states that they are read from."""
        add_values(out, self.draws)
        return {}


@dataclass(eq=False)
class _Node:
    """A prefix in the tree of one attempt."""

    prefix: Prefix
    number: int
    before: _Node | None = None
    action: str = PROMPT
    draws: list[int] = field(default_factory=list)
    redone: int = 0
    escalated: bool = False
    forced: Segment | None = None


class SegmentRecorder:
    """Records shards of trees in this process, breadth first, those of a shard side by side.

    Args:
        backend: writes the segments; where its longest attempt is reached, nothing follows.
        grader: grades answers.
        config: how much to record.
    """

    def __init__(self, backend: SegmentBackend, grader: Grader, config: TreeConfig) -> None:
        self.models, self.backend, self.grader = backend.models, backend, grader
        self.config = config

    def record(self, todo: Sequence[Missing], add: Watch) -> None:
        """Record shards one after the other."""
        size = self.config.shard_questions
        for start in range(0, len(todo), size):
            add(self._record(todo[start : start + size]))

    def _record(self, shard: Sequence[Missing]) -> dict[str, Rows]:
        """Rows of questions, and a row per node as in `SEGMENT_SCHEMA`."""
        number = self.config.attempts
        prompts = self.backend.open([(m.question, i) for m in shard for i in range(number)])
        self._numbers = dict.fromkeys((m.question.question_id for m in shard), 0)
        level = [self._node(prompt) for prompt in prompts]
        rows: list[dict[str, Any]] = []
        while level:
            unfinished = [node for node in level if node.before and not node.prefix.done]
            forced = self.backend.force([node.prefix for node in unfinished])
            for node, answer in zip(unfinished, forced, strict=True):
                node.forced = answer
            rows += [self._row(node) for node in level]
            level = self._grown(level)
        described = [
            question_row(missing.question, missing.split, prompt.hidden)
            for missing, prompt in zip(shard, prompts[::number], strict=True)
        ]
        return {"questions": described, "segments": rows}

    def _node(self, prefix: Prefix, **more: Any) -> _Node:
        question = prefix.question.question_id
        self._numbers[question] += 1
        return _Node(prefix, self._numbers[question] - 1, **more)

    def _grown(self, level: Sequence[_Node]) -> list[_Node]:
        """The nodes after those of a level."""
        longest = self.models[0].max_new_tokens or 1
        asked = [
            (node, action, request)
            for node in level
            if not node.prefix.done and node.prefix.num_tokens < longest
            for action, request in self._requests(node)
        ]
        siblings: dict[tuple[int, str, str], _Node] = {}
        written = self.backend.write([request for _, _, request in asked])
        for (node, action, request), prefix in zip(asked, written, strict=True):
            assert prefix.segment is not None
            key = id(node), action, prefix.segment.text
            if key not in siblings:
                siblings[key] = self._node(
                    prefix,
                    before=node,
                    action=action,
                    redone=node.redone + (request.index > 0),
                    escalated=node.escalated or action != SAMPLE,
                )
            siblings[key].draws.append(request.index)
        return list(siblings.values())

    def _requests(self, node: _Node) -> list[tuple[str, SegmentRequest]]:
        draws = 1 if node.escalated else (*self.config.draws, 1)[node.redone]
        requests = [
            (SAMPLE, SegmentRequest(prefix=node.prefix, index=index)) for index in range(draws)
        ]
        large = len(self.models) - 1
        if large and not node.escalated and not node.redone:
            over = SegmentRequest(prefix=node.prefix, rung=large)
            end = SegmentRequest(prefix=node.prefix, rung=large, to_end=True)
            requests += [(ESCALATE, over), (TO_END, end)]
        return requests

    def _row(self, node: _Node) -> dict[str, Any]:
        prefix, segment = node.prefix, node.prefix.segment
        row: dict[str, Any] = {
            "question_id": prefix.question.question_id,
            "attempt": prefix.attempt,
            "node": node.number,
            "before": None if node.before is None else node.before.number,
            "action": node.action,
            "draws": node.draws,
            "prompt_tokens": list(prefix.prompt_tokens) if segment is None else None,
            "done": prefix.done,
            "value": prefix.value,
            "hidden": None if prefix.hidden is None else prefix.hidden.tolist(),
        }
        if segment is None:
            return row
        answer = (node.forced or segment).answer
        if node.forced is not None:
            row["forced_tokens"] = node.forced.num_tokens
        if self.config.keep_text:
            row["text"] = segment.text
        names = ("num_tokens", "small_tokens", "mean_logprob", "min_logprob", "entropy")
        return row | {
            **{name: getattr(segment, name) for name in names},
            "answer": answer,
            "correct": self.grader.is_right(prefix.question, answer),
        }


def record_trees(
    questions: Mapping[str, Sequence[Question]],
    source: Models,
    out: Path,
    config: TreeConfig,
    segmentation: Segmentation,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Record trees of local models.

    Args:
        questions: by split.
        source: of the models.
        out: directory of the trace set.
        config: how much to record.
        segmentation: where segments end.
        progress: called with the number of questions done.
    """
    backend = SegmentWriter(
        source.load(),
        seed=source.seed,
        temperature=source.temperature,
        segmentation=segmentation,
        max_new_tokens=source.max_new_tokens,
    )
    recorder = SegmentRecorder(backend, KindGrader(), config)

    def watch(recording: Recording) -> Watch:
        done = len(recording.plan.questions) - len(recording.missing())

        def see(rows: Mapping[str, Rows]) -> None:
            nonlocal done
            done += len(rows["questions"])
            progress(done)

        return see

    notes = source.notes(out) | {"segmentation": asdict(segmentation)}
    Recording(questions, recorder, out, notes).run(watch)
