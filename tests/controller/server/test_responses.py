"""The Responses API, asked with OpenAI's client."""

import json

import openai
import pytest

from tests.controller.server.test_structured import OSLO, Forecast, calling
from tests.controller.server.test_structured import WEATHER as TOOL
from tests.controller.server.upstream import CUT, REFUSAL, completion, replying, script

WEATHER = {"type": "function", **TOOL["function"]}


@pytest.fixture
def responses(service):
    return service.openai.responses


def test_a_text(responses, small):
    found = responses.create(
        model="allot",
        instructions="Be brief.",
        input="2+5=",
        max_output_tokens=17,
        temperature=0.3,
        extra_body={"allot": {"price": 1e-3}},
    )
    assert (found.status, found.output_text) == ("completed", "Answer: 7")
    assert found.usage.total_tokens == found.usage.input_tokens + found.usage.output_tokens > 0
    assert found.temperature == 0.3
    sent = small.requests[0].body
    assert [turn["role"] for turn in sent["messages"]] == ["system", "user"]
    assert (sent["max_tokens"], sent["temperature"]) == (17, 0.3)


def test_thoughts_are_not_told_and_that_is_said(responses, small):
    found = responses.create(
        model="allot",
        input="2+5=",
        include=["reasoning.encrypted_content"],
        reasoning={"effort": "low", "summary": "auto", "generate_summary": None},
    )
    unknown = ["include.reasoning.encrypted_content", "reasoning.summary"]
    assert found.model_extra["allot"]["ignored"] == unknown
    assert small.requests[0].body["reasoning_effort"] == "low"


def test_a_stream(responses):
    with responses.stream(model="allot", input=[{"role": "user", "content": "2+5="}]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "Answer: 7"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.output_text == "Answer: 7"


@pytest.mark.parametrize("stream", [False, True])
def test_calls_and_what_they_return(responses, small, large, stream):
    arguments = json.dumps(OSLO)
    script((small, large), calling(arguments))
    ask = [{"role": "user", "content": [{"type": "input_text", "text": "Oslo?"}]}]
    asked = {"model": "allot", "input": ask, "tools": [WEATHER], "tool_choice": "required"}
    if stream:
        with responses.stream(**asked) as events:
            found = events.get_final_response()
    else:
        found = responses.create(**asked)
    (call,) = found.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "weather", OSLO)
    assert small.requests[0].body["tools"][0]["function"]["name"] == "weather"

    script((small, large), completion("Answer: rain"))
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    turns = [*ask, call.model_dump(), result]
    found = responses.create(model="allot", input=turns, tools=[WEATHER])
    assert found.output_text == "Answer: rain"
    sent = small.requests[0].body["messages"]
    assert [turn["role"] for turn in sent] == ["user", "assistant", "tool"]


def test_a_form(responses, small, large):
    script((small, large), completion(json.dumps(OSLO)))
    found = responses.parse(model="allot", input="Oslo?", text_format=Forecast)
    assert found.output_parsed == Forecast(city="Oslo", days=2)
    assert found.model_extra["allot"]["answer"] == '{"city":"Oslo","days":2}'


def test_an_answer_that_was_cut_is_incomplete(responses, small, large):
    script((small, large), CUT)
    found = responses.create(model="allot", input="2+5=")
    assert found.status == "incomplete"
    assert found.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize(
    "field",
    [
        {"previous_response_id": "resp_1"},
        {"background": True},
        {"tools": [{"type": "web_search"}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        {"text": {"format": {"type": "grammar"}}},
    ],
)
def test_what_is_not_served_is_refused_by_name(responses, small, field):
    with pytest.raises(openai.BadRequestError, match=next(iter(field))):
        responses.create(model="allot", input="2+5=", extra_body=field)
    assert small.calls == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_is_told_as_one_and_sent_back(responses, small, large, stream):
    script((small, large), REFUSAL)
    if stream:
        with responses.stream(model="allot", input="2+5=") as events:
            kinds = [event.type for event in events]
            found = events.get_final_response()
        assert "response.refusal.done" in kinds
    else:
        found = responses.create(model="allot", input="2+5=")
    (part,) = found.output[0].content
    assert (part.type, part.refusal) == ("refusal", "No.")
    thoughts = {"type": "reasoning", "id": "rs_1", "summary": [], "content": None}
    turns = [thoughts, *(item.model_dump() for item in found.output)]
    asked = {"role": "user", "content": "2+5="}
    again = responses.create(model="allot", input=[asked, *turns, asked])
    assert again.model_extra["allot"]["ignored"] == ["input.reasoning"]
    assert small.requests[-1].body["messages"][1] == {"role": "assistant", "content": "No."}


def test_failures_within_a_stream_are_told(service, small, large):
    script((small, large), replying(500))
    with pytest.raises(openai.APIError, match="no model answered"):
        list(service.openai.responses.create(model="allot", input="2+5=", stream=True))
