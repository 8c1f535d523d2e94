"""An answer on the terminal: texts as they stand, and why there is none."""

import io
from dataclasses import replace

from controller.loop import Controller
from controller.process.types import Question
from tests.conftest import CHECKPOINTS
from training.report.show import print_outcome
from training.report.view import plain_console


def test_texts_are_no_styles_and_what_failed_says_why():
    said = io.StringIO()
    console = plain_console(file=said, width=200)
    with Controller.load(CHECKPOINTS / "controller") as controller:
        for text in ("[/INST] [x, y] :apple:", "3 + 4? " * 500):
            question = Question(question_id="q", text=text)
            outcome = controller.answer(question, price=1e-4)
            print_outcome(console, question, replace(outcome, answer=outcome.answer and "[a, b]"))
    assert "[/INST] [x, y] :apple:\n" in said.getvalue()
    assert "answer [a, b], cost" in said.getvalue()
    assert "failed: context_length_exceeded" in said.getvalue()
    assert "answer none: no attempt has one, cost 0 small-model tokens" in said.getvalue()
