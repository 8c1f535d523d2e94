"""Forms of answers and calls of tools, asked for with OpenAI's client."""

import json

import openai
import pydantic
import pytest

from controller.answers.structured import schema_fault, structured_answer
from tests.controller.server.upstream import completion, replying, script

ASK = [{"role": "user", "content": "What is the weather in Oslo?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
OSLO = {"city": "Oslo", "days": 2}
PRICE = {"allot": {"price": 1e-4}}


class Forecast(pydantic.BaseModel):
    city: str
    days: int


def calling(arguments, name="weather", model="small", finish="tool_calls"):
    """A completion that calls a tool."""
    called = {"name": name, "arguments": arguments}
    call = {"id": "call_1", "type": "function", "function": called}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return completion("", model=model, finish=finish, message=message)


def in_pieces(text, name=None):
    """A stream of a text, or of a call with these arguments."""

    async def stream(exchange):
        await exchange.begin_stream()
        head = {"index": 0, "id": "call_1", "type": "function"}
        if name:
            called = {**head, "function": {"name": name, "arguments": ""}}
            await exchange.delta(tool_calls=[called])
        for piece in text:
            part = {"index": 0, "function": {"arguments": piece}}
            await exchange.delta(**({"tool_calls": [part]} if name else {"content": piece}))
        await exchange.delta("tool_calls" if name else "stop")
        await exchange.send(b"data: [DONE]\n\n")

    return stream


def test_an_answer_is_what_fits_the_schema(service, small, large):
    """Attempts that do not validate have no answer; spellings of one value vote together."""
    texts = ["It rains.", '{"city": "Oslo"}', '{"days": 2.0, "city": "Oslo"}', json.dumps(OSLO)]
    small.script(*(completion(text, logprob=-2.0) for text in texts))
    large.script(completion(json.dumps(OSLO), model="large"))
    found = service.openai.chat.completions.parse(
        model="allot", messages=ASK, response_format=Forecast, extra_body=PRICE
    )
    assert found.choices[0].message.parsed == Forecast(city="Oslo", days=2)
    allot = found.model_extra["allot"]
    made = [attempt for decision in allot["decisions"] for attempt in decision["attempts"]]
    assert [attempt["answer"] for attempt in made[:2]] == [None, None]
    assert {attempt["answer"] for attempt in made[2:]} == {'{"city":"Oslo","days":2}'}
    assert small.requests[0].body["response_format"]["json_schema"]["strict"] is True


@pytest.mark.parametrize(
    "content",
    ['```json\n{"x": 1}\n```', '<think>An x.</think>\n```\n{"x": 1}\n```', {"x": 1}],
    ids=["a fence", "thoughts and a fence", "an object"],
)
def test_json_is_told_without_what_models_put_around_it(service, small, large, content):
    script((small, large), completion(content))
    found = service.openai.chat.completions.create(
        model="allot",
        messages=[{"role": "user", "content": "x?"}],
        response_format={"type": "json_object"},
    )
    assert json.loads(found.choices[0].message.content) == {"x": 1}
    assert found.model_extra["allot"]["answer"] == '{"x":1}'


def test_json_objects(service, small, large):
    script((small, large), completion("[1, 2]"))
    form = {"type": "json_object"}
    found = service.chat(ASK, response_format=form)
    assert found.model_extra["allot"]["answer"] is None
    small.script(completion('{"rain": true}'))
    found = service.chat(ASK, response_format=form)
    assert found.model_extra["allot"]["answer"] == '{"rain":true}'
    form["schema"] = {"required": ["snow"]}
    found = service.chat(ASK, response_format=form)
    assert found.model_extra["allot"]["answer"] is None


@pytest.mark.parametrize("upstream_stream", [False, True])
def test_calls_of_tools(serve, small, large, upstream_stream):
    """One call is returned whole, in JSON and as a stream, and goes on in a further turn."""
    service = serve(small, large, streams=upstream_stream)
    arguments = json.dumps(OSLO)
    call = in_pieces(arguments, "weather") if upstream_stream else calling(arguments)
    script((small, large), call)
    client = service.openai.chat.completions
    found = client.create(model="allot", messages=ASK, tools=[WEATHER], parallel_tool_calls=False)
    choice = found.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].function.name == "weather"
    assert json.loads(choice.message.tool_calls[0].function.arguments) == OSLO
    expected = [{"arguments": OSLO, "name": "weather"}]
    assert json.loads(found.model_extra["allot"]["answer"]) == expected
    sent = small.requests[0].body
    assert (sent["tools"], sent["parallel_tool_calls"]) == ([WEATHER], False)

    with client.stream(model="allot", messages=ASK, tools=[WEATHER]) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls"
    assert json.loads(streamed.message.tool_calls[0].function.arguments) == OSLO

    text = in_pieces("Answer: rain") if upstream_stream else completion("Answer: rain")
    script((small, large), text)
    turn = choice.message.model_dump(exclude_none=True)
    result = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
    found = client.create(model="allot", messages=[*ASK, turn, result], tools=[WEATHER])
    assert found.choices[0].message.content == "Answer: rain"
    turns = small.requests[0].body["messages"]
    assert [t["role"] for t in turns] == ["user", "assistant", "tool"]
    assert turns[1]["tool_calls"][0]["id"] == turns[2]["tool_call_id"] == "call_1"


def test_calls_that_were_cut_are_not_to_be_carried_out(service, small, large):
    script((small, large), calling('{"city": "Os', finish="length"))
    found = service.chat(ASK, tools=[WEATHER])
    assert found.choices[0].finish_reason == "length"


def test_what_a_server_keeps_with_a_call_goes_there_and_back(service, small, large):
    """Gemini's signatures, and LiteLLM's, which are in ids of thousands of characters."""
    signed = calling(json.dumps(OSLO))
    (call,) = signed["choices"][0]["message"]["tool_calls"]
    call |= {"id": "call__thought__" + "x" * 3000, "extra_content": {"google": {"a": "b"}}}
    script((small, large), signed)
    client = service.openai.chat.completions
    turn = client.create(model="allot", messages=ASK, tools=[WEATHER]).choices[0].message
    small.script(completion("Answer: rain"))
    result = {"role": "tool", "tool_call_id": turn.tool_calls[0].id, "content": "rain"}
    client.create(model="allot", messages=[*ASK, turn, result], tools=[WEATHER])
    assert small.requests[0].body["messages"][1]["tool_calls"] == [call]


def test_calls_vote(service, small, large):
    """Two ways of writing one call agree; a call of what was not offered is no answer."""
    small.script(
        calling('{"city": "Oslo"}', name="snow"),
        calling('{"days": 2, "city": "Oslo"}'),
        calling('{"city":"Oslo","days":2}'),
    )
    large.script(calling('{"days": 2, "city": "Oslo"}', model="large"))
    found = service.chat(ASK, tools=[WEATHER], tool_choice="required", extra_body=PRICE)
    made = [a for d in found.model_extra["allot"]["decisions"] for a in d["attempts"]]
    assert made[0]["answer"] is None
    assert len({attempt["answer"] for attempt in made[1:]}) == 1
    assert found.choices[0].message.tool_calls[0].function.name == "weather"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "strange"}},
                }
            },
            "response_format",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": 1}}}]},
            "tools.0.function.parameters",
        ),
    ],
)
def test_forms_that_are_none_are_refused_by_name(service, small, fields, param):
    with pytest.raises(openai.BadRequestError, match=param) as refused:
        service.chat(ASK, extra_body=fields)
    assert refused.value.param.startswith(param)
    assert small.calls == 0


def refusing(message):
    """Answers every request by a 400."""
    return replying(400, {"error": {"message": message}})


def test_a_clients_bad_field_is_not_held_against_the_server(service, small, large):
    """The server's 400 is told once, and names the field alone."""
    script((small, large), refusing("Invalid schema for tools[0].function.parameters"))
    with pytest.raises(openai.BadRequestError) as refused:
        service.openai.with_options(max_retries=2).chat.completions.create(
            model="allot", messages=ASK, tools=[WEATHER]
        )
    assert (refused.value.param, small.calls, large.calls) == ("tools", 1, 1)
    small.script(calling(json.dumps(OSLO)))
    service.chat(ASK, tools=[WEATHER])
    assert small.requests[0].body["tools"] == [WEATHER]


def test_a_context_that_is_too_long_is_the_askers_matter(service, small, large):
    script((small, large), refusing("maximum context length is 4096 tokens"))
    with pytest.raises(openai.BadRequestError) as refused:
        service.chat(ASK)
    assert refused.value.code == "context_length_exceeded"


def test_turns_that_no_model_takes_are_the_askers_matter(service, small, large):
    script((small, large), refusing("'messages' must contain the word 'json' in some form"))
    with pytest.raises(openai.BadRequestError) as refused:
        service.chat(ASK, response_format={"type": "json_object"})
    assert (refused.value.param, small.calls, large.calls) == ("messages", 1, 1)


def test_stop_reaches_the_models(service, small):
    service.chat(ASK, stop=["\n"])
    assert small.requests[0].body["stop"] == ["\n"]


def form(schema):
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    }


def test_no_schema_takes_longer_than_it_may():
    slow = form({"pattern": "^(a+)+$"})
    assert structured_answer(slow, json.dumps("a" * 40 + "b"), ()) is None
    assert structured_answer(form({}), "1e0", ()) == "1"
    assert structured_answer(form({}), "[" * 10_000, ()) is None
    assert structured_answer(form({}), "1e999", ()) is None
    assert structured_answer(form({"$ref": "http://127.0.0.1:9/x"}), "1", ()) is None
    assert schema_fault(form({"type": "object"})) is None
