"""Recorded trees replayed: in N attempts at a time, and behind the interface of a live backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.backends.recorded import ReadAgain
from controller.errors import BackendError, ConfigError, TraceFormatError
from controller.process.actions import SEGMENT_ACTIONS
from controller.process.cost import Usage
from controller.process.lockstep import Array
from controller.process.types import ModelSpec, Question
from controller.segments.episodes import ESCALATE, REVISE, SegmentConfig, SegmentEpisodes
from controller.segments.types import Prefix, Segment, Segmentation, SegmentRequest
from envs.draws import Hidden, Streams
from envs.replay import Replay
from envs.segments.table import SegmentTable, SegmentTraces, build_trees
from envs.traces.recorded import Recorded, recorded


class SegmentReplay(Replay):
    """Replays N attempts from a table of trees; rounds have no price there.

    `permute` is of no consequence: each draw has its place in a tree.

    Attributes:
        node, before: (N,) node that each episode is at, and the one before it.
    """

    table: SegmentTable
    config: SegmentConfig
    episodes: SegmentEpisodes

    def _prepared(self, num_episodes: int, knows_difficulty: bool) -> SegmentEpisodes:
        recorded, wanted = self.table.draws.shape[1], self.config.draws
        if max(wanted) > recorded:
            raise ConfigError(
                f"draws: expected at most the {recorded} that were recorded, found {wanted}"
            )
        self.node, self.before = np.zeros((2, num_episodes), np.int64)
        return SegmentEpisodes(self.config, num_episodes)

    @property
    def tally(self) -> dict[str, Array]:
        """Segments by the small model, those redone, escalations and forced answers, (N,) each."""
        episodes = self.episodes
        return {
            "segments": episodes.samples,
            "redone": episodes.revisions,
            "escalations": episodes.escalated.astype(np.int64),
            "forced": episodes.forced.astype(np.int64),
        }

    def _begin(self, rows: Array, start: Array, hidden: Hidden, terms: dict[str, Any]) -> None:
        self.node[rows] = root = self.table.root[start]
        self.episodes.reset(
            rows,
            prompt_tokens=self.table.prompt_tokens[start, : self.config.num_rungs],
            value=np.where(self.hide_verifier[rows], np.nan, self.table.segments["value"][root]),
            **terms,
        )

    def take(self, rows: Array, actions: Array, streams: Streams) -> None:
        """Carry out one action in each of `rows`, none of them STOP."""
        table, draw = self.table, self.episodes.next_draw(rows, actions)
        before = np.where(actions == REVISE, self.before[rows], self.node[rows])
        node = np.where(
            actions < ESCALATE,
            table.draws[before, draw],
            np.where(actions == ESCALATE, table.escalated[before], table.ended[before]),
        )
        missing = np.flatnonzero(node < 0)
        if len(missing):
            question = table.question[self.start[rows[missing[0]]]]
            raise TraceFormatError(
                f"{table.question_ids[question]}: expected what follows "
                f"{SEGMENT_ACTIONS[actions[missing[0]]]} to be recorded, found nothing; record "
                "again, or train with fewer draws"
            )
        self.before[rows], self.node[rows] = before, node
        made = table.segments[node]
        made["repeats"] = np.where(actions < ESCALATE, table.repeats[before, draw], 0)
        for name in ("mean_logprob", "min_logprob", "entropy"):
            made[name][self.hide_logprobs[rows]] = np.nan
        made["value"][self.hide_verifier[rows]] = np.nan
        self.episodes.record(rows, actions, made)

    def close(self, rows: Array) -> None:
        """Force the answers of those of `rows` that have none."""
        rows = self.episodes.unanswered(rows)
        made = self.table.segments[self.node[rows]]
        self.episodes.force(rows, made["answer"], made["forced_tokens"])

    def answered(self) -> NDArray[np.bool_]:
        """Whether each episode has an answer, (N,)."""
        return np.asarray(self.episodes.answer >= 0)

    def right(self) -> NDArray[np.bool_]:
        """Whether the answer of each episode is right, (N,)."""
        return (self.episodes.answer >= 0) & self.table.right(self.start, self.node)


class RecordedSegments(ReadAgain):
    """`SegmentBackend` over recorded trees; a number stands for texts that were not recorded."""

    recorded = ("table", "_texts", "_trees")

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
        """Prompts of recorded attempts; raises BackendError if one was not recorded."""
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
            value=_known(table.segments["value"][root]),
            usage=self._usage({0: Usage(prefill_tokens=lengths[0])}),
            memory=root,
        )

    def _usage(self, by_rung: Mapping[int, Usage]) -> tuple[Usage, ...]:
        return tuple(by_rung.get(rung, Usage()) for rung in range(len(self.models)))

    def write(self, requests: Sequence[SegmentRequest]) -> list[Prefix]:
        """The prefixes with the segments asked for; raises BackendError if one was not recorded."""
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
        segment = self.segment(node, rung)
        usage = {rung: Usage(decoded_tokens=segment.num_tokens, serial_rounds=1)}
        if rung:
            read = prefix.prompt_tokens[rung] + prefix.num_tokens
            usage[rung] += Usage(prefill_tokens=read)
            usage[0] = Usage(prefill_tokens=0 if segment.done else segment.small_tokens)
        text = segment.text if self._texts is not None else f"[{node}]"
        return replace(
            prefix,
            before=prefix,
            segment=replace(segment, text=text, usage=self._usage(usage)),
            hidden=None,
            value=_known(table.segments["value"][node]),
            usage=(),
            memory=node,
        )

    def segment(self, node: int, rung: int) -> Segment:
        """The segment that leads to a node, as written by the model of a rung."""
        made = self.table.segments[node]
        return Segment(
            model=self.models[rung].name,
            rung=rung,
            text="" if self._texts is None else self._texts[node],
            num_tokens=int(made["num_tokens"]),
            small_tokens=int(made["small_tokens"]),
            mean_logprob=_known(made["mean_logprob"]),
            min_logprob=_known(made["min_logprob"]),
            entropy=_known(made["entropy"]),
            done=bool(made["done"]),
            answer=self.answer(node) if made["done"] else None,
        )

    def answer(self, node: int) -> str | None:
        """The answer at a node: of the attempt where it is done, else forced there."""
        table, answer = self.table, int(self.table.segments["answer"][node])
        return None if answer < 0 else table.answers[table.question[table.tree[node]]][answer]

    def force(self, prefixes: Sequence[Prefix]) -> list[Segment]:
        """The small model's forced answer after each prefix."""
        return [self._force(prefix.memory) for prefix in prefixes]

    def _force(self, node: int) -> Segment:
        tokens = int(self.table.segments["forced_tokens"][node])
        return Segment(
            model=self.models[0].name,
            rung=0,
            text="",
            num_tokens=tokens,
            answer=self.answer(node),
            usage=self._usage({0: Usage(decoded_tokens=tokens)}),
        )


def _known(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)


def read_trees(
    traces: SegmentTraces, splits: Iterable[str], ladder: Sequence[str] | None = None
) -> Recorded[RecordedSegments, SegmentTable]:
    """Recorded questions and trees of some splits; see `build_trees`."""
    table = build_trees(traces, splits, ladder)
    return recorded(traces, table, RecordedSegments(traces, table))
