"""What the bundled models learned from is right."""

import pytest

from controller.answers import read_answer
from envs.questions.bundled import TASKS, QuestionSource
from envs.questions.grader import KindGrader
from recipes.solutions import PHRASES, solution


@pytest.mark.parametrize("task", sorted(TASKS))
def test_worked_solutions_end_in_the_reference_and_prompts_have_the_wordings(task):
    for level in range(1, 6):
        for index in range(20):
            drawn = QuestionSource(task, level)[index]
            answer = read_answer(solution(drawn), drawn.question.answers, None)
            assert KindGrader().is_right(drawn.question, answer)
            assert all(phrase in drawn.question.text for phrase in PHRASES[task])
