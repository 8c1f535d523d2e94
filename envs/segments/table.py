"""Trees of segments on disk, and as arrays for replay thousands of attempts at a time.

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

from controller.checkpoint import read_tensors, value_readout
from controller.errors import ConfigError, TraceFormatError
from controller.policy.readouts import Readout
from controller.process.episodes import LEAST_LOGPROB
from controller.process.lockstep import Ints
from controller.process.types import ModelSpec
from controller.segments.episodes import SEGMENT, SIGNALS, SegmentConfig
from controller.segments.types import Segmentation
from envs.questions.files import kinds_of
from envs.questions.table import QuestionTable, column, number_answers, question_fields
from envs.traces.derive import cost_model
from envs.traces.format import MANIFEST, model_spec, read_manifest, read_table
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
        questions, segments = (read_table(path / name, TABLES[name]) for name in TABLES)
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


@dataclass(frozen=True, kw_only=True)
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
    def values(self) -> NDArray[np.float64]:
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
    def success_rates(self) -> NDArray[np.float64]:
        """Share of right answers by model, when either writes whole attempts, (Q, R)."""
        shape = self.num_questions, self.num_attempts
        rates = [self.values[self.root].reshape(shape).mean(1)]
        ended = self.ended[self.root]
        if (ended >= 0).all():
            rates.append(self.right(np.arange(len(self)), ended).reshape(shape).mean(1))
        return np.stack(rates, 1)

    def right(self, trees: Ints, nodes: Ints) -> NDArray[np.bool_]:
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


def derive_segment_config(
    train: SegmentTable,
    traces: SegmentTraces,
    ladder: Sequence[str] | None = None,
    *,
    token_costs: Mapping[str, float] | None = None,
    probes: bool = False,
    escalates: bool = True,
) -> SegmentConfig:
    """The decision process for a set of segment traces, from trees of the train split.

    `token_costs` are relative, by model name, where sizes are unknown; `probes` has an answer
    forced after each segment; a large model may take over unless not `escalates`.
    """
    models, segmentation = traces.models(ladder), traces.segmentation
    written, forced = train.segments["num_tokens"], train.segments["forced_tokens"]
    forced = forced[forced > 0]
    return SegmentConfig(
        cost=cost_model(models, token_costs),
        draws=traces.draws,
        max_tokens=int(models[0].max_new_tokens or 1),
        max_segment_tokens=segmentation.max_tokens,
        max_forced_tokens=int(forced.max(initial=1)),
        mean_segment_tokens=_mean(written[np.unique(train.draws[train.draws >= 0])]),
        mean_forced_tokens=_mean(forced),
        mean_rest_tokens=_mean(written[train.ended[train.ended >= 0]]),
        cost_unit=float(train.prompt_tokens[:, 0].mean() + _first_lengths(train).mean()),
        lines=segmentation.lines,
        escalates=escalates and len(models) > 1,
        probes=probes,
    )


def _mean(lengths: Ints) -> float:
    return max(1.0, float(lengths.mean()) if len(lengths) else 1.0)


def _first_lengths(table: SegmentTable) -> Ints:
    """Tokens of the attempts that take the first draw of each segment, (T,)."""
    node, lengths = table.root, np.zeros(len(table), np.int64)
    while (going := table.draws[node, 0] >= 0).any():
        node = np.where(going, table.draws[node, 0], node)
        lengths += np.where(going, table.segments["num_tokens"][node], 0)
    return lengths
