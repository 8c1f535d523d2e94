"""Questions as arrays, and what is known of them before the first attempt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from controller.errors import ConfigError
from controller.policy.difficulty import Reads
from controller.process.lockstep import Array, Bools, Floats, Ints, Singles
from controller.process.wording import shape_features, text_features


@dataclass(frozen=True, kw_only=True, eq=False)
class QuestionTable:
    """Q questions and the answers that were given to them.

    Attributes:
        question_ids: (Q,).
        levels: difficulty level of each question, (Q,); 0 when unknown.
        hidden: (Q, H) prompt states of the small model; None if not recorded.
        texts: the questions; None if not recorded.
        answer_correct: (Q, K) whether answer k of a question is right.
        answers: per question, the answers by id.
    """

    question_ids: tuple[str, ...]
    levels: Ints
    hidden: Singles | None
    texts: pa.ChunkedArray | None = None
    answer_correct: Bools
    answers: tuple[tuple[str, ...], ...]

    @property
    def num_questions(self) -> int:
        """Q."""
        return len(self.question_ids)

    def features(self, reads: Reads) -> Singles | None:
        """What difficulty is read from, (Q, H); None if it was not recorded."""
        if self.texts is None or (reads == "prompt" and self.hidden is None):
            return None
        if reads == "words":
            return self._words
        if reads == "shape" or self.hidden is None:
            return self._shapes
        return np.concatenate([self.hidden, self._shapes], 1)

    def read(self, readings: Sequence[Callable[[str], float]]) -> Floats:
        """What functions tell of each question's text, (Q, F); each is read once.

        Raises:
            ConfigError: the texts were not recorded, or a function tells no number.
        """
        if readings and self.texts is None:
            raise ConfigError(
                "own_features: expected the questions' texts in the trace set, for features that "
                "are read from these, found none"
            )
        for read in readings:
            if read not in self._read:
                found = [read(text) for text in self._wordings]
                try:
                    self._read[read] = np.array(found, np.float64).reshape(len(found))
                except (TypeError, ValueError) as error:
                    raise ConfigError(
                        f"own_features: expected a number of each text, found {found[:3]}: {error}"
                    ) from None
        columns = np.array([self._read[read] for read in readings], np.float64)
        return columns.reshape(len(readings), self.num_questions).T

    @cached_property
    def _read(self) -> dict[Callable[[str], float], Floats]:
        return {}

    @cached_property
    def _words(self) -> Singles:
        return np.stack([*map(text_features, self._wordings)])

    @cached_property
    def _shapes(self) -> Singles:
        return np.stack([*map(shape_features, self._wordings)])

    @property
    def _wordings(self) -> list[str]:
        return [] if self.texts is None else self.texts.to_pylist()

    def _of(self, questions: Ints) -> dict[str, Any]:
        """These fields for some questions, (q,) positions."""
        return {
            "question_ids": tuple(self.question_ids[q] for q in questions),
            "levels": self.levels[questions],
            "hidden": None if self.hidden is None else self.hidden[questions],
            "texts": None if self.texts is None else self.texts.take(questions),
            "answer_correct": self.answer_correct[questions],
            "answers": tuple(self.answers[q] for q in questions),
        }


def question_fields(questions: pa.Table) -> dict[str, Any]:
    """Fields of a `QuestionTable`; texts and states only if each of the questions has them."""
    states = _whole(questions, "prompt_hidden")
    if states is not None:
        values = states.combine_chunks().flatten().to_numpy().astype(np.float32)
        states = values.reshape(len(questions), -1)
    return {
        "question_ids": tuple(questions["question_id"].to_pylist()),
        "levels": column(questions, "level", 0),
        "hidden": states,
        "texts": _whole(questions, "question"),
    }


def _whole(questions: pa.Table, name: str) -> Any:
    known = name in questions.column_names and not questions[name].null_count
    return questions[name] if known else None


def column(table: pa.Table | pa.RecordBatch, name: str, default: float | str) -> Array:
    """A column, (n,), of the kind of its default, which stands for what is unknown."""
    if name not in table.schema.names:
        return np.full(len(table), default, object if isinstance(default, str) else None)
    values = table[name]
    if isinstance(default, str):
        return np.array([default if v is None else v for v in values.to_pylist()], object)
    kind = pa.float64() if isinstance(default, float) else pa.int64()
    return pc.fill_null(values.cast(kind, safe=False), default).to_numpy(zero_copy_only=False)


def number_answers(
    question: Array, code: Array, correct: Array, texts: list[str], num_questions: int
) -> tuple[Array, Bools, tuple[tuple[str, ...], ...]]:
    """Answers numbered within each question as they appear.

    Args:
        question: of M attempts, (M,), in order.
        code: of their answers, (M,), positions in `texts`; -1 for none.
        correct: (M,) verdicts; of several on an answer the first counts.
        texts: of the answers.
        num_questions: Q.

    Returns:
        Numbers, (M,), -1 for none; right ones, (Q, K); texts by question.
    """
    given, distinct = np.flatnonzero(code >= 0), max(len(texts), 1)
    keys = question[given].astype(np.int64) * distinct + code[given]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    appearance = np.argsort(first)
    rank = np.empty_like(appearance)
    rank[appearance] = np.arange(len(appearance))
    owner, text = np.divmod(keys[first[appearance]], distinct)
    begin = np.searchsorted(owner, np.arange(num_questions + 1))  # (Q + 1,)
    number, local = code.copy(), np.arange(len(owner)) - begin[owner]
    number[given] = local[rank[inverse]]
    right = np.zeros((num_questions, int(max(1, np.diff(begin).max(initial=1)))), bool)  # (Q, K)
    right[owner, local] = correct[given[first[appearance]]]
    shown = [texts[t] for t in text]
    ends = zip(begin.tolist(), begin[1:].tolist(), strict=False)
    return number, right, tuple(tuple(shown[a:b]) for a, b in ends)
