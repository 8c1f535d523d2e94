"""What clients ask for, and what they are told when it does not fit."""

import pytest
from pydantic import ValidationError

from controller.errors import ConfigError
from controller.server.routes import document
from controller.server.schema import ChatRequest, DecideRequest, complaint, read_terms


def test_the_body_wins_over_headers_and_one_price_over_all_others():
    headers = {"x-allot-accuracy": "0.5", "x-allot-budget": "300", "x-allot-max-escalations": "2"}
    terms = read_terms({"price": 1e-3, "round_price": None}, headers, seed=4)
    assert (terms.price, terms.accuracy, terms.round_price) == (1e-3, None, 0.0)
    assert (terms.budget, terms.max_escalations, terms.seed) == (300, 2, 4)
    assert read_terms({"seed": 1}, {}, seed=4).seed == 1
    assert 0 <= read_terms(None, {}, seed=-1).seed < 2**31


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"price": -1}, "price"),
        ({"price": "0.1"}, "price"),
        ({"price": 1e300}, "price"),
        ({"price": float("inf")}, "price"),
        ({"budget": float("nan")}, "budget"),
        ({"price": 1, "accuracy": 0.5}, "price, worth, accuracy, mean_cost"),
        ({"max_escalations": 1.5}, "max_escalations"),
        ({"prize": 1}, "prize"),
    ],
)
def test_a_complaint_names_the_field(given, field):
    with pytest.raises(ValidationError) as wrong:
        read_terms(given, {})
    message, where = complaint(wrong.value)
    assert where == field
    assert message.startswith(f"{field}: ")


def test_a_header_that_is_no_number_is_named():
    with pytest.raises(ConfigError, match="x-allot-price: expected a number"):
        read_terms(None, {"x-allot-price": "cheap"})


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0.type: Input should be 'text'",
        ),
        ({"stop": list("abcde")}, "stop: List should have at most 4 items"),
        (
            {"tool_choice": {"type": "allowed_tools"}},
            "tool_choice.type: Input should be 'function'",
        ),
    ],
)
def test_a_complaint_is_about_the_form_that_was_meant(changed, told):
    asked = {"model": "allot", "messages": [{"role": "user", "content": "Hi"}], **changed}
    with pytest.raises(ValidationError) as wrong:
        ChatRequest.model_validate(asked)
    assert complaint(wrong.value)[0].startswith(told)


def test_texts_are_not_repeated_in_complaints():
    with pytest.raises(ValidationError) as wrong:
        ChatRequest.model_validate_json('{"model": "allot", "messages": "my secret"}')
    assert "secret" not in complaint(wrong.value)[0]


def test_the_last_turn_is_the_question():
    turns = [("developer", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "2+2")]
    messages = [{"role": role, "content": text} for role, text in turns]
    question = ChatRequest(model="allot", messages=messages, max_tokens=10**6).question()
    assert (question.text, question.max_new_tokens) == ("2+2", 4096)
    both = ChatRequest(model="allot", messages=messages, max_tokens=9, max_completion_tokens=20)
    assert both.question().max_new_tokens == 9
    assert [turn["role"] for turn in question.history] == ["system", "user", "assistant"]
    with pytest.raises(ConfigError, match="messages: expected the last one from the user"):
        ChatRequest(model="allot", messages=messages[:3]).question()


def test_an_agent_may_have_gone_on_for_long():
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant")] * 500
    asked = {"model": "allot", "messages": [*turns, turns[0]]}
    assert len(ChatRequest.model_validate(asked).question().history) == 1000


def test_attempts_may_be_of_any_action_of_the_table():
    body = '{"prompt_tokens": [1], "attempts": [{"action": "revise", "prompt_tokens": 1, '
    asked = DecideRequest.model_validate_json(body + '"completion_tokens": 1}]}')
    assert asked.attempts[0].action.spec.revises


def test_the_document_says_what_every_term_means():
    terms = document(keys=True)["components"]["schemas"]["RequestTerms"]["properties"]
    assert terms["budget"]["description"] == "Hard cap on cost; None for no cap."
    assert all(field["description"] for field in terms.values())
