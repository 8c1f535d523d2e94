"""Graders."""

from dataclasses import replace

from controller.process.types import Question
from envs.questions.grader import KindGrader, RecordedGrader

QUESTION = Question(question_id="q", text="?", reference="1/2", answers="number")


def test_the_question_says_which_answers_are_equal():
    grader = KindGrader()
    assert grader.is_right(QUESTION, "0.5")
    assert not grader.is_right(replace(QUESTION, answers="text"), "0.5")
    assert not grader.is_right(QUESTION, None)


def test_recorded_verdicts_stand():
    grader = RecordedGrader({"q": frozenset({"7"})})
    assert grader.is_right(QUESTION, "7")
    assert not grader.is_right(QUESTION, "1/2")
    assert not grader.is_right(replace(QUESTION, question_id="other"), "7")
