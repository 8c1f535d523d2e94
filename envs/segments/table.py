"""Recorded trees as arrays, for replay thousands of attempts at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.errors import TraceFormatError
from controller.process.episodes import LEAST_LOGPROB, NO_ANSWER
from envs.questions.answer_kinds import kinds_of
from envs.questions.prompts import Prompts, read_prompts
from envs.segments.traces import ESCALATE, PROMPT, SAMPLE, TO_END, SegmentTraces

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NOWHERE = -1


@dataclass(frozen=True, kw_only=True)
class SegmentTable(Prompts):
    """Trees of some splits; Q questions, T attempts in the order of questions, M nodes.

    Attributes:
        question_ids: (Q,).
        levels: difficulty level of each question, (Q,); 0 when unknown.
        question: of each attempt, (T,) positions.
        attempt: number of each attempt, (T,).
        root: node of each attempt's prompt, (T,).
        prompt_tokens: (T, R).
        draws: node that each draw of the small model leads to, (M, D); -1 where none was made.
        repeats: earlier draws that lead to the same node, (M, D).
        escalated: node that a segment of the large model leads to, (M,); -1 for none.
        ended: node that the large model's rest of the attempt leads to, (M,); -1 for none.
        num_tokens, small_tokens, mean_logprob, min_logprob, entropy, value, done: see
            `SegmentColumns`, (M,).
        answer: answer id of the attempt, or of the answer forced after the node, (M,).
        forced_tokens: what forcing it takes, (M,).
        answer_correct: (Q, K) by question and answer id.
        answers: texts of the answers of each question, by id.
        rows: row of each node in segments.parquet, (M,).
    """

    question_ids: tuple[str, ...]
    levels: Ints
    question: Ints
    attempt: Ints
    root: Ints
    prompt_tokens: Ints
    draws: Ints
    repeats: Ints
    escalated: Ints
    ended: Ints
    num_tokens: Ints
    small_tokens: Ints
    mean_logprob: Floats
    min_logprob: Floats
    entropy: Floats
    value: Floats
    done: NDArray[np.bool_]
    answer: Ints
    forced_tokens: Ints
    answer_correct: NDArray[np.bool_]
    answers: tuple[tuple[str, ...], ...]
    rows: Ints

    def __len__(self) -> int:
        """Attempts, T."""
        return len(self.root)

    @property
    def num_questions(self) -> int:
        """Q."""
        return len(self.question_ids)

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

    def right(self, trees: Ints, nodes: Ints) -> NDArray[np.bool_]:
        """Whether the answers at nodes of some attempts are right, (n,)."""
        answer = self.answer[nodes]
        known = self.answer_correct[self.question[trees], np.maximum(answer, 0)]
        return np.asarray(known & (answer >= 0))

    def take(self, questions: Ints) -> SegmentTable:
        """The same with these questions alone, (q,) positions; nodes keep their rows."""
        trees = (questions[:, None] * self.num_attempts + np.arange(self.num_attempts)).ravel()
        return replace(
            self,
            question_ids=tuple(self.question_ids[q] for q in questions),
            levels=self.levels[questions],
            hidden=None if self.hidden is None else self.hidden[questions],
            texts=None if self.texts is None else self.texts.take(questions),
            question=np.repeat(np.arange(len(questions)), self.num_attempts),
            attempt=self.attempt[trees],
            root=self.root[trees],
            prompt_tokens=self.prompt_tokens[trees],
            answer_correct=self.answer_correct[questions],
            answers=tuple(self.answers[q] for q in questions),
        )

    @classmethod
    def build(
        cls, traces: SegmentTraces, splits: Iterable[str], ladder: Sequence[str] | None = None
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
        return _Builder(traces, set(splits)).build()


class _Builder:
    def __init__(self, traces: SegmentTraces, splits: set[str]) -> None:
        self.traces, self.splits = traces, splits
        questions = traces.questions
        chosen = [split in splits for split in questions["split"].to_pylist()]
        self.questions = [row for row, keep in enumerate(chosen) if keep]
        ids = questions["question_id"].to_pylist()
        self.ids = [ids[row] for row in self.questions]
        position = {name: q for q, name in enumerate(self.ids)}
        of_rows = [position.get(q, -1) for q in traces.segments["question_id"].to_pylist()]
        self.of_rows = np.array(of_rows, np.int64)
        kept = np.flatnonzero(self.of_rows >= 0)
        attempt = self._all("attempt", np.int64)[kept]
        node = self._all("node", np.int64)[kept]
        self.rows = kept[np.lexsort((node, attempt, self.of_rows[kept]))]
        if not len(self.rows):
            raise TraceFormatError(
                f"{traces.path}: expected questions of {sorted(splits)}, found none"
            )

    def _all(self, name: str, dtype: Any, default: float = np.nan) -> NDArray[Any]:
        if name not in self.traces.segments.column_names:
            return np.full(self.traces.segments.num_rows, default, dtype)
        column = self.traces.segments[name].to_numpy()
        if dtype is np.int64:
            column = np.where(np.isnan(column.astype(np.float64)), NOWHERE, column)
        return np.asarray(column, dtype)

    def _column(self, name: str, dtype: Any) -> NDArray[Any]:
        return self._all(name, dtype)[self.rows]

    def _list(self, name: str) -> list[Any]:
        values: list[Any] = self.traces.segments[name].take(self.rows).to_pylist()
        return values

    def build(self) -> SegmentTable:
        question, attempt = self.of_rows[self.rows], self._column("attempt", np.int64)
        action = self._list("action")
        root = np.flatnonzero(np.array([a == PROMPT for a in action]))
        attempts = np.bincount(question[root], minlength=len(self.ids))
        if attempts.min() < 1 or attempts.min() < attempts.max():
            raise TraceFormatError(
                f"{self.traces.path}: expected equally many attempts at each question, found "
                f"{attempts.min()} to {attempts.max()}"
            )
        answer, correct, answers = self._answers(question)
        prompts = self._list("prompt_tokens")
        return SegmentTable(
            question_ids=tuple(self.ids),
            levels=self._levels(),
            **read_prompts(self.traces.questions.take(self.questions)),
            question=question[root],
            attempt=attempt[root],
            root=root,
            prompt_tokens=np.array([prompts[row] for row in root], np.int64),
            **self._links(question, action),
            num_tokens=np.maximum(self._column("num_tokens", np.int64), 0),
            small_tokens=np.maximum(self._column("small_tokens", np.int64), 0),
            mean_logprob=np.maximum(self._column("mean_logprob", np.float64), LEAST_LOGPROB),
            min_logprob=np.maximum(self._column("min_logprob", np.float64), LEAST_LOGPROB),
            entropy=self._column("entropy", np.float64),
            value=self._column("value", np.float64),
            done=self._column("done", np.bool_),
            answer=answer,
            forced_tokens=np.maximum(self._column("forced_tokens", np.int64), 0),
            answer_correct=correct,
            answers=answers,
            rows=self.rows,
        )

    def _links(self, question: Ints, action: Sequence[str]) -> dict[str, Any]:
        """Where the draws from each node lead."""
        node, before = self._column("node", np.int64), self._column("before", np.int64)
        place = {
            key: row for row, key in enumerate(zip(question.tolist(), node.tolist(), strict=True))
        }
        most = max(self.traces.draws)
        links = {
            "draws": np.full((len(node), most), NOWHERE),
            "repeats": np.zeros((len(node), most), np.int64),
            "escalated": np.full(len(node), NOWHERE),
            "ended": np.full(len(node), NOWHERE),
        }
        for row, (kind, indices) in enumerate(zip(action, self._list("draws"), strict=True)):
            if kind == PROMPT:
                continue
            parent = place[int(question[row]), int(before[row])]
            if kind == SAMPLE:
                links["draws"][parent, indices] = row
                links["repeats"][parent, indices] = np.arange(len(indices))
            else:
                links[{ESCALATE: "escalated", TO_END: "ended"}[kind]][parent] = row
        return links

    def _answers(
        self, question: Ints
    ) -> tuple[Ints, NDArray[np.bool_], tuple[tuple[str, ...], ...]]:
        ids: list[dict[str, int]] = [{} for _ in self.ids]
        verdicts: list[dict[int, bool]] = [{} for _ in self.ids]
        answer = np.full(len(question), NO_ANSWER)
        texts, correct = self._list("answer"), self._list("correct")
        kinds = kinds_of(self.traces.manifest, [""] * len(self.ids))
        for row, q in enumerate(question.tolist()):
            text = None if texts[row] is None else kinds[q].canonical(texts[row])
            if text is not None:
                answer[row] = ids[q].setdefault(text, len(ids[q]))
                verdicts[q].setdefault(int(answer[row]), bool(correct[row]))
        table = np.zeros((len(ids), max(1, *(len(i) for i in ids), 1)), bool)  # (Q, K)
        for q, verdict in enumerate(verdicts):
            table[q, list(verdict)] = list(verdict.values())
        return answer, table, tuple(tuple(i) for i in ids)

    def _levels(self) -> Ints:
        levels = self.traces.questions["level"].take(self.questions).to_pylist()
        return np.array([level or 0 for level in levels], np.int64)
