"""From a trace set to arrays, a part at a time, since attempts may be many."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from controller.answers import AnswerKind, first_same
from controller.errors import TraceFormatError
from controller.process.actions import REVISING
from controller.process.episodes import LEAST_LOGPROB
from controller.process.types import CUT as CUT_REASON
from envs.questions.answer_kinds import kinds_of
from envs.questions.prompts import read_prompts
from envs.traces.format import TraceSet, code_rows
from envs.traces.table import (
    ANSWER,
    COMPLETION,
    CUT,
    FIRST_CHILD,
    MIN_LOGPROB,
    NUM_CHILDREN,
    PROMPT,
    RUNG,
    TraceTable,
)

Array = NDArray[Any]

_SIGNALS = ("mean_logprob", "min_logprob", "verifier_score")
_BLOCK = 65_536
"""Questions whose answers are numbered at a time."""


def build_table(
    traces: TraceSet,
    splits: Iterable[str],
    models: Sequence[str] | None = None,
    *,
    also: Collection[str] = (),
) -> TraceTable:
    """Arrays of some splits.

    Args:
        traces: recorded attempts.
        splits: which of train, validation and test.
        models: names, the small one first; see `TraceSet.default_ladder`.
        also: ids of questions of other splits.

    Raises:
        TraceFormatError: no question of these splits has an attempt by every model.
    """
    splits, also = set(splits), set(also)
    ladder = {model.name: model.rung for model in traces.models(models)}
    ids, names = (traces.questions[c].to_pylist() for c in ("question_id", "split"))
    kinds = kinds_of(traces.manifest, _column(traces.questions, "dataset", ""))
    wanted = [
        row
        for row, (question, split) in enumerate(zip(ids, names, strict=True))
        if split in splits or question in also
    ]
    rows = _Rows.read(traces, [ids[row] for row in wanted], ladder, [kinds[row] for row in wanted])
    tried = np.zeros((len(wanted), len(ladder)), bool)  # (Q, R)
    fresh = ~rows.revised
    tried[rows.question[fresh], rows.rung[fresh]] = True
    complete = np.asarray(tried.all(1))
    if not any(names[row] in splits for row in np.array(wanted)[complete]):
        raise TraceFormatError(
            f"{traces.path}: expected questions of {sorted(splits)} with attempts by "
            f"each of {list(ladder)}, found none"
        )
    rows = rows.of_questions(complete)
    order, parent = _order(rows, traces)
    return _table(traces, np.array(wanted)[complete], len(ladder), rows, order, parent)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Attempts in the order of the trace set, n of them.

    Attributes:
        row: (n,) of the trace set.
        question: (n,) place of each one's question.
        rung, index: (n,).
        revised: (n,) whether it revises another one.
        answer: (n,) place of its answer in `answers`; -1 for none.
        correct, prompt_tokens, completion_tokens: (n,).
        cut: (n,) whether it was cut at its longest.
        signals: (n, 3).
        answers: all distinct ones.
    """

    row: Array
    question: Array
    rung: Array
    index: Array
    revised: Array
    answer: Array
    correct: Array
    prompt_tokens: Array
    completion_tokens: Array
    cut: Array
    signals: Array
    answers: tuple[str, ...]

    @classmethod
    def read(
        cls,
        traces: TraceSet,
        wanted: Sequence[str],
        ladder: dict[str, int],
        kinds: Sequence[AnswerKind],
    ) -> _Rows:
        """Attempts of these models at these questions, whose answers are of these kinds."""
        place = {question: q for q, question in enumerate(wanted)}
        schema = traces.stored.schema
        held = [name for name in _SIGNALS if name in schema.names]
        precise = any(schema.field(name).type not in (pa.float32(), pa.null()) for name in held)
        ordered = ["index"] if "index" in schema.names else []
        n, used, begin = traces.num_attempts, 0, 0
        columns: dict[str, Array] = {
            "row": np.empty(n, np.int32),
            "question": np.empty(n, np.int32),
            "rung": np.empty(n, np.int16),
            "index": np.zeros(n, np.int32),
            "revised": np.empty(n, bool),
            "answer": np.empty(n, np.int32),
            "correct": np.empty(n, bool),
            "prompt_tokens": np.empty(n, np.int32),
            "completion_tokens": np.empty(n, np.int32),
            "cut": np.zeros(n, bool),
            "signals": np.full((n, len(_SIGNALS)), np.nan, np.float64 if precise else np.float32),
        }
        answers = _Answers(kinds)
        names = ["question_id", "model", "action", "answer", "correct"]
        reasons = ["finish_reason"] if "finish_reason" in schema.names else []
        names += ["prompt_tokens", "completion_tokens", *reasons, *ordered, *held]
        for batch in traces.scan(names):
            question = code_rows(batch["question_id"], lambda q: place.get(q, -1))
            rung = code_rows(batch["model"], lambda model: ladder.get(model, -1))
            kept = np.flatnonzero((question >= 0) & (rung >= 0))
            part = slice(used, used + len(kept))
            columns["row"][part] = begin + kept
            columns["question"][part] = question[kept]
            columns["rung"][part] = rung[kept]
            action = code_rows(batch["action"], lambda action: int(action in REVISING))
            columns["revised"][part] = action[kept]
            columns["answer"][part] = answers.codes(batch["answer"], question)[kept]
            for name in ("correct", "prompt_tokens", "completion_tokens", *ordered):
                columns[name][part] = filled(batch[name], 0)[kept]
            for name in reasons:
                columns["cut"][part] = code_rows(batch[name], lambda why: int(why == CUT_REASON))[
                    kept
                ]
            for name in held:
                signal = filled(batch[name], np.nan)[kept]
                columns["signals"][part, _SIGNALS.index(name)] = signal
            used, begin = part.stop, begin + len(batch)
        columns = {name: column[:used] for name, column in columns.items()}
        answers.unify(columns["question"], columns["answer"])
        return cls(**columns, answers=tuple(answers.texts))

    def of_questions(self, kept: Array) -> _Rows:
        """Those of questions that are kept, (Q,), counted anew."""
        if kept.all():
            return self
        chosen = np.flatnonzero(kept[self.question])
        columns = {n: c[chosen] for n, c in vars(self).items() if isinstance(c, np.ndarray)}
        columns["question"] = (kept.cumsum() - 1)[columns["question"]].astype(np.int32)
        return _Rows(**columns, answers=self.answers)


class _Answers:
    """Numbers for answers that are spelled the same.

    Args:
        kinds: of each question's answers, (Q,).
    """

    def __init__(self, kinds: Sequence[AnswerKind]) -> None:
        self.texts: list[str] = []
        self._codes: dict[str, int] = {}
        self._kinds, self._names = kinds, np.array([kind.name for kind in kinds])

    def codes(self, answers: pa.Array, question: Array) -> Array:
        """A number for each row, (n,), given the place of its question, -1 for none, (n,)."""
        found = np.full(len(question), -1, np.int32)
        for kind in {kind.name: kind for kind in self._kinds}.values():
            rows = (question >= 0) & (self._names[question] == kind.name)
            if rows.all():
                return code_rows(answers, partial(self._code, kind))
            if rows.any():
                found[rows] = code_rows(answers.filter(pa.array(rows)), partial(self._code, kind))
        return found

    def unify(self, question: Array, answer: Array) -> None:
        """One number, in `answer`, for answers to a question that are the same."""
        for kind in {kind.name: kind for kind in self._kinds}.values():
            unsettled = np.array([not kind.settled(text) for text in self.texts], bool)
            if not unsettled.any():
                continue
            rows = (answer >= 0) & (self._names[question] == kind.name)
            for q in np.unique(question[rows & unsettled[answer]]):
                self._unify(kind, np.flatnonzero(question == q), answer)

    def _unify(self, kind: AnswerKind, rows: Array, answer: Array) -> None:
        known: dict[str, int] = {}
        for row in rows[answer[rows] >= 0]:
            text = self.texts[answer[row]]
            answer[row] = known.setdefault(first_same(kind, text, list(known)), answer[row])

    def _code(self, kind: AnswerKind, answer: Any) -> int:
        text = None if answer is None else kind.canonical(str(answer))
        if text is None:
            return -1
        if text not in self._codes:
            self._codes[text] = len(self.texts)
            self.texts.append(text)
        return self._codes[text]


def filled(column: pa.Array, default: float) -> Array:
    """A column of numbers or truths, (n,), with a value for what is unknown."""
    if pa.types.is_null(column.type):
        return np.full(len(column), default)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if isinstance(default, float):
        column = column.cast(pa.float64())
    values: Array = pc.fill_null(column, default).to_numpy(False)
    return values


def _order(rows: _Rows, traces: TraceSet) -> tuple[Array, Array]:
    """Order of the attempts, (M,), and place of the parent in it of each, -1 for none, (M,).

    Question by question; independent attempts by rung and index, then revisions of those,
    siblings side by side in the order of their parents, then revisions of revisions.
    """
    fresh = np.flatnonzero(~rows.revised)
    levels = [fresh[_sorted(rows.question[fresh], rows.rung[fresh], rows.index[fresh])]]
    parents = [np.full(len(fresh), -1)]
    if rows.revised.any():
        own, wanted = _ids(rows, traces)
        left = np.flatnonzero(rows.revised & (wanted >= 0))
        while len(left):
            above = levels[-1]
            keys, first = np.unique(own[above], return_index=True)
            at = np.searchsorted(keys, wanted[left]).clip(max=len(keys) - 1)
            found = (keys[at] == wanted[left]) & (keys[at] >= 0)
            child, rank = left[found], first[at[found]]
            if not len(child):
                break
            by_parent = _sorted(rank, rows.rung[child], rows.index[child])
            levels.append(child[by_parent])
            parents.append(above[rank[by_parent]])
            left = left[~found]
    order, parent = np.concatenate(levels), np.concatenate(parents)
    by_question = _sorted(rows.question[order])
    order, parent = order[by_question], parent[by_question]
    place = np.full(len(rows.row), -1, np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return order, np.where(parent >= 0, place[parent], -1)


def _sorted(*keys: Array) -> Array:
    """Order by several keys, the first one foremost, that keeps equals as they are."""
    if len(keys) == 1 and bool((keys[0][1:] >= keys[0][:-1]).all()):
        return np.arange(len(keys[0]))
    return np.lexsort(keys[::-1])


def _ids(rows: _Rows, traces: TraceSet) -> tuple[Array, Array]:
    """Numbers for each attempt's own id and for its parent's, (n,) both; -1 for no parent.

    Equal numbers are equal ids at the same question; an id that is nobody's parent is -1.
    """
    known: dict[Any, int] = {}
    if "parent_id" not in traces.stored.schema.names:
        return np.full(len(rows.row), -1), np.full(len(rows.row), -1)

    def parent(name: Any) -> int:
        return -1 if name is None else known.setdefault(name, len(known))

    wanted = _scanned(traces, "parent_id", parent)[rows.row]
    own = _scanned(traces, "attempt_id", lambda name: known.get(name, -1))[rows.row]
    question = rows.question.astype(np.int64) * len(known)
    return np.where(own < 0, -1, question + own), np.where(wanted < 0, -1, question + wanted)


def _scanned(traces: TraceSet, name: str, code: Any) -> Array:
    return np.concatenate([code_rows(batch[name], code) for batch in traces.scan([name])])


def _table(
    traces: TraceSet, questions: Array, num_rungs: int, rows: _Rows, order: Array, parent: Array
) -> TraceTable:
    question, fresh = rows.question[order], parent < 0
    rung = rows.rung[order]
    counts = np.zeros((len(order), 7), np.int32)  # (M, 7)
    answer, correct, answers = _number_answers(rows, order, question, len(questions))
    for column, values in (
        (RUNG, rung),
        (ANSWER, answer),
        (PROMPT, rows.prompt_tokens[order]),
        (COMPLETION, rows.completion_tokens[order]),
        (CUT, rows.cut[order]),
    ):
        counts[:, column] = values
    children = np.flatnonzero(~fresh)
    # Siblings lie side by side, so the first of them is where a parent's children begin.
    of, first, number = np.unique(parent[children], return_index=True, return_counts=True)
    counts[of, FIRST_CHILD], counts[of, NUM_CHILDREN] = children[first], number
    stream, length = _streams(question[fresh], rung[fresh], np.flatnonzero(fresh), num_rungs)
    signals = rows.signals[order]
    np.maximum(signals[:, : MIN_LOGPROB + 1], LEAST_LOGPROB, out=signals[:, : MIN_LOGPROB + 1])
    table = traces.questions.take(questions)
    return TraceTable(
        question_ids=tuple(table["question_id"].to_pylist()),
        datasets=tuple(_column(table, "dataset", "")),
        levels=np.array(_column(table, "level", 0), np.int64),
        **read_prompts(table),
        prompt_tokens=counts[np.maximum(stream[:, :, 0], 0), PROMPT].astype(np.int64),
        stream=stream,
        stream_length=length,
        answer_correct=correct,
        answers=answers,
        counts=counts,
        signals=signals,
        attempt_rows=rows.row[order],
    )


def _streams(question: Array, rung: Array, place: Array, num_rungs: int) -> tuple[Array, Array]:
    """Independent attempts by question and rung, (Q, R, S), and how many there are, (Q, R)."""
    group = question.astype(np.int64) * num_rungs + rung
    num_questions = int(question[-1]) + 1
    length = np.bincount(group, minlength=num_questions * num_rungs)  # (Q * R,)
    begin = length.cumsum() - length
    stream = np.full((num_questions * num_rungs, int(length.max())), -1, np.int32)
    stream[group, np.arange(len(group)) - begin[group]] = place
    shape = num_questions, num_rungs
    return stream.reshape(*shape, -1), length.reshape(shape)


def _number_answers(
    rows: _Rows, order: Array, question: Array, num_questions: int
) -> tuple[Array, Array, tuple[tuple[str, ...], ...]]:
    """Answers numbered within each question as they appear, (M,); right ones, (Q, K); texts."""
    answer = rows.answer[order]
    texts = np.array(rows.answers, object)
    named: list[tuple[str, ...]] = []
    verdicts = []
    for start in range(0, num_questions, _BLOCK):
        stop = min(start + _BLOCK, num_questions)
        part = slice(*np.searchsorted(question, [start, stop]))
        given = part.start + np.flatnonzero(answer[part] >= 0)
        keys = question[given].astype(np.int64) * max(len(texts), 1) + answer[given]
        distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        appearance = np.argsort(first)
        rank = np.empty_like(appearance)
        rank[appearance] = np.arange(len(appearance))
        owner = distinct // max(len(texts), 1)
        number = np.bincount(owner - start, minlength=stop - start)
        ends = number.cumsum()
        local = rank - (ends - number)[owner - start]
        verdicts.append((owner, local, rows.correct[order[given[first]]]))
        shown = texts[answer[given[first]][appearance]].tolist()
        named += [
            tuple(shown[end - n : end])
            for end, n in zip(ends.tolist(), number.tolist(), strict=True)
        ]
        answer[given] = local[inverse]
    correct = np.zeros((num_questions, max(1, *map(len, named), 1)), bool)  # (Q, K)
    for owner, local, right in verdicts:
        correct[owner, local] = right
    return answer, correct, tuple(named)


def _column(table: pa.Table, name: str, default: Any) -> list[Any]:
    if name not in table.column_names:
        return [default] * len(table)
    return [default if value is None else value for value in table[name].to_pylist()]
