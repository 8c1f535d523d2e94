"""Recorded trees behind the interface of a live backend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from controller.cost import Usage
from controller.errors import BackendError
from controller.segments.types import (
    ForcedAnswer,
    Prefix,
    Segment,
    Segmentation,
    SegmentRequest,
)
from controller.types import ModelSpec, Question
from envs.recorded import Recorded, recorded_grader, recorded_questions
from envs.segments.table import SegmentTable
from envs.segments.traces import SegmentTraces


class RecordedSegments:
    """`SegmentBackend` over recorded trees.

    Args:
        traces: the set.
        table: some of its trees, as arrays.

    Attributes:
        keeps_text: whether the set tells what segments say; a number stands for them if not.
    """

    def __init__(self, traces: SegmentTraces, table: SegmentTable) -> None:
        self.models: tuple[ModelSpec, ...] = traces.models()
        self.segmentation: Segmentation = traces.segmentation
        self.table = table
        self.keeps_text = "text" in traces.segments.column_names
        self._texts: Sequence[str | None] = (
            traces.segments["text"].take(table.rows).to_pylist()
            if self.keeps_text
            else [None] * len(table.rows)
        )
        self._trees = {
            (table.question_ids[q], int(attempt)): tree
            for tree, (q, attempt) in enumerate(zip(table.question, table.attempt, strict=True))
        }

    def open(self, attempts: Sequence[tuple[Question, int]]) -> list[Prefix]:
        """Prompts of recorded attempts.

        Raises:
            BackendError: one was not recorded.
        """
        return [self._open(question, attempt) for question, attempt in attempts]

    def _open(self, question: Question, attempt: int) -> Prefix:
        table, tree = self.table, self._trees.get((question.question_id, attempt))
        if tree is None:
            raise BackendError(
                f"{question.question_id}: expected attempt {attempt} to be recorded, found "
                f"attempts 0 to {table.num_attempts - 1} of {len(table.question_ids)} questions"
            )
        lengths, root = table.prompt_tokens[tree].tolist(), int(table.root[tree])
        return Prefix(
            question=question,
            attempt=attempt,
            prompt_tokens=tuple(lengths),
            hidden=None if table.hidden is None else table.hidden[table.question[tree]],
            value=_known(table.value[root]),
            usage=self._usage(0, Usage(prefill_tokens=lengths[0])),
            memory=root,
        )

    def _usage(self, rung: int, usage: Usage) -> tuple[Usage, ...]:
        return tuple(usage if r == rung else Usage() for r in range(len(self.models)))

    def write(self, requests: Sequence[SegmentRequest]) -> list[Prefix]:
        """The prefixes, each longer by the segment asked for.

        Raises:
            BackendError: one was not recorded.
        """
        return [self._write(request) for request in requests]

    def _write(self, request: SegmentRequest) -> Prefix:
        table, prefix, node = self.table, request.prefix, -1
        if request.rung == 0 and request.index < table.draws.shape[1]:
            node = int(table.draws[prefix.memory, request.index])
        elif request.rung:
            node = int((table.ended if request.to_end else table.escalated)[prefix.memory])
        if node < 0:
            raise BackendError(
                f"{prefix.question.question_id}: expected segment {request.index} by rung "
                f"{request.rung} after {prefix.text!r} to be recorded, found none"
            )
        written, done = int(table.num_tokens[node]), bool(table.done[node])
        usage = [Usage() for _ in self.models]
        usage[request.rung] = Usage(decoded_tokens=written, serial_rounds=1)
        if request.rung:
            read = prefix.prompt_tokens[request.rung] + prefix.num_tokens
            usage[request.rung] += Usage(prefill_tokens=read)
            usage[0] = Usage(prefill_tokens=0 if done else int(table.small_tokens[node]))
        return Prefix(
            question=prefix.question,
            attempt=prefix.attempt,
            prompt_tokens=prefix.prompt_tokens,
            before=prefix,
            segment=self.segment(node, request.rung, tuple(usage)),
            value=_known(table.value[node]),
            memory=node,
        )

    def segment(self, node: int, rung: int, usage: tuple[Usage, ...] = ()) -> Segment:
        """The segment that leads to a node, as written by the model of a rung."""
        table, text = self.table, self._texts[node]
        return Segment(
            model=self.models[rung].name,
            rung=rung,
            text=f"[{node}]" if text is None else text,
            num_tokens=int(table.num_tokens[node]),
            small_tokens=int(table.small_tokens[node]),
            mean_logprob=_known(table.mean_logprob[node]),
            min_logprob=_known(table.min_logprob[node]),
            entropy=_known(table.entropy[node]),
            done=bool(table.done[node]),
            usage=usage,
        )

    def force(self, prefixes: Sequence[Prefix]) -> list[ForcedAnswer]:
        """What the small model answered after each prefix."""
        return [
            ForcedAnswer(
                answer=self.answer(prefix),
                text="",
                num_tokens=int(self.table.forced_tokens[prefix.memory]),
                usage=self._usage(
                    0, Usage(decoded_tokens=int(self.table.forced_tokens[prefix.memory]))
                ),
            )
            for prefix in prefixes
        ]

    def answer(self, prefix: Prefix) -> str | None:
        """The answer recorded with a prefix: of the attempt, or forced after it."""
        return self.answer_at(
            self._trees[prefix.question.question_id, prefix.attempt], prefix.memory
        )

    def answer_at(self, tree: int, node: int) -> str | None:
        """The same of a node, given the position of its tree."""
        answer = int(self.table.answer[node])
        return None if answer < 0 else self.table.answers[self.table.question[tree]][answer]


def _known(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)


def read_trees(
    traces: SegmentTraces, splits: Iterable[str], ladder: Sequence[str] | None = None
) -> Recorded[RecordedSegments, SegmentTable]:
    """Recorded questions and trees of some splits; see `SegmentTable.build`."""
    table = SegmentTable.build(traces, splits, ladder)
    return Recorded(
        questions=recorded_questions(traces, table.question_ids),
        backend=RecordedSegments(traces, table),
        grader=recorded_grader(table),
        table=table,
    )
