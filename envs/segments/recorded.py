"""Recorded trees behind the interface of a live backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from controller.errors import BackendError
from controller.process.cost import Usage
from controller.process.types import ModelSpec, Question
from controller.segments.types import (
    ForcedAnswer,
    Prefix,
    Segment,
    Segmentation,
    SegmentRequest,
)
from envs.segments.table import SegmentTable, build_trees
from envs.segments.traces import SegmentTraces
from envs.traces.recorded import Recorded, recorded_grader, recorded_questions


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
            usage=self._usage({0: Usage(prefill_tokens=lengths[0])}),
            memory=(tree, root),
        )

    def _usage(self, by_rung: Mapping[int, Usage]) -> tuple[Usage, ...]:
        return tuple(by_rung.get(rung, Usage()) for rung in range(len(self.models)))

    def write(self, requests: Sequence[SegmentRequest]) -> list[Prefix]:
        """The prefixes, each longer by the segment asked for.

        Raises:
            BackendError: one was not recorded.
        """
        return [self._write(request) for request in requests]

    def _write(self, request: SegmentRequest) -> Prefix:
        table, prefix, rung, node = self.table, request.prefix, request.rung, -1
        tree, before = prefix.memory
        if rung:
            node = int((table.ended if request.to_end else table.escalated)[before])
        elif request.index < table.draws.shape[1]:
            node = int(table.draws[before, request.index])
        if node < 0:
            raise BackendError(
                f"{prefix.question.question_id}: expected segment {request.index} by rung "
                f"{rung} after {prefix.text!r} to be recorded, found none"
            )
        usage = {rung: Usage(decoded_tokens=int(table.num_tokens[node]), serial_rounds=1)}
        if rung:
            read = prefix.prompt_tokens[rung] + prefix.num_tokens
            handed = 0 if table.done[node] else int(table.small_tokens[node])
            usage[rung] += Usage(prefill_tokens=read)
            usage[0] = Usage(prefill_tokens=handed)
        return replace(
            prefix,
            before=prefix,
            segment=replace(self.segment(node, rung), usage=self._usage(usage)),
            hidden=None,
            value=_known(table.value[node]),
            usage=(),
            memory=(tree, node),
        )

    def segment(self, node: int, rung: int) -> Segment:
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
        )

    def force(self, prefixes: Sequence[Prefix]) -> list[ForcedAnswer]:
        """The small model's forced answer after each prefix."""
        return [self._force(*prefix.memory) for prefix in prefixes]

    def _force(self, tree: int, node: int) -> ForcedAnswer:
        tokens = int(self.table.forced_tokens[node])
        usage = self._usage({0: Usage(decoded_tokens=tokens)})
        answer = self.answer_at(tree, node)
        return ForcedAnswer(answer=answer, text="", num_tokens=tokens, usage=usage)

    def answer(self, prefix: Prefix) -> str | None:
        """The answer recorded with a prefix: of the attempt, or forced after it."""
        return self.answer_at(*prefix.memory)

    def answer_at(self, tree: int, node: int) -> str | None:
        """The same of a node, given the position of its tree."""
        answer = int(self.table.answer[node])
        return None if answer < 0 else self.table.answers[self.table.question[tree]][answer]


def _known(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)


def read_trees(
    traces: SegmentTraces, splits: Iterable[str], ladder: Sequence[str] | None = None
) -> Recorded[RecordedSegments, SegmentTable]:
    """Recorded questions and trees of some splits; see `build_trees`."""
    table = build_trees(traces, splits, ladder)
    return Recorded(
        questions=recorded_questions(traces, table.question_ids),
        backend=RecordedSegments(traces, table),
        grader=recorded_grader(table),
        table=table,
    )
