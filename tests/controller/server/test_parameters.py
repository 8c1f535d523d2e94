"""Every field that OpenAI documents is honoured, or refused by a 400 that names it."""

import json

import openai
import pytest

from controller.server.ops import episode_fields
from tests.controller.server.conftest import ASK
from tests.controller.server.upstream import completion, script


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0),
        ("top_p", 0.9),
        ("top_p", 0.0),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -0.5),
        ("logit_bias", {"42": -100}),
        ("stop", ["\n"]),
        ("reasoning_effort", "low"),
        ("reasoning_effort", "max"),
        ("verbosity", "low"),
        ("prompt_cache_key", "mine"),
        ("prompt_cache_retention", "24h"),
        ("safety_identifier", "somebody"),
        ("top_logprobs", 3),
    ],
)
def test_what_models_are_told(service, small, name, value):
    service.chat(logprobs=True, **{name: value})
    assert small.requests[0].body[name] == value


def test_what_no_model_reads_of_messages_is_said(service):
    part = {"type": "text", "text": "2+5=", "cache_control": {"type": "ephemeral"}}
    found = service.openai.chat.completions.create(
        model="allot", messages=[{"role": "user", "name": "ann", "content": [part]}]
    )
    ignored = found.model_extra["allot"]["ignored"]
    assert ignored == ["messages.content.cache_control", "messages.name"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"store": True}, "store"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x", "format": "mp3"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f"}}],
                "tool_choice": {"type": "function", "function": {"name": "g"}},
            },
            "tool_choice",
        ),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"top_k": 5}, "top_k"),
        ({"temprature": 0.5}, "temprature"),
    ],
)
def test_what_is_refused_by_name(service, small, fields, param):
    with pytest.raises(openai.BadRequestError, match=param) as refused:
        service.chat(extra_body=fields)
    assert refused.value.param.startswith(param)
    assert small.calls == 0


def test_what_asks_for_nothing_passes(service):
    found = service.chat(
        n=1,
        store=False,
        service_tier="auto",
        modalities=["text"],
        logprobs=False,
        response_format={"type": "text"},
        tool_choice="auto",
        extra_body={"prediction": None, "logit_bias": {}},
    )
    assert (found.choices[0].logprobs, found.model_extra["allot"]["ignored"]) == (None, [])


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_those_of_the_returned_attempt(service, stream):
    if stream:
        chunks = list(service.chat(stream=True, logprobs=True))
        parts = [c.choices[0].logprobs for c in chunks if c.choices and c.choices[0].logprobs]
        entries = [entry for part in parts for entry in part.content]
    else:
        entries = service.chat(logprobs=True).choices[0].logprobs.content
    assert [(e.token, e.logprob, e.bytes) for e in entries] == [("x", -0.1, [120])] * 4


def test_log_probabilities_that_a_server_does_not_tell_are_said_to_be_missing(
    service, small, large
):
    for upstream in (small, large):
        body = completion()
        del body["choices"][0]["logprobs"]
        upstream.script(body)
    found = service.chat(logprobs=True)
    assert found.choices[0].logprobs is None
    assert found.model_extra["allot"]["ignored"] == ["logprobs"]


def test_a_seed_gives_each_attempt_one_of_its_own_and_the_same_again(service, small):
    small.script(*(completion(f"Answer: {n}", logprob=-2.0) for n in range(6)))
    sent = []
    for _ in range(2):
        before = small.calls
        service.chat(seed=-5, extra_body={"allot": {"price": 1e-4}})
        sent.append([exchange.body["seed"] for exchange in small.requests[before:]])
    first, second = sent
    assert len(first) > 1
    assert len(set(first)) == len(first)
    assert first[: len(second)] == second[: len(first)]


def test_what_an_operator_sets_is_not_a_clients_to_change(serve, small, large):
    service = serve(small, large, body={"temperature": 0.7})
    with pytest.raises(openai.BadRequestError, match="operator") as refused:
        service.chat(temperature=0.1)
    assert refused.value.param == "temperature"
    service.chat()
    assert small.requests[0].body["temperature"] == 0.7


def test_a_field_that_one_model_refuses_is_left_off_for_it_and_told(service, small, large):
    async def refuse(exchange):
        if "top_p" in exchange.body:
            body = {"error": {"message": "Unsupported parameter: 'top_p'", "param": "top_p"}}
            await exchange.reply(body, status=400)
        else:
            await exchange.reply(completion())

    small.script(refuse)
    found = service.chat(top_p=0.5)
    assert found.choices[0].message.content == "Answer: 7"
    assert found.model_extra["allot"]["warnings"] == ["small: the server refuses top_p"]


def test_a_value_that_all_models_refuse_is_a_400_and_stays_one_clients_matter(
    service, small, large
):
    async def refuse(exchange):
        value = exchange.body.get("reasoning_effort")
        body = {"error": {"message": f"reasoning_effort: {value!r} is not supported"}}
        await exchange.reply(body if value else completion(), status=400 if value else 200)

    script((small, large), refuse)
    with pytest.raises(openai.BadRequestError) as refused:
        service.chat(reasoning_effort="xhigh")
    assert (refused.value.param, small.calls, large.calls) == ("reasoning_effort", 1, 1)
    assert service.chat().model_extra["allot"]["warnings"] == []


def test_metadata_is_logged(service):
    service.chat(metadata={"team": "a"})
    assert episode_fields(service.served[-1], texts=False)["metadata"] == {"team": "a"}


@pytest.mark.parametrize(
    "refusal",
    [
        {"content": None, "refusal": "No."},
        {"content": [{"type": "refusal", "refusal": "No."}]},
    ],
)
def test_a_refusal_may_be_sent_back_as_a_turn(service, small, refusal):
    turns = [*ASK, {"role": "assistant", **refusal}, *ASK]
    service.openai.chat.completions.create(model="allot", messages=turns)
    assert small.requests[0].body["messages"][1]["content"] == "No."


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "7"}
SYSTEM = {"role": "system", "content": "2+5="}


@pytest.mark.parametrize(
    "turns",
    [
        [*ASK, SYSTEM],
        [SYSTEM],
        [*ASK, {"role": "assistant", "content": [], "tool_calls": [{"index": 0, **CALL}]}, RESULT],
    ],
    ids=["a reminder", "a system's question", "calls as a stream tells them"],
)
def test_turns_as_clients_end_them_are_answered(service, small, turns):
    service.openai.chat.completions.create(model="allot", messages=turns)
    sent = small.requests[0].body["messages"]
    assert len(sent) == len(turns)
    assert sent[-1 if len(turns) < 3 else 0] == ASK[0]
    assert "index" not in json.dumps(sent)


def test_thoughts_before_a_call_are_sent_back_to_models_and_others_are_not(service, small):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    thinks = {"role": "assistant", "content": "", "reasoning_content": "Hm."}
    turns = [*ASK, thinks, *ASK, {**thinks, "tool_calls": [call]}]
    result = {"role": "tool", "tool_call_id": "1", "content": "7"}
    tools = [{"type": "function", "function": {"name": "f"}}]
    found = service.openai.chat.completions.create(
        model="allot", messages=[*turns, result], tools=tools
    )
    sent = small.requests[0].body["messages"]
    assert ["reasoning_content" in turn for turn in sent] == [False, False, False, True, False]
    assert found.model_extra["allot"]["ignored"] == ["messages.reasoning_content"]


def test_what_no_model_reads_of_items_is_said(service):
    said = {"type": "output_text", "text": "Hi.", "annotations": [], "logprobs": []}
    before = {"type": "message", "role": "assistant", "id": "m", "content": [said]}
    part = {"type": "input_text", "text": "2+5=", "prompt_cache_breakpoint": {"mode": "explicit"}}
    found = service.openai.responses.create(
        model="allot", input=[before, {"role": "user", "content": [part], "name": "ann"}]
    )
    ignored = found.model_extra["allot"]["ignored"]
    assert ignored == ["input.name", "input.prompt_cache_breakpoint"]


def test_responses_take_the_same(service, small):
    found = service.openai.responses.create(
        model="allot",
        input="2+5=",
        temperature=0.0,
        top_p=0.9,
        reasoning={"effort": "low"},
        text={"verbosity": "low"},
        top_logprobs=2,
        include=["message.output_text.logprobs"],
        metadata={"team": "a"},
    )
    sent = small.requests[0].body
    assert (sent["temperature"], sent["top_p"], sent["top_logprobs"]) == (0.0, 0.9, 2)
    assert (sent["reasoning_effort"], sent["verbosity"]) == ("low", "low")
    assert [e.logprob for e in found.output[0].content[0].logprobs] == [-0.1] * 4
    assert (found.metadata, found.temperature) == ({"team": "a"}, 0.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"store": True},
        {"previous_response_id": "resp_1"},
        {"background": True},
        {"include": ["file_search_call.results"]},
        {"truncation": "auto"},
        {"max_tool_calls": 3},
        {"tools": [{"type": "web_search"}]},
    ],
)
def test_responses_refuse_by_name(service, small, fields):
    (name,) = fields
    with pytest.raises(openai.BadRequestError, match=name) as refused:
        service.openai.responses.create(model="allot", input="2+5=", extra_body=fields)
    assert refused.value.param.startswith(name)
    assert small.calls == 0
