"""Grows trees of segments: every continuation that a decision process may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from controller.errors import ConfigError
from controller.process.types import Question
from controller.segments.types import ForcedAnswer, Prefix, SegmentBackend, SegmentRequest
from envs.questions.grader import Grader
from envs.segments.traces import ESCALATE, PROMPT, SAMPLE, TO_END


@dataclass(frozen=True, kw_only=True)
class TreeConfig:
    """How much to record.

    Attributes:
        attempts: trees per question.
        draws: how often each segment is written, by the number of places before it where
            another draw than the first was taken.
        keep_text: whether to record what the segments say.
        shard_questions: questions per shard; what a kill can cost.
    """

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
    forced: ForcedAnswer | None = None


class TreeGrower:
    """Records trees of some questions, breadth first, all of them side by side.

    Args:
        backend: writes the segments.
        grader: grades answers.
        config: how much to record.
        max_tokens: longest attempt; where it is reached, nothing follows.
    """

    def __init__(
        self, backend: SegmentBackend, grader: Grader, config: TreeConfig, max_tokens: int
    ) -> None:
        self.backend, self.grader, self.config = backend, grader, config
        self.max_tokens = max_tokens
        self._large = len(backend.models) - 1

    def grow(self, questions: Sequence[Question]) -> tuple[list[Prefix], list[dict[str, Any]]]:
        """Prompts, one per question, and a row per node as in `SEGMENT_SCHEMA`."""
        attempts = [(q, number) for q in questions for number in range(self.config.attempts)]
        prompts = self.backend.open(attempts)
        self._numbers = dict.fromkeys((q.question_id for q in questions), 0)
        level = [_Node(prompt, self._next_number(prompt)) for prompt in prompts]
        rows: list[dict[str, Any]] = []
        while level:
            unfinished = [node for node in level if node.before and not node.prefix.done]
            forced = self.backend.force([node.prefix for node in unfinished])
            for node, answer in zip(unfinished, forced, strict=True):
                node.forced = answer
            rows += [self._row(node) for node in level]
            level = self._grown(level)
        return prompts[:: self.config.attempts], rows

    def _next_number(self, prefix: Prefix) -> int:
        question = prefix.question.question_id
        self._numbers[question] += 1
        return self._numbers[question] - 1

    def _grown(self, level: Sequence[_Node]) -> list[_Node]:
        """The nodes after those of a level."""
        asked = [
            (node, action, request)
            for node in level
            if not node.prefix.done and node.prefix.num_tokens < self.max_tokens
            for action, request in self._requests(node)
        ]
        found: list[_Node] = []
        siblings: dict[tuple[int, str, str], _Node] = {}
        written = self.backend.write([request for _, _, request in asked])
        for (node, action, request), prefix in zip(asked, written, strict=True):
            assert prefix.segment is not None
            key = id(node), action, prefix.segment.text
            if key not in siblings:
                siblings[key] = _Node(
                    prefix,
                    self._next_number(prefix),
                    node,
                    action,
                    redone=node.redone + (request.index > 0),
                    escalated=node.escalated or action != SAMPLE,
                )
                found.append(siblings[key])
            siblings[key].draws.append(request.index)
        return found

    def _requests(self, node: _Node) -> list[tuple[str, SegmentRequest]]:
        draws = 1 if node.escalated else (*self.config.draws, 1)[node.redone]
        requests = [
            (SAMPLE, SegmentRequest(prefix=node.prefix, index=index)) for index in range(draws)
        ]
        if self._large and not node.escalated and not node.redone:
            over = SegmentRequest(prefix=node.prefix, rung=self._large)
            end = SegmentRequest(prefix=node.prefix, rung=self._large, to_end=True)
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
        answer = self.backend.answer(prefix) if prefix.done else None
        if node.forced is not None:
            answer = node.forced.answer
            row["forced_tokens"] = node.forced.num_tokens
        if self.config.keep_text:
            row["text"] = segment.text
        names = ("num_tokens", "small_tokens", "mean_logprob", "min_logprob", "entropy")
        return row | {
            **{name: getattr(segment, name) for name in names},
            "answer": answer,
            "correct": self.grader.is_right(prefix.question, answer),
        }
