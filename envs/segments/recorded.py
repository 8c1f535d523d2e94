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
    """`SegmentBackend` over recorded trees; a number stands for texts that were not recorded.

    Args:
        traces: the set.
        table: some of its trees, as arrays.
    """

    def __init__(self, traces: SegmentTraces, table: SegmentTable) -> None:
        self.models: tuple[ModelSpec, ...] = traces.models()
        self.segmentation: Segmentation = traces.segmentation
        self.table = table
        kept = "text" in traces.segments.column_names
        self._texts = traces.segments["text"].take(table.rows).to_pylist() if kept else None
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
            memory=root,
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
        if rung:
            node = int((table.ended if request.to_end else table.escalated)[prefix.memory])
        elif request.index < table.draws.shape[1]:
            node = int(table.draws[prefix.memory, request.index])
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
        segment = replace(self.segment(node, rung), usage=self._usage(usage))
        return replace(
            prefix,
            before=prefix,
            segment=segment if self._texts is not None else replace(segment, text=f"[{node}]"),
            hidden=None,
            value=_known(table.value[node]),
            usage=(),
            memory=node,
        )

    def segment(self, node: int, rung: int) -> Segment:
        """The segment that leads to a node, as written by the model of a rung."""
        table = self.table
        return Segment(
            model=self.models[rung].name,
            rung=rung,
            text="" if self._texts is None else self._texts[node],
            num_tokens=int(table.num_tokens[node]),
            small_tokens=int(table.small_tokens[node]),
            mean_logprob=_known(table.mean_logprob[node]),
            min_logprob=_known(table.min_logprob[node]),
            entropy=_known(table.entropy[node]),
            done=bool(table.done[node]),
        )

    def force(self, prefixes: Sequence[Prefix]) -> list[ForcedAnswer]:
        """The small model's forced answer after each prefix."""
        return [self._force(prefix) for prefix in prefixes]

    def _force(self, prefix: Prefix) -> ForcedAnswer:
        tokens = int(self.table.forced_tokens[prefix.memory])
        usage = self._usage({0: Usage(decoded_tokens=tokens)})
        return ForcedAnswer(answer=self.answer(prefix), text="", num_tokens=tokens, usage=usage)

    def answer(self, prefix: Prefix) -> str | None:
        """The answer recorded with a prefix: of the attempt, or forced after it."""
        return self.answer_at(prefix.memory)

    def answer_at(self, node: int) -> str | None:
        """The same of a node."""
        table, answer = self.table, int(self.table.answer[node])
        return None if answer < 0 else table.answers[table.question[table.tree[node]]][answer]


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
