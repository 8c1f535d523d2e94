"""Recorded trees as arrays, for replay thousands of attempts at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from controller.errors import TraceFormatError
from controller.process.episodes import LEAST_LOGPROB, NO_ANSWER
from controller.segments.episodes import SEGMENT, SIGNALS, SegmentConfig
from envs.questions.answer_kinds import kinds_of
from envs.questions.prompts import prompts_of
from envs.segments.traces import ESCALATE, PROMPT, SAMPLE, TO_END, SegmentTraces
from envs.traces.derive import cost_model
from envs.traces.table import QuestionTable, filled

Ints = NDArray[np.int64]

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

    Args:
        traces: the set.
        splits: which of train, validation and test.
        ladder: names of its models, or None.

    Raises:
        ConfigError: the set is of other models.
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
    keys = (*(_numbers(traces.segments, name) for name in ("node", "attempt")), of_rows)
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
        segments[name] = _numbers(nodes, name, 0)
    for name in SIGNALS:
        segments[name] = _numbers(nodes, name, np.nan)
    for name in ("mean_logprob", "min_logprob"):
        segments[name] = np.maximum(segments[name], LEAST_LOGPROB)
    spelt = [kind.canonical for kind in kinds]
    segments["answer"], correct, answers = _answers(nodes, question, spelt)
    return SegmentTable(
        question_ids=tuple(ids),
        levels=_numbers(questions, "level", 0),
        **prompts_of(questions),
        question=question[root],
        attempt=_numbers(nodes, "attempt")[root],
        root=root,
        prompt_tokens=np.array(nodes["prompt_tokens"].take(root).to_pylist(), np.int64),
        **_links(nodes, question, max(traces.draws)),
        segments=segments,
        answer_correct=correct,
        answers=answers,
        rows=rows,
    )


def _numbers(table: pa.Table, name: str, default: float = NOWHERE) -> NDArray[Any]:
    """A column, int64 or as its default float64, with a value for what is unknown."""
    kind = np.float64 if isinstance(default, float) else np.int64
    if name not in table.column_names:
        return np.full(len(table), default, kind)
    return filled(table[name].combine_chunks(), default).astype(kind)


def _links(nodes: pa.Table, question: Ints, most: int) -> dict[str, Any]:
    """Where the draws from each node lead."""
    node, before = _numbers(nodes, "node"), _numbers(nodes, "before")
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


def _answers(
    nodes: pa.Table, question: Ints, canonical: Sequence[Any]
) -> tuple[Ints, NDArray[np.bool_], tuple[tuple[str, ...], ...]]:
    """Answers numbered within each question, (M,); right ones, (Q, K); their texts."""
    ids: list[dict[str, int]] = [{} for _ in canonical]
    answer, right = np.full(len(nodes), NO_ANSWER), _numbers(nodes, "correct", 0) > 0
    for row, (q, text) in enumerate(zip(question, nodes["answer"].to_pylist(), strict=True)):
        spelt = None if text is None else canonical[q](text)
        if spelt is not None:
            answer[row] = ids[q].setdefault(spelt, len(ids[q]))
    table = np.zeros((len(ids), max(1, *map(len, ids))), bool)  # (Q, K)
    # Of several verdicts on an answer the first counts.
    known = np.flatnonzero(answer >= 0)[::-1]
    table[question[known], answer[known]] = right[known]
    return answer, table, tuple(map(tuple, ids))


def derive_segment_config(
    train: SegmentTable,
    traces: SegmentTraces,
    ladder: Sequence[str] | None = None,
    *,
    token_costs: Mapping[str, float] | None = None,
    probes: bool = False,
    escalates: bool = True,
) -> SegmentConfig:
    """The decision process for a set of segment traces.

    Args:
        train: trees of the train split.
        traces: the set.
        ladder: names of its models, or None.
        token_costs: relative cost per token by model name, where sizes are unknown.
        probes: whether an answer is forced after each segment.
        escalates: whether the large model may take over, if there is one.
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
