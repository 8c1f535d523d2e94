"""Trees of segments on disk, as arrays, and behind the interface of a live backend.

A set is a directory with `questions.parquet`, `segments.parquet` and `trace.json`. Prefixes
with the same text are one node, so a node may stand for several draws. See docs/segments.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from controller.backends.recorded import ReadAgain
from controller.checkpoint import read_tensors, value_readout
from controller.errors import BackendError, ConfigError, TraceFormatError
from controller.policy.readouts import Readout
from controller.process.cost import Usage
from controller.process.episodes import LEAST_LOGPROB
from controller.process.lockstep import Bools, Floats, Ints
from controller.process.types import ModelSpec, Question
from controller.segments.episodes import SEGMENT, SIGNALS
from controller.segments.types import Prefix, Segment, Segmentation, SegmentRequest
from envs.questions.files import kinds_of
from envs.questions.table import QuestionTable, column, number_answers, question_fields
from envs.traces.format import MANIFEST, model_spec, open_table, read_manifest
from envs.traces.recorded import Recorded, recorded
from envs.traces.table import Answers

KIND, SEGMENT_TRACE_VERSION = "segments", 1
_RECORD = "record some with `python -m recipes.trees`"

PROMPT, SAMPLE, ESCALATE, TO_END = "prompt", "sample", "escalate", "escalate_to_end"
"""How a node came about: it is the prompt, or what a model wrote after the node before."""

TABLES = {
    "questions.parquet": ("question_id", "split"),
    "segments.parquet": (
        *("question_id", "attempt", "node", "before", "action", "draws", "prompt_tokens"),
        *("num_tokens", "small_tokens", "mean_logprob", "min_logprob", "entropy"),
        *("done", "answer", "correct", "forced_tokens"),
    ),
}
"""Required columns by table; `value` and `text` are further ones of a node."""

VALUE_FILE = "value.safetensors"
"""Beside the tables: the read-out that the column `value` was made with."""


@dataclass(frozen=True, kw_only=True)
class SegmentTraces:
    """A set of segment traces: its directory, `trace.json`, a row per question and one per node."""

    path: Path
    manifest: Mapping[str, Any]
    questions: pa.Table
    segments: pa.Table

    @classmethod
    def read(cls, path: Path | str) -> SegmentTraces:
        """Read and check a set; raises TraceFormatError if it is none, or of an unknown version."""
        path = Path(path)
        manifest = read_manifest(path, f"segment traces with trace.json and {[*TABLES]}; {_RECORD}")
        found = manifest.get("kind", "attempts"), manifest.get("version")
        if found != (KIND, SEGMENT_TRACE_VERSION):
            raise TraceFormatError(
                f"{path / MANIFEST}: expected segments of version {SEGMENT_TRACE_VERSION}, found "
                f"{found[0]} of version {found[1]!r}; {_RECORD}"
            )
        questions, segments = (open_table(path / n, TABLES[n]).to_table() for n in TABLES)
        return cls(path=path, manifest=manifest, questions=questions, segments=segments)

    def models(self, ladder: Sequence[str] | None = None) -> tuple[ModelSpec, ...]:
        """The small model, then any large one; ConfigError if another ladder is asked for."""
        held = tuple(self.manifest["models"])
        if ladder and tuple(ladder) != held:
            raise ConfigError(f"ladder: expected {held}, which wrote the segments, found {ladder}")
        return tuple(model_spec(self.manifest, name, rung) for rung, name in enumerate(held))

    @property
    def value(self) -> Readout | None:
        """The read-out that made the column `value`; None if there is none."""
        path = self.path / VALUE_FILE
        if not path.exists():
            return None
        return value_readout({k: v.numpy() for k, v in read_tensors(path).items()}, self.path)

    @property
    def num_attempts(self) -> int:
        """Trees."""
        return sum(action == PROMPT for action in self.segments["action"].to_pylist())

    @property
    def segmentation(self) -> Segmentation:
        """Where segments end."""
        return Segmentation(**self.manifest["segmentation"])

    @property
    def draws(self) -> tuple[int, ...]:
        """How often each segment was written, by places redone before it."""
        return tuple(self.manifest["recorded"]["draws"])


NOWHERE = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentTable(QuestionTable):
    """Trees of some splits; Q questions, T attempts in the order of questions, M nodes.

    Attributes:
        question: of each attempt, (T,) positions.
        attempt: number of each attempt, (T,).
        root: node of each attempt's prompt, (T,).
        prompt_tokens: (T, R).
        draws: node that each draw of the small model leads to, (M, D); -1 where none was made.
        repeats: earlier draws that lead to the same node, (M, D).
        escalated, ended: node that a segment of the large model, or its rest of the attempt,
            leads to, (M,); -1 for none.
        segments: what leads to each node, (M,) of `SEGMENT`; at a prompt its value alone.
        rows: row of each node in segments.parquet, (M,).
    """

    question: Ints
    attempt: Ints
    root: Ints
    prompt_tokens: Ints
    draws: Ints
    repeats: Ints
    escalated: Ints
    ended: Ints
    segments: NDArray[np.void]
    rows: Ints

    def __len__(self) -> int:
        """Attempts, T."""
        return len(self.root)

    def starts(self, repeats: int) -> Ints:
        """Where to begin to play every question: once at every attempt, (T,)."""
        return np.arange(len(self))

    def question_of(self, starts: Ints) -> Ints:
        """Question of each attempt, (n,)."""
        return self.question[starts]

    @property
    def num_attempts(self) -> int:
        """Attempts per question; the same for all."""
        return len(self.root) // len(self.question_ids)

    @cached_property
    def tree(self) -> Ints:
        """Attempt that each node belongs to, (M,)."""
        return np.repeat(np.arange(len(self)), np.diff([*self.root, len(self.rows)]))

    @cached_property
    def values(self) -> Floats:
        """Share of right answers below each node, over the small model's draws, (M,).

        Where nothing follows, the answer there counts. Draws count alike at every prefix, so what
        follows a prefix twice counts twice.

        Source: Wang et al. 2023, "Math-Shepherd" (arXiv 2312.08935), soft estimation.
        """
        values = self.right(self.tree, np.arange(len(self.rows))).astype(np.float64)
        # Nodes are numbered breadth first within a question: whatever follows comes later.
        for node in range(len(values) - 1, -1, -1):
            following = self.draws[node][self.draws[node] >= 0]
            if len(following):
                values[node] = values[following].mean()
        return values

    @cached_property
    def success_rates(self) -> Floats:
        """Share of right answers by model, when either writes whole attempts, (Q, R)."""
        shape = self.num_questions, self.num_attempts
        rates = [self.values[self.root].reshape(shape).mean(1)]
        ended = self.ended[self.root]
        if (ended >= 0).all():
            rates.append(self.right(np.arange(len(self)), ended).reshape(shape).mean(1))
        return np.stack(rates, 1)

    def right(self, trees: Ints, nodes: Ints) -> Bools:
        """Whether the answers at nodes of some attempts are right, (n,)."""
        answer = self.segments["answer"][nodes]
        known = self.answer_correct[self.question[trees], np.maximum(answer, 0)]
        return np.asarray(known & (answer >= 0))

    def take(self, questions: Ints) -> SegmentTable:
        """The same with these questions alone, (q,) positions; nodes keep their rows."""
        trees = (questions[:, None] * self.num_attempts + np.arange(self.num_attempts)).ravel()
        return replace(
            self,
            **self._of(questions),
            question=np.repeat(np.arange(len(questions)), self.num_attempts),
            attempt=self.attempt[trees],
            root=self.root[trees],
            prompt_tokens=self.prompt_tokens[trees],
        )


def build_trees(
    traces: SegmentTraces, splits: Iterable[str], ladder: Sequence[str] | None = None
) -> SegmentTable:
    """Arrays of some splits.

    Raises:
        ConfigError: the set is of other models than those of the `ladder`.
        TraceFormatError: these splits hold no questions, or not equally many attempts each.
    """
    if ladder:
        traces.models(ladder)
    splits = set(splits)
    in_splits = [split in splits for split in traces.questions["split"].to_pylist()]
    questions = traces.questions.filter(pa.array(in_splits))
    ids = questions["question_id"].to_pylist()
    place = {name: q for q, name in enumerate(ids)}
    of_rows = np.array([place.get(q, -1) for q in traces.segments["question_id"].to_pylist()])
    keys = (*(column(traces.segments, name, NOWHERE) for name in ("node", "attempt")), of_rows)
    rows = np.lexsort(keys)
    rows = rows[of_rows[rows] >= 0]
    if not len(rows):
        raise TraceFormatError(f"{traces.path}: expected questions of {sorted(splits)}, found none")
    nodes, question = traces.segments.take(rows), of_rows[rows]
    root = np.flatnonzero([action == PROMPT for action in nodes["action"].to_pylist()])
    attempts = np.bincount(question[root], minlength=len(ids))
    if attempts.min() < 1 or attempts.min() < attempts.max():
        raise TraceFormatError(
            f"{traces.path}: expected equally many attempts at each question, found "
            f"{attempts.min()} to {attempts.max()}"
        )
    kinds = kinds_of(traces.manifest, [""] * len(ids))
    segments = np.zeros(len(nodes), SEGMENT)
    for name in ("num_tokens", "small_tokens", "forced_tokens", "done"):
        segments[name] = column(nodes, name, 0)
    for name in SIGNALS:
        segments[name] = column(nodes, name, np.nan)
    for name in ("mean_logprob", "min_logprob"):
        segments[name] = np.maximum(segments[name], LEAST_LOGPROB)
    spelt = Answers(kinds)
    codes = spelt.codes(nodes["answer"].combine_chunks(), question)
    right = column(nodes, "correct", 0) > 0
    segments["answer"], correct, answers = number_answers(
        question, codes, right, spelt.texts, len(ids)
    )
    return SegmentTable(
        **question_fields(questions),
        question=question[root],
        attempt=column(nodes, "attempt", NOWHERE)[root],
        root=root,
        prompt_tokens=np.array(nodes["prompt_tokens"].take(root).to_pylist(), np.int64),
        **_links(nodes, question, max(traces.draws)),
        segments=segments,
        answer_correct=correct,
        answers=answers,
        rows=rows,
    )


def _links(nodes: pa.Table, question: Ints, most: int) -> dict[str, Any]:
    """Where the draws from each node lead."""
    node, before = column(nodes, "node", NOWHERE), column(nodes, "before", NOWHERE)
    place = {key: row for row, key in enumerate(zip(question.tolist(), node.tolist(), strict=True))}
    draws, repeats = np.full((len(node), most), NOWHERE), np.zeros((len(node), most), np.int64)
    by_large = {ESCALATE: np.full(len(node), NOWHERE), TO_END: np.full(len(node), NOWHERE)}
    told = zip(nodes["action"].to_pylist(), nodes["draws"].to_pylist(), strict=True)
    for row, (action, indices) in enumerate(told):
        if action == PROMPT:
            continue
        parent = place[int(question[row]), int(before[row])]
        if action == SAMPLE:
            draws[parent, indices], repeats[parent, indices] = row, np.arange(len(indices))
        else:
            by_large[action][parent] = row
    escalated, ended = by_large.values()
    return {"draws": draws, "repeats": repeats, "escalated": escalated, "ended": ended}


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
