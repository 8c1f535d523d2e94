"""Traces as arrays, for replaying thousands of episodes at a time.

They are read from a trace set a part at a time, since attempts may be many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from controller.answers import AnswerKind, first_same
from controller.errors import TraceFormatError
from controller.process.actions import REVISING
from controller.process.episodes import LEAST_LOGPROB
from controller.process.lockstep import Array, Bools, Floats, Ints
from controller.process.types import CUT
from envs.questions.files import kinds_of
from envs.questions.table import QuestionTable, column, number_answers, question_fields
from envs.traces.format import TraceSet, code_rows

COUNTS = ("answer", "prompt_tokens", "completion_tokens", "reasoning_tokens", "row")
SIGNALS = ("mean_logprob", "min_logprob", "verifier_score")


def attempt_type(
    signal: type[np.floating] = np.float32, *, judged: bool = False
) -> np.dtype[np.void]:
    """One attempt of a `TraceTable`; signals are as precise as they were recorded, NaN if unknown.

    The answer is numbered among its question's, -1 for none; `row` is the trace set's; `cut`
    tells whether it was cut at its longest. Of attempts that an arm judged there are
    `verifier_tokens`.
    """
    names = (*COUNTS, *(("verifier_tokens",) if judged else ()))
    counts = [("rung", np.int16), ("cut", np.bool_), *((name, np.int32) for name in names)]
    return np.dtype([*counts, *((name, signal) for name in SIGNALS)])


@dataclass(frozen=True, kw_only=True, eq=False)
class TraceTable(QuestionTable):
    """Attempts of a ladder's models as arrays: Q questions, R rungs, M attempts.

    What is known of an attempt lies side by side, since replay fetches one here and one there.

    Attributes:
        datasets: (Q,).
        prompt_tokens: (Q, R).
        stream: (Q, R, S) places of independent attempts, -1 where there are no more.
        stream_length: (Q, R) how many there are.
        attempts: (M,) of an `attempt_type`.
        revisers: rungs of the arms that revised attempts; empty where nobody did.
        children: (M, V, 2) where revisions of each attempt by these begin, and how many there
            are.
    """

    datasets: tuple[str, ...]
    prompt_tokens: Ints
    stream: NDArray[np.int32]
    stream_length: Ints
    attempts: NDArray[np.void]
    revisers: tuple[int, ...]
    children: NDArray[np.int32]

    @cached_property
    def independent(self) -> tuple[Array, Array, Array]:
        """Question, rung and place of each attempt that revises no other, (n,) each."""
        question, rung, number = (self.stream >= 0).nonzero()
        return question, rung, self.stream[question, rung, number]

    @cached_property
    def question_of_attempt(self) -> Array:
        """Question of each attempt, revisions' too, (M,); -1 for those of questions left out."""
        question, _, places = self.independent
        of = np.full(len(self.attempts), -1)
        of[places] = question
        while len(places):
            first, count = self.children[places].reshape(-1, 2).T  # (n * V,) each
            parents = np.repeat(np.repeat(places, self.children.shape[1]), count)
            places = np.repeat(first - (count.cumsum() - count), count) + np.arange(count.sum())
            of[places] = of[parents]
        return of

    @cached_property
    def success_rates(self) -> Floats:
        """Share of recorded independent attempts that are right, (Q, R)."""
        return np.asarray(self.right(self.stream).sum(2) / self.stream_length)

    @property
    def num_answers(self) -> int:
        """K, the most distinct answers that any question has."""
        return int(self.answer_correct.shape[1])

    def __len__(self) -> int:
        return len(self.question_ids)

    def question_of(self, starts: Ints) -> Ints:
        """Question of each place that an episode can start at: the same here, (n,)."""
        return starts

    @property
    def num_attempts(self) -> int:
        """Attempts per question that are decided inside: each is one decision here."""
        return 1

    def starts(self, repeats: int) -> Ints:
        """Where to begin to play every question `repeats` times, (Q * repeats,)."""
        return np.repeat(np.arange(len(self)), repeats)

    def right(self, attempts: NDArray[np.integer]) -> Bools:
        """Whether attempts of each question, (Q, ...) with -1 for none, are right."""
        places = np.maximum(attempts, 0)
        answer = self.attempts["answer"][places]
        question = np.arange(len(self)).reshape(-1, *(1,) * (attempts.ndim - 1))
        known = self.answer_correct[question, np.maximum(answer, 0)]
        return np.asarray(known & (answer >= 0) & (attempts >= 0))

    def take(self, questions: Ints) -> TraceTable:
        """The same with these questions alone, (q,) positions; attempts keep their places."""
        return replace(
            self,
            **self._of(questions),
            datasets=tuple(self.datasets[q] for q in questions),
            prompt_tokens=self.prompt_tokens[questions],
            stream=self.stream[questions],
            stream_length=self.stream_length[questions],
        )


def build_table(
    traces: TraceSet,
    splits: Iterable[str],
    models: Sequence[str] | None = None,
    *,
    also: Collection[str] = (),
) -> TraceTable:
    """Arrays of some splits, and of questions of others by their ids in `also`.

    `models` are named, the small one first; see `TraceSet.default_ladder`.

    Raises:
        TraceFormatError: no question of these splits has an attempt by every model.
    """
    splits, also = set(splits), set(also)
    ladder = {model.name: model.rung for model in traces.models(models)}
    ids, names = (traces.questions[c].to_pylist() for c in ("question_id", "split"))
    kinds = kinds_of(traces.manifest, column(traces.questions, "dataset", ""))
    wanted = [
        row
        for row, (question, split) in enumerate(zip(ids, names, strict=True))
        if split in splits or question in also
    ]
    answers = Answers([kinds[row] for row in wanted])
    rows = _read(traces, [ids[row] for row in wanted], ladder, answers)
    tried = np.zeros((len(wanted), len(ladder)), bool)  # (Q, R)
    fresh = rows[~rows["revised"]]
    tried[fresh["question"], fresh["rung"]] = True
    complete = np.asarray(tried.all(1))
    if not any(names[row] in splits for row in np.array(wanted)[complete]):
        raise TraceFormatError(
            f"{traces.path}: expected questions of {sorted(splits)} with attempts by "
            f"each of {list(ladder)}, found none among {dict(Counter(names))}; more questions that "
            "all have attempts at bring some, or a column split"
        )
    rows = rows[complete[rows["question"]]]
    rows["question"] = (complete.cumsum() - 1)[rows["question"]]
    order, parent = _order(rows, traces)
    questions = traces.questions.take(np.array(wanted)[complete])
    return _table(questions, len(ladder), rows[order], parent, answers.texts)


def _read(
    traces: TraceSet, wanted: Sequence[str], ladder: dict[str, int], answers: Answers
) -> Array:
    """Attempts of these models at these questions in the order of the trace set, (n,).

    Each has the fields of `attempt_type`, the place of its `question`, its `index`, whether it is
    `revised` and `correct`, and its `answer` as `answers` number it.
    """
    place = {question: q for q, question in enumerate(wanted)}
    types = {field.name: field.type for field in traces.stored.schema if field.name in SIGNALS}
    precise = any(kind not in (pa.float32(), pa.null()) for kind in types.values())
    more = [("question", np.int32), ("index", np.int32), ("revised", bool), ("correct", bool)]
    judged = traces.verifier in ladder
    own = attempt_type(np.float64 if precise else np.float32, judged=judged)
    fields = [*own.descr, *more]
    rows = np.zeros(traces.num_attempts, fields)
    told = ("verifier_tokens",) if judged else ()
    counted = ("correct", *COUNTS[1:-1], "index", *told)
    named = ("question_id", "model", "action", "answer", "finish_reason")
    used = begin = 0
    for batch in traces.scan([*named, *counted, *SIGNALS]):
        question = code_rows(batch["question_id"], lambda q: place.get(q, -1))
        rung = code_rows(batch["model"], lambda model: ladder.get(model, -1))
        kept = np.flatnonzero((question >= 0) & (rung >= 0))
        part = rows[used : used + len(kept)]
        part["row"], part["question"], part["rung"] = begin + kept, question[kept], rung[kept]
        part["revised"] = code_rows(batch["action"], lambda action: action in REVISING)[kept]
        part["answer"] = answers.codes(batch["answer"], question)[kept]
        if "finish_reason" in batch.schema.names:
            part["cut"] = code_rows(batch["finish_reason"], lambda why: why == CUT)[kept]
        for name in counted:
            part[name] = column(batch, name, 0)[kept]
        for name in SIGNALS:
            part[name] = column(batch, name, np.nan)[kept]
        if traces.verifier and traces.verifier not in ladder:
            part["verifier_score"] = np.nan  # nobody here could give such scores
        used, begin = used + len(kept), begin + len(batch)
    rows = rows[:used]
    answers.unify(rows["question"], rows["answer"])
    return rows


class Answers:
    """Numbers for answers that are spelled the same, given the kind of each question's, (Q,)."""

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
                known: dict[str, int] = {}
                for row in np.flatnonzero((question == q) & (answer >= 0)):
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


def _order(rows: Array, traces: TraceSet) -> tuple[Array, Array]:
    """Order of the attempts, (M,), and place of the parent in it of each, -1 for none, (M,).

    Question by question; independent attempts by rung and index, then revisions of those,
    siblings side by side in the order of their parents, then revisions of revisions.
    """
    fresh = np.flatnonzero(~rows["revised"])
    levels = [fresh[_sorted(rows["question"][fresh], rows["rung"][fresh], rows["index"][fresh])]]
    parents = [np.full(len(fresh), -1)]
    if rows["revised"].any():
        own, wanted = _ids(rows, traces)
        left = np.flatnonzero(rows["revised"] & (wanted >= 0))
        while len(left):
            above = levels[-1]
            keys, first = np.unique(own[above], return_index=True)
            at = np.searchsorted(keys, wanted[left]).clip(max=len(keys) - 1)
            found = (keys[at] == wanted[left]) & (keys[at] >= 0)
            child, rank = left[found], first[at[found]]
            if not len(child):
                break
            by_parent = _sorted(rank, rows["rung"][child], rows["index"][child])
            levels.append(child[by_parent])
            parents.append(above[rank[by_parent]])
            left = left[~found]
    order, parent = np.concatenate(levels), np.concatenate(parents)
    by_question = _sorted(rows["question"][order])
    order, parent = order[by_question], parent[by_question]
    place = np.full(len(rows), -1, np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return order, np.where(parent >= 0, place[parent], -1)


def _sorted(*keys: Array) -> Array:
    """Order by several keys, the first one foremost, that keeps equals as they are."""
    if len(keys) == 1 and bool((keys[0][1:] >= keys[0][:-1]).all()):
        return np.arange(len(keys[0]))
    return np.lexsort(keys[::-1])


def _ids(rows: Array, traces: TraceSet) -> tuple[Array, Array]:
    """Numbers for each attempt's own id and for its parent's, (n,) both; -1 for no parent.

    Equal numbers are equal ids at the same question; an id that is nobody's parent is -1.
    """
    known: dict[Any, int] = {}
    if "parent_id" not in traces.stored.schema.names:
        return np.full(len(rows), -1), np.full(len(rows), -1)

    def parent(name: Any) -> int:
        return -1 if name is None else known.setdefault(name, len(known))

    wanted = _scanned(traces, "parent_id", parent)[rows["row"]]
    own = _scanned(traces, "attempt_id", lambda name: known.get(name, -1))[rows["row"]]
    question = rows["question"].astype(np.int64) * len(known)
    return np.where(own < 0, -1, question + own), np.where(wanted < 0, -1, question + wanted)


def _scanned(traces: TraceSet, name: str, code: Any) -> Array:
    return np.concatenate([code_rows(batch[name], code) for batch in traces.scan([name])])


def _table(
    questions: pa.Table, num_rungs: int, rows: Array, parent: Array, texts: list[str]
) -> TraceTable:
    """Arrays of attempts in order, (M,), whose answers are numbered in `texts`."""
    precise = rows.dtype["mean_logprob"].type
    judged = "verifier_tokens" in (rows.dtype.names or ())
    attempts = np.zeros(len(rows), attempt_type(precise, judged=judged))
    for name in attempts.dtype.names or ():
        attempts[name] = rows[name]
    for name in ("mean_logprob", "min_logprob"):
        attempts[name] = np.maximum(attempts[name], LEAST_LOGPROB)
    attempts["answer"], correct, answers = number_answers(
        rows["question"], rows["answer"], rows["correct"], texts, len(questions)
    )
    fresh = parent < 0
    children = np.flatnonzero(~fresh)
    revisers, by = np.unique(attempts["rung"][children], return_inverse=True)
    held = np.zeros((len(rows), len(revisers), 2), np.int32)
    # Siblings by one arm lie side by side, so the first of them is where these begin.
    of, first, number = np.unique(
        parent[children] * len(revisers) + by, return_index=True, return_counts=True
    )
    held.reshape(-1, 2)[of] = np.column_stack([children[first], number])
    stream, length = _streams(rows[fresh], np.flatnonzero(fresh), num_rungs)
    return TraceTable(
        **question_fields(questions),
        datasets=tuple(column(questions, "dataset", "")),
        prompt_tokens=attempts["prompt_tokens"][np.maximum(stream[:, :, 0], 0)].astype(np.int64),
        stream=stream,
        stream_length=length,
        answer_correct=correct,
        answers=answers,
        attempts=attempts,
        revisers=tuple(revisers.tolist()),
        children=held,
    )


def _streams(fresh: Array, place: Array, num_rungs: int) -> tuple[Array, Array]:
    """Independent attempts by question and rung, (Q, R, S), and how many there are, (Q, R)."""
    group = fresh["question"].astype(np.int64) * num_rungs + fresh["rung"]
    num_questions = int(fresh["question"][-1]) + 1
    length = np.bincount(group, minlength=num_questions * num_rungs)  # (Q * R,)
    begin = length.cumsum() - length
    stream = np.full((num_questions * num_rungs, int(length.max())), -1, np.int32)
    stream[group, np.arange(len(group)) - begin[group]] = place
    shape = num_questions, num_rungs
    return stream.reshape(*shape, -1), length.reshape(shape)
