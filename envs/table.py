"""Traces as arrays, for replaying thousands of episodes at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from controller.answers import normalize_answer
from controller.episodes import LEAST_LOGPROB
from controller.errors import TraceFormatError
from controller.text_features import text_features
from controller.types import ModelSpec
from envs.traces import TraceSet


@dataclass(frozen=True, kw_only=True)
class TraceTable:
    """Attempts of a ladder's models as arrays: Q questions, R rungs, M attempts.

    Attributes:
        question_ids, datasets, levels: one entry per question.
        prompt_tokens: (Q, R).
        hidden: (Q, H) prompt states of the small model; None if not recorded.
        texts: the questions; None if not recorded.
        stream: (Q, R, S) rows of independent attempts, -1 where there are no more.
        stream_length: (Q, R) how many there are.
        answer_correct: (Q, K) whether answer k of a question is right.
        num_answers: K.
        answers: per question, the answers by id.
        rung, answer, first_child, num_children: (M,) columns of attempts.
        attempt_prompt_tokens, completion_tokens: likewise.
        mean_logprob, min_logprob, verifier_score: likewise; NaN where unknown.
        attempt_rows: (M,) row of each attempt in the trace set.
    """

    question_ids: tuple[str, ...]
    datasets: tuple[str, ...]
    levels: NDArray[np.int64]
    prompt_tokens: NDArray[np.int64]
    hidden: NDArray[np.float32] | None
    texts: pa.ChunkedArray | None = None
    stream: NDArray[np.int64]
    stream_length: NDArray[np.int64]
    answer_correct: NDArray[np.bool_]
    answers: tuple[tuple[str, ...], ...]
    rung: NDArray[np.int64]
    answer: NDArray[np.int64]
    completion_tokens: NDArray[np.int64]
    attempt_prompt_tokens: NDArray[np.int64]
    mean_logprob: NDArray[np.float64]
    min_logprob: NDArray[np.float64]
    verifier_score: NDArray[np.float64]
    first_child: NDArray[np.int64]
    num_children: NDArray[np.int64]
    attempt_rows: NDArray[np.int64]

    @property
    def num_answers(self) -> int:
        """K, the most distinct answers that any question has."""
        return int(self.answer_correct.shape[1])

    @cached_property
    def text_features(self) -> NDArray[np.float32] | None:
        """What the wording of each question tells, (Q, H); None if it was not recorded."""
        if self.texts is None:
            return None
        return np.stack([text_features(text) for text in self.texts.to_pylist()])

    def __len__(self) -> int:
        return len(self.question_ids)

    def right(self, attempts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether attempts of each question, (Q, ...) with -1 for none, are right."""
        places = np.maximum(attempts, 0)
        answer = self.answer[places]
        question = np.arange(len(self)).reshape(-1, *(1,) * (attempts.ndim - 1))
        known = self.answer_correct[question, np.maximum(answer, 0)]
        return np.asarray(known & (answer >= 0) & (attempts >= 0))

    def take(self, questions: NDArray[np.int64]) -> TraceTable:
        """The same with these questions alone, (q,) positions; attempts keep their rows."""
        return replace(
            self,
            question_ids=tuple(self.question_ids[q] for q in questions),
            datasets=tuple(self.datasets[q] for q in questions),
            levels=self.levels[questions],
            prompt_tokens=self.prompt_tokens[questions],
            hidden=None if self.hidden is None else self.hidden[questions],
            texts=None if self.texts is None else self.texts.take(questions),
            stream=self.stream[questions],
            stream_length=self.stream_length[questions],
            answer_correct=self.answer_correct[questions],
            answers=tuple(self.answers[q] for q in questions),
        )

    @classmethod
    def build(
        cls, traces: TraceSet, splits: Iterable[str], ladder: Sequence[str] | None = None
    ) -> TraceTable:
        """Arrays of some splits.

        Args:
            traces: recorded attempts.
            splits: which of train, validation and test.
            ladder: models, the small one first; see `TraceSet.default_ladder`.

        Raises:
            TraceFormatError: no question of these splits has an attempt by every model.
        """
        return _TableBuilder(traces, set(splits), traces.models(ladder)).build()


class _TableBuilder:
    def __init__(self, traces: TraceSet, splits: set[str], models: Sequence[ModelSpec]) -> None:
        self.traces, self.splits = traces, splits
        self.rungs = {model.name: model.rung for model in models}
        self._columns = {
            name: traces.attempts[name].to_pylist() for name in traces.attempts.column_names
        }

    def _column(self, name: str, rows: list[int], default: float) -> NDArray[np.float64]:
        column = self._columns.get(name)
        if column is None:
            return np.full(len(rows), default)
        return np.array([default if column[r] is None else column[r] for r in rows], np.float64)

    def build(self) -> TraceTable:
        questions = self._questions()
        order: list[int] = []
        streams: list[list[list[int]]] = []
        children: dict[int, tuple[int, int]] = {}
        for rows in questions.values():
            streams.append(self._place(rows, order, children))
        if not order:
            raise TraceFormatError(
                f"{self.traces.path}: expected questions of {sorted(self.splits)} with attempts by "
                f"each of {list(self.rungs)}, found none"
            )
        rungs = np.array([self.rungs[self._columns["model"][r]] for r in order])
        answer, correct, answers = self._answers(list(questions), order)
        longest = max(len(s) for stream in streams for s in stream)
        stream = np.full((len(streams), len(self.rungs), longest), -1)  # (Q, R, S)
        for q, per_rung in enumerate(streams):
            for rung, entries in enumerate(per_rung):
                stream[q, rung, : len(entries)] = entries
        prompts = self._column("prompt_tokens", order, 0).astype(np.int64)
        first_child = np.array([children.get(i, (0, 0))[0] for i in range(len(order))])
        num_children = np.array([children.get(i, (0, 0))[1] for i in range(len(order))])
        return TraceTable(
            question_ids=tuple(questions),
            **self._question_columns(list(questions)),
            prompt_tokens=prompts[np.maximum(stream[:, :, 0], 0)],
            stream=stream,
            stream_length=(stream >= 0).sum(2),
            answer_correct=correct,
            answers=answers,
            rung=rungs,
            answer=answer,
            completion_tokens=self._column("completion_tokens", order, 0).astype(np.int64),
            attempt_prompt_tokens=prompts,
            mean_logprob=np.maximum(self._column("mean_logprob", order, np.nan), LEAST_LOGPROB),
            min_logprob=np.maximum(self._column("min_logprob", order, np.nan), LEAST_LOGPROB),
            verifier_score=self._column("verifier_score", order, np.nan),
            first_child=first_child,
            num_children=num_children,
            attempt_rows=np.array(order),
        )

    def _questions(self) -> dict[str, list[int]]:
        """Attempt rows of each question that every model of the ladder has tried."""
        table = self.traces.questions
        rows: dict[str, list[int]] = {
            question: []
            for question, split in zip(
                table["question_id"].to_pylist(), table["split"].to_pylist(), strict=True
            )
            if split in self.splits
        }
        tried: dict[str, set[str]] = {}
        for row, (question, model) in enumerate(
            zip(self._columns["question_id"], self._columns["model"], strict=True)
        ):
            if question in rows and model in self.rungs:
                rows[question].append(row)
                if self._columns["action"][row] != "revise":
                    tried.setdefault(question, set()).add(model)
        return {q: r for q, r in rows.items() if len(tried.get(q, ())) == len(self.rungs)}

    def _place(
        self, rows: list[int], order: list[int], children: dict[int, tuple[int, int]]
    ) -> list[list[int]]:
        """Append a question's attempts to `order`, siblings side by side."""
        index = self._columns.get("index") or range(len(self._columns["model"]))
        rows = sorted(rows, key=lambda r: (self.rungs[self._columns["model"][r]], index[r], r))
        streams: list[list[int]] = [[] for _ in self.rungs]
        revisions: dict[str, list[int]] = {}
        parents = self._columns.get("parent_id")
        for row in rows:
            if self._columns["action"][row] != "revise":
                streams[self.rungs[self._columns["model"][row]]].append(len(order))
                order.append(row)
            elif parents is not None and parents[row] is not None:
                revisions.setdefault(parents[row], []).append(row)
        placed = [place for stream in streams for place in stream]
        while placed:
            place = placed.pop(0)
            siblings = revisions.pop(self._columns["attempt_id"][order[place]], [])
            if siblings:
                children[place] = (len(order), len(siblings))
                placed.extend(range(len(order), len(order) + len(siblings)))
                order.extend(siblings)
        return streams

    def _answers(
        self, questions: list[str], order: list[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], tuple[tuple[str, ...], ...]]:
        position = {question: q for q, question in enumerate(questions)}
        ids: list[dict[str, int]] = [{} for _ in questions]
        verdicts: list[dict[int, bool]] = [{} for _ in questions]
        answer = np.full(len(order), -1)
        for i, row in enumerate(order):
            text = normalize_answer(self._columns["answer"][row])
            if text is None:
                continue
            q = position[self._columns["question_id"][row]]
            answer[i] = ids[q].setdefault(text, len(ids[q]))
            verdicts[q].setdefault(int(answer[i]), bool(self._columns["correct"][row]))
        correct = np.zeros((len(questions), max(1, *(len(i) for i in ids), 1)), bool)  # (Q, K)
        for q, verdict in enumerate(verdicts):
            for k, right in verdict.items():
                correct[q, k] = right
        return answer, correct, tuple(tuple(i) for i in ids)

    def _question_columns(self, questions: list[str]) -> dict[str, Any]:
        table = self.traces.questions
        place = {q: i for i, q in enumerate(table["question_id"].to_pylist())}
        rows = [place[q] for q in questions]

        def column(name: str, default: Any) -> list[Any]:
            if name not in table.column_names:
                return [default] * len(rows)
            values = table[name].to_pylist()
            return [default if values[r] is None else values[r] for r in rows]

        hidden = column("prompt_hidden", None)
        texts = table["question"] if "question" in table.column_names else None
        return {
            "datasets": tuple(column("dataset", "")),
            "levels": np.array(column("level", 0), np.int64),
            "hidden": None if any(h is None for h in hidden) else np.array(hidden, np.float32),
            "texts": None if texts is None or texts.null_count else texts.take(rows),
        }
