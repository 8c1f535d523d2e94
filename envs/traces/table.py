"""Traces as arrays, for replaying thousands of episodes at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.questions.prompts import Prompts

RUNG, ANSWER, PROMPT, COMPLETION, FIRST_CHILD, NUM_CHILDREN, CUT = range(7)
"""Columns of `TraceTable.counts`."""

MEAN_LOGPROB, MIN_LOGPROB, VERIFIER = range(3)
"""Columns of `TraceTable.signals`."""


@dataclass(frozen=True, kw_only=True)
class QuestionTable(Prompts):
    """Q questions and the answers that were given to them.

    Attributes:
        question_ids: (Q,).
        levels: difficulty level of each question, (Q,); 0 when unknown.
        answer_correct: (Q, K) whether answer k of a question is right.
        answers: per question, the answers by id.
    """

    question_ids: tuple[str, ...]
    levels: NDArray[np.int64]
    answer_correct: NDArray[np.bool_]
    answers: tuple[tuple[str, ...], ...]

    @property
    def num_questions(self) -> int:
        """Q."""
        return len(self.question_ids)

    def _of(self, questions: NDArray[np.int64]) -> dict[str, Any]:
        """These fields for some questions, (q,) positions."""
        return {
            "question_ids": tuple(self.question_ids[q] for q in questions),
            "levels": self.levels[questions],
            "hidden": None if self.hidden is None else self.hidden[questions],
            "texts": None if self.texts is None else self.texts.take(questions),
            "answer_correct": self.answer_correct[questions],
            "answers": tuple(self.answers[q] for q in questions),
        }


@dataclass(frozen=True, kw_only=True)
class TraceTable(QuestionTable):
    """Attempts of a ladder's models as arrays: Q questions, R rungs, M attempts.

    What is known of an attempt lies side by side, since replay fetches one here and one there:
    44 bytes an attempt, and another 4 for its place in `stream`.

    Attributes:
        datasets: (Q,).
        prompt_tokens: (Q, R).
        stream: (Q, R, S) rows of independent attempts, -1 where there are no more.
        stream_length: (Q, R) how many there are.
        counts: (M, 7) rung, answer (-1 for none), prompt_tokens, completion_tokens, where an
            attempt's revisions begin, how many there are, and whether it was cut; int32.
        signals: (M, 3) mean_logprob, min_logprob and verifier_score, NaN where unknown; as
            precise as they were recorded.
        attempt_rows: (M,) row of each attempt in the trace set.
    """

    datasets: tuple[str, ...]
    prompt_tokens: NDArray[np.int64]
    stream: NDArray[np.int32]
    stream_length: NDArray[np.int64]
    counts: NDArray[np.int32]
    signals: NDArray[np.floating]
    attempt_rows: NDArray[np.int32]

    @property
    def rung(self) -> NDArray[np.int32]:
        """(M,) rung of each attempt's model."""
        return self.counts[:, RUNG]

    @property
    def answer(self) -> NDArray[np.int32]:
        """(M,) id of each attempt's answer among its question's; -1 for none."""
        return self.counts[:, ANSWER]

    @property
    def attempt_prompt_tokens(self) -> NDArray[np.int32]:
        """(M,)."""
        return self.counts[:, PROMPT]

    @property
    def completion_tokens(self) -> NDArray[np.int32]:
        """(M,)."""
        return self.counts[:, COMPLETION]

    @property
    def first_child(self) -> NDArray[np.int32]:
        """(M,) where the revisions of each attempt begin."""
        return self.counts[:, FIRST_CHILD]

    @property
    def num_children(self) -> NDArray[np.int32]:
        """(M,) how many there are."""
        return self.counts[:, NUM_CHILDREN]

    @property
    def cut(self) -> NDArray[np.bool_]:
        """(M,) whether each attempt was cut at its longest."""
        return self.counts[:, CUT] > 0

    @property
    def mean_logprob(self) -> NDArray[np.floating]:
        """(M,), NaN where unknown."""
        return self.signals[:, MEAN_LOGPROB]

    @property
    def min_logprob(self) -> NDArray[np.floating]:
        """(M,), NaN where unknown."""
        return self.signals[:, MIN_LOGPROB]

    @property
    def verifier_score(self) -> NDArray[np.floating]:
        """(M,), NaN where unknown."""
        return self.signals[:, VERIFIER]

    @property
    def num_answers(self) -> int:
        """K, the most distinct answers that any question has."""
        return int(self.answer_correct.shape[1])

    def __len__(self) -> int:
        return len(self.question_ids)

    def question_of(self, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Question of each place that an episode can start at: the same here, (n,)."""
        return starts

    @property
    def num_attempts(self) -> int:
        """Attempts per question that are decided inside: each is one decision here."""
        return 1

    def starts(self, repeats: int) -> NDArray[np.int64]:
        """Where to begin to play every question `repeats` times, (Q * repeats,)."""
        return np.repeat(np.arange(len(self)), repeats)

    def right(self, attempts: NDArray[np.integer]) -> NDArray[np.bool_]:
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
            **self._of(questions),
            datasets=tuple(self.datasets[q] for q in questions),
            prompt_tokens=self.prompt_tokens[questions],
            stream=self.stream[questions],
            stream_length=self.stream_length[questions],
        )
