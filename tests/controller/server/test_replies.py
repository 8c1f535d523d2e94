"""Answers and refusals in OpenAI's form, from hand-made questions."""

import json
from types import SimpleNamespace

import pytest
from starlette.exceptions import HTTPException

from controller.core import Decision
from controller.errors import ConfigError
from controller.process.actions import Action, ActionKind
from controller.process.cost import Usage
from controller.process.types import Attempt, Question
from controller.server.engine import NoAnswerError, RequestTerms, Served
from controller.server.replies import CompletionForm, choice_json, refusal
from controller.server.schema import ChatRequest, CompletionRequest

ASKED = {"model": "allot", "messages": [{"role": "user", "content": "3+4"}]}
CHAT, TEXT = ChatRequest(**ASKED), CompletionRequest(model="allot", prompt="3+4")
STREAM = ChatRequest(**ASKED, stream=True, stream_options={"include_usage": True})

CHOICE = {
    "action": Action(ActionKind.SAMPLE),
    "probabilities": {"SAMPLE": 1.0},
    "value": 0.5,
    "observation": {"vote_share": 0.0},
    "leader": None,
    "cost": 0.0,
}
ATTEMPT = Attempt(
    attempt_id="a",
    question_id="q",
    model="small",
    rung=0,
    action=ActionKind.SAMPLE,
    index=0,
    answer="7",
    text="It is 7.",
    prompt_tokens=5,
    completion_tokens=3,
    usage=Usage(prefill_tokens=5, decoded_tokens=3),
)


def served(*attempts, **changes):
    usage = sum((a.usage for a in attempts), start=Usage(verifier_tokens=11, prefill_tokens=2))
    settings = {
        "episode_id": "e",
        "question": Question(question_id="q", text="3+4"),
        "caller": "anyone",
        "variant": SimpleNamespace(name="main", digest="d"),
        "answer": "7",
        "attempt": attempts[0] if attempts else None,
        "decisions": (Decision(**CHOICE, brought=attempts, final=True),),
        "attempts": attempts,
        "terms": RequestTerms(price=1e-3),
        "cost": 8.0,
        "usage": {"small": usage},
        "degraded": (),
        "limited": (),
        "ignored": (),
        "guarded": None,
        "warnings": (),
        "decision_s": 0.0,
        "wall_s": 0.0,
        **changes,
    }
    return Served(**settings)


@pytest.mark.parametrize("chat", [True, False])
def test_usage_is_told_in_all_and_by_what_it_was_for(chat):
    found = CompletionForm(CHAT if chat else TEXT, explain=False).whole(served(ATTEMPT))
    assert found["usage"]["total_tokens"] == 5 + 3 + 11 + 2
    by_action = found["allot"]["usage"]["by_action"]
    assert by_action["sample"]["decoded_tokens"] == 3
    assert by_action["verify"]["verifier_tokens"] == 11
    assert by_action["read"]["prefill_tokens"] == 2
    said = found["choices"][0]["message"]["content"] if chat else found["choices"][0]["text"]
    assert said == "It is 7."


def test_choices_show_what_was_seen_and_written_only_if_asked():
    decision = Decision(**CHOICE, brought=(ATTEMPT,))
    assert {"observation", "votes"}.isdisjoint(choice_json(decision))
    assert "text" not in choice_json(decision)["attempts"][0]
    shown = choice_json(decision, explain=True)
    assert shown["observation"] == {"vote_share": 0.0}
    assert shown["attempts"][0]["answer"] == "7"
    assert shown["attempts"][0]["text"] == "It is 7."
    json.dumps(shown)


def test_every_chunk_of_a_stream_has_a_choice_but_that_of_usage():
    chunks = CompletionForm(STREAM, explain=False)
    text = chunks.first() + chunks.answer(served(ATTEMPT))
    events = [json.loads(part[6:]) for part in text.decode().split("\n\n")[:-2]]
    assert [len(event["choices"]) for event in events] == [1, 1, 1, 0]
    assert events[-2]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (NoAnswerError(served(limited=("deadline",))), 504, "upstream_error", "deadline"),
        (NoAnswerError(served()), 503, "upstream_error", "models_unavailable"),
        (ConfigError("price: expected more"), 400, "invalid_request_error", None),
        (HTTPException(401, "no key"), 401, "authentication_error", "invalid_api_key"),
        (HTTPException(429, "busy"), 429, "rate_limit_error", None),
        (HTTPException(503, "nobody is there"), 503, "upstream_error", None),
    ],
)
def test_refusals_have_their_status(error, status, kind, code):
    found, body = refusal(error)
    assert (found, body["error"]["type"], body["error"]["code"]) == (status, kind, code)


def test_a_question_is_given_up_only_if_nothing_failed():
    assert served(attempt=None).gave_up
    assert not served(attempt=None, degraded=("small",)).gave_up
