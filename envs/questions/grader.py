"""Graders: compare an answer with the reference. Nothing in an answer is executed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from controller.answers import UNSTATED, answer_kind, is_right
from controller.process.types import Question


class Grader(Protocol):
    """Decides whether an answer is right."""

    def is_right(self, question: Question, answer: str | None) -> bool:
        """Whether `answer` is right for `question`."""


class KindGrader:
    """Right if answer and reference are the same, as the kind of the question's answers says.

    >>> question = Question(question_id="q", text="3 * 4 =", reference="12")
    >>> KindGrader().is_right(question, "12.0"), KindGrader().is_right(question, None)
    (True, False)
    """

    def is_right(self, question: Question, answer: str | None) -> bool:
        """See `Grader.is_right`."""
        return is_right(answer_kind(question.answers or UNSTATED), answer, question.reference)


class RecordedGrader:
    """Right if a recorded attempt with that answer was; `right` has such answers by question id."""

    def __init__(self, right: Mapping[str, frozenset[str]]) -> None:
        self.right = right

    def is_right(self, question: Question, answer: str | None) -> bool:
        """See `Grader.is_right`."""
        return answer in self.right.get(question.question_id, frozenset())
