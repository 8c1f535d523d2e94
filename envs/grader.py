"""Graders: compare an answer with the reference. Nothing in an answer is executed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from controller.answers import normalize_answer
from controller.types import Question


class Grader(Protocol):
    """Decides whether an answer is right."""

    def is_right(self, question: Question, answer: str | None) -> bool:
        """Whether `answer` is right for `question`."""
        ...


class ExactGrader:
    """Right if answer and reference are equal once normalised: numbers by value.

    >>> question = Question(question_id="q", text="3 * 4 =", reference="12")
    >>> ExactGrader().is_right(question, "12.0"), ExactGrader().is_right(question, None)
    (True, False)
    """

    def is_right(self, question: Question, answer: str | None) -> bool:
        """See `Grader.is_right`."""
        return answer is not None and normalize_answer(answer) == normalize_answer(
            question.reference
        )


class RecordedGrader:
    """Right if a recorded attempt with that answer was graded right.

    Args:
        right: by question id, the right answers, normalised.
    """

    def __init__(self, right: Mapping[str, frozenset[str]]) -> None:
        self.right = right

    def is_right(self, question: Question, answer: str | None) -> bool:
        """See `Grader.is_right`."""
        return answer in self.right.get(question.question_id, frozenset())
