"""A rule sees strange questions through, within what questions of training cost."""

import pytest

from controller.errors import ConfigError
from controller.loop import Controller
from tests.conftest import CHECKPOINTS


@pytest.fixture(scope="module")
def controller():
    with Controller.load(CHECKPOINTS / "controller") as controller:
        yield controller


@pytest.mark.parametrize("question", ["Who wrote Hamlet?", "Hello", "17 + 25 = ?"])
def test_a_strange_wording_is_a_rules_and_costs_little(controller, question):
    outcome = controller.answer(question)
    assert {decision.decided_by for decision in outcome.decisions} == {"adaptive-cascade"}
    typical = controller.checkpoint.calibration.cost_at(outcome.price)
    before_last = outcome.decisions[-2].cost
    assert before_last < 2 * typical


def test_questions_like_those_of_training_are_the_policys(controller, validation):
    for question in validation.questions[:20]:
        outcome = controller.answer(question)
        assert {decision.decided_by for decision in outcome.decisions} == {"policy"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "question: expected a text, found ''"),
        (" \n", "question: expected a text"),
        (None, "question: expected a text, found None"),
        ("a\ud800b", "expected Unicode text, found half a surrogate pair at 1"),
    ],
)
def test_what_no_model_can_be_asked_is_refused_before_it_costs(controller, text, message):
    with pytest.raises(ConfigError, match=message):
        controller.answer(text)
