"""Servers with ways of their own, on real sockets: what they wrote is read, and asked for once."""

import asyncio
import gzip
import json
import time
import zlib
from dataclasses import replace
from email.utils import formatdate
from itertools import pairwise

import pytest

from controller.backends.openai.resilience import CircuitBreaker, retry_after_s
from controller.process.actions import ActionKind
from tests.controller.backends.openai.test_backend import (
    RIGHT,
    ask,
    asking,
    saying,
    server,
    status,
    usage_of,
)
from tests.controller.server.upstream import completion, endpoint

__all__ = ["server"]

OFFERED = {"tools": [{"type": "function", "function": {"name": name}} for name in "fg"]}
DONE = b"data: [DONE]\n\n"


def chunk(delta=None, finish=None, **more):
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return json.dumps({"id": "c", "model": "small", "choices": [choice], **more}).encode()


def stream(*events, before=b"data: ", after=b"\n\n", end=DONE):
    async def behave(exchange):
        await exchange.begin_stream()
        for event in events:
            await exchange.send(event if event[:1] in b":\n" else before + event + after)
        await exchange.send(end)

    return behave


def broken_off(*events, hangs=False):
    """A stream that is reset, or never ends, once all of its answer has come."""

    async def behave(exchange):
        await stream(*events, end=b"")(exchange)
        await asyncio.sleep(20 if hangs else 0.05)
        exchange.reset()

    return behave


def packed(data, encoding):
    async def behave(exchange):
        await exchange.reply(data, headers={"content-encoding": encoding})

    return behave


def call(index=None, name=None, function=None, arguments=None):
    told = {"index": index, "id": name, "function": {"name": function, "arguments": arguments}}
    return chunk({"tool_calls": [{k: v for k, v in told.items() if v is not None}]})


BEGIN, END = [chunk({"content": "Answer: "}), chunk({"content": "7"})], chunk({}, "stop")
USAGE = json.dumps({"id": "c", "choices": [], "usage": usage_of(10, 3)}).encode()
WHOLE = json.dumps(RIGHT).encode()
SAID = chunk({"content": "Answer: 7"})
EVENTS = b"".join(b"data: " + event + b"\n\n" for event in (SAID, END)) + DONE
TOO_MUCH, GONE = "context_length_exceeded", "no_such_model"
BOM = b"\xef\xbb\xbf"


def of_type(kind, data=EVENTS):
    async def behave(exchange):
        await exchange.reply(data, kind=kind)

    return behave


async def lines_of_json(exchange):
    await exchange.reply(b"\n".join([*BEGIN, END]), kind="application/x-ndjson")


STREAMS = {
    "comments": stream(b": OPENROUTER PROCESSING\n\n", *BEGIN, b": ping\n\n", END),
    "null": stream(b"null", *BEGIN, b"null", END),
    "no space after data": stream(*BEGIN, END, before=b"data:"),
    "events without data": stream(b"\n", *BEGIN, b" ", END),
    "CR LF": stream(*BEGIN, END, after=b"\r\n\r\n"),
    "named events": stream(*BEGIN, END, before=b"event: completion\nid: 1\ndata: "),
    "usage alone at the end": stream(*BEGIN, END, USAGE),
    "choices null": stream(*BEGIN, END, b'{"id": "c", "choices": null}'),
    "an empty first chunk": stream(b'{"id": "", "model": "", "choices": []}', *BEGIN, END),
    "no reason but [DONE]": stream(*BEGIN),
    "no reason but usage": stream(*BEGIN, USAGE, end=b""),
    "an empty reason": stream(*BEGIN, chunk({}, "")),
    "delta null": stream(*BEGIN, chunk(None, "stop").replace(b'"delta": {}', b'"delta": null')),
    "no delta": stream(*BEGIN, chunk(None, "stop").replace(b'"delta": {}, ', b"")),
    "parts": stream(chunk({"content": [{"type": "text", "text": "Answer: 7"}]}), END),
    "a whole response": completion(),
    "lines of JSON": stream(*BEGIN, END, before=b"", after=b"\n", end=b""),
    "lines of JSON by their type": lines_of_json,
    "no empty lines": stream(*BEGIN, END, after=b"\n"),
    "an open end": stream(*BEGIN, END, end=b"data: [DONE]"),
    "a torn end": stream(*BEGIN, END, end=b'data: {"id": "x", "choices": [], "usa'),
    "a torn [DONE]": stream(*BEGIN, END, end=b"data: [DON"),
    "blanks around [DONE]": stream(*BEGIN, END, end=b"data:  [DONE] \n\n"),
    "indented": stream(
        *(
            json.dumps(json.loads(e), indent=1).replace("\n", "\ndata: ").encode()
            for e in (*BEGIN, END)
        )
    ),
    "reset after the end": broken_off(*BEGIN, END),
    "reason in capitals": stream(*BEGIN, chunk({}, "STOP")),
    "a filter's chunk": stream(*BEGIN, END, b'{"choices": [{"index": 0, "finish_reason": null}]}'),
    "choices that nobody asked for": stream(
        *BEGIN, chunk({"content": "Answer: 8"}).replace(b'"index": 0', b'"index": 1'), END
    ),
    "a byte order mark": of_type("text/event-stream", BOM + EVENTS),
    "events as JSON by their type": of_type("application/json; charset=utf-8"),
    "a whole response as text": of_type("text/plain", WHOLE),
    "a whole response in an event": stream(WHOLE),
    "lines of JSON as a stream of it": of_type("application/stream+json", SAID + b"\n" + END),
    "words that keep it alive": stream(b"ping", *BEGIN, b"keep-alive", END),
    "the reason null": stream(chunk({"content": "Answer: 7"}, "null"), END),
    "thoughts as parts": stream(
        chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "8?"}]}]}),
        *BEGIN,
        END,
    ),
}


@pytest.mark.parametrize("way", STREAMS)
def test_streams_of_all_dialects_are_read(server, way):
    server.script(STREAMS[way])
    (attempt,), _ = ask(server.url, streams=True)
    assert (attempt.answer, attempt.error, server.calls) == ("7", None, 1)


WHOLES = {
    "events": of_type("text/event-stream"),
    "events as JSON by their type": of_type("application/json"),
    "an end of events behind it": of_type("text/event-stream", WHOLE + b"\n\n" + DONE),
    "a byte order mark": of_type("text/plain", BOM + WHOLE),
    "a text and no message": completion(choices=[{"text": "Answer: 7", "finish_reason": "stop"}]),
    "line ends within strings": of_type("application/json", WHOLE.replace(b"Answer", b"\nAnswer")),
    "a number": saying(7),
    "a refusal beside nothing": saying("", message={"refusal": "Answer: 7"}),
}


@pytest.mark.parametrize("way", WHOLES)
def test_replies_of_all_dialects_are_read(server, way):
    server.script(WHOLES[way])
    (attempt,), _ = ask(server.url)
    assert (attempt.answer, attempt.error, server.calls) == ("7", None, 1)
    assert attempt.finish_reason == "stop"


@pytest.mark.parametrize(
    ("data", "error", "calls"),
    [
        (b'error: {"code": 400, "message": "context size"}\n\n' + DONE, TOO_MUCH, 1),
        (b'event: error\ndata: {"message": "Rate limit exceeded"}\n\n', "rate_limited", 2),
        (b'data: [{"error": {"code": 429}}]\n\n', "rate_limited", 2),
        (b'data: {"object": "error", "code": 400, "message": "context length"}\n\n', TOO_MUCH, 1),
        (b'data: {"error": "Input validation error: `stop`"}\n\n', "rejected", 1),
        (b'data: {"error": {"type": "not_found_error", "message": "model: x"}}\n\n', GONE, 1),
    ],
)
def test_errors_in_streams_are_what_they_say(server, data, error, calls):
    server.script(of_type("text/event-stream", data))
    (attempt,), _ = ask(server.url, streams=True)
    assert (attempt.error, server.calls) == (error, calls)


def test_an_answer_that_groq_stopped_is_none(server):
    server.script(stream(*BEGIN, chunk({}, x_groq={"error": "over_capacity"})))
    (attempt,), _ = ask(server.url, streams=True)
    assert (attempt.error, attempt.usage.cancelled_tokens, server.calls) == ("bad_response", 2, 1)


@pytest.mark.parametrize(
    "more",
    [{}, {"usage": usage_of(10, 2)}, {"finish": "null"}],
    ids=["no usage", "usage of each", "no reason"],
)
def test_a_stream_that_ends_without_a_word_is_cut(server, more):
    server.script(
        stream(*(chunk({"content": text}, **more) for text in ("Answer: ", "7")), end=b"")
    )
    (attempt,), _ = ask(server.url, streams=True)
    assert (attempt.error, server.calls) == ("truncated_stream", 1)


CALLS = {
    "by index": [call(0, "a", "f", ""), call(0, arguments='{"x": 1}'), call(1, "b", "g", "{}")],
    "without index": [call(None, "a", "f", '{"x": 1}'), call(None, "b", "g", "{}")],
    "all of one index": [call(0, "a", "f", '{"x": 1}'), call(0, "b", "g", "{}")],
    "objects": [call(0, "a", "f", {"x": 1}), call(1, "b", "g", {})],
    "an id for each piece": [
        *(call(0, "a", "f", ""), call(0, "b", arguments='{"x":'), call(0, "c", arguments=" 1}")),
        call(1, "d", "g", "{}"),
    ],
    "an object in place of a list": [
        chunk({"tool_calls": {"index": i, "id": n, "function": {"name": n, "arguments": a}}})
        for i, (n, a) in enumerate((("f", '{"x": 1}'), ("g", "{}")))
    ],
    "marks behind a name": [call(0, "a", "f<|channel|>commentary", '{"x": 1}'), call(1, "b", "g")],
    "no ids, all of one index": [call(0, "", "f", '{"x": 1}'), call(0, "", "g", "{}")],
}


@pytest.mark.parametrize("way", CALLS)
def test_calls_of_tools_are_put_together(server, way):
    server.script(stream(*CALLS[way], chunk({}, "tool_calls")))
    (request,) = asking()
    (attempt,), _ = ask(
        server.url, streams=True, requests=[with_tools(request)], attempt_deadline_s=10
    )
    called = [
        (c["function"]["name"], json.loads(c["function"]["arguments"])) for c in attempt.calls
    ]
    assert called == [("f", {"x": 1}), ("g", {})]
    assert attempt.answer


@pytest.mark.parametrize("arguments", [{"x": 1}, json.dumps(json.dumps({"x": 1}))])
def test_arguments_that_are_objects_are_kept(server, arguments):
    told = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    server.script(saying(None, "tool_calls", message={"tool_calls": [told]}))
    (request,) = asking()
    (attempt,), _ = ask(server.url, requests=[with_tools(request)], attempt_deadline_s=10)
    assert json.loads(attempt.calls[0]["function"]["arguments"]) == {"x": 1}


@pytest.mark.parametrize("streams", [False, True])
def test_the_call_of_an_older_server_is_one(server, streams):
    parts = [{"name": "f", "arguments": '{"x":'}, {"arguments": " 1}"}]
    told = stream(*(chunk({"function_call": part}) for part in parts), chunk({}, "function_call"))
    whole = {"function_call": {"name": "f", "arguments": '{"x": 1}'}}
    server.script(told if streams else saying(None, "function_call", message=whole))
    (attempt,), _ = ask(server.url, streams=streams, requests=with_fields(**OFFERED))
    assert [call["function"] for call in attempt.calls] == [whole["function_call"]]


def with_tools(request):
    return replace(request, question=replace(request.question, fields=OFFERED))


@pytest.mark.parametrize(
    ("data", "encoding", "error"),
    [
        (gzip.compress(WHOLE), "gzip", None),
        (zlib.compress(WHOLE), "deflate", None),
        (WHOLE, "gzip", "compressed"),
        (WHOLE, "br", "compressed"),
        (WHOLE, "none", None),
        (WHOLE, "utf-8", None),
    ],
    # Packed bytes hold the time, and both processes of the suite must name a test the same.
    ids=["gzip", "deflate", "not gzip", "unread", "none", "no encoding"],
)
def test_what_is_packed_is_unpacked_up_to_a_limit(server, data, encoding, error):
    server.script(packed(data, encoding))
    (attempt,), _ = ask(server.url, attempt_deadline_s=5)
    assert (attempt.error, server.calls) == (error, 1)
    assert attempt.answer == (None if error else "7")


def test_a_stream_that_never_ends_after_its_answer_is_left(server, monkeypatch):
    monkeypatch.setattr("controller.backends.openai.replies._AFTER_END_S", 0.1)
    server.script(broken_off(*BEGIN, END, hangs=True))
    (attempt,), _ = ask(server.url, streams=True, attempt_deadline_s=5)
    assert (attempt.answer, attempt.error, server.calls) == ("7", None, 1)


REASONS = {
    "length": [
        *("max_tokens", "MAX_TOKENS", "model_length", "max_output_tokens", "incomplete"),
        *("model_context_window_exceeded", "token_limit"),
    ],
    "content_filter": ["SAFETY", "RECITATION", "ERROR_TOXIC", "sensitive", "refusal"],
    "stop": ["eos", "eos_token", "end_turn", "stop_sequence", "COMPLETE", "STOP", "done"],
    "tool_calls": ["tool_use", "function_call"],
}


@pytest.mark.parametrize("ours", REASONS)
def test_reasons_to_end_are_told_in_one_language(server, ours):
    for theirs in REASONS[ours]:
        server.script(saying("Answer: 7", theirs))
        (attempt,), _ = ask(server.url)
        assert (attempt.finish_reason, attempt.error, attempt.answer) == (ours, None, "7")


@pytest.mark.parametrize(
    "reason",
    [
        *("abort", "insufficient_system_resource", "network_error"),
        *("function_call_filter: MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"),
    ],
)
def test_what_broke_off_is_no_answer(server, reason):
    server.script(saying("The sum is 1", reason))
    (attempt,), _ = ask(server.url)
    assert (attempt.answer, attempt.error, server.calls) == (None, "finish_error", 1)


@pytest.mark.parametrize(
    ("text", "answer"),
    [("The sum", None), ("First 2 and then 5", None), ("#### 7, since", "7"), ("7", "7")],
)
def test_the_end_of_a_text_that_was_cut_is_no_answer(server, text, answer):
    server.script(saying(text, "length"))
    (attempt,), _ = ask(server.url)
    assert attempt.answer == answer


@pytest.mark.parametrize(
    "content",
    [
        {"type": "text", "text": "Answer: 7"},
        ["Answer: ", "7"],
        [{"type": "refusal", "refusal": "Answer: 7"}],
        [{"type": "reasoning", "text": "Answer: 8"}, {"type": "text", "text": "Answer: 7"}],
    ],
)
def test_contents_of_other_forms_are_read(server, content):
    server.script(saying(content))
    (attempt,), _ = ask(server.url)
    assert attempt.text.removeprefix("Answer: ") == "7"


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning_details": [{"type": "reasoning.text", "text": "It is 7. "}]},
        {"reasoning_text": "It is 7. "},
        {"thinking": "It is 7. "},
        {"thinking_blocks": [{"type": "thinking", "thinking": "It is 7. ", "signature": "c2ln"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "It is 7. "}]}]},
    ],
)
def test_thoughts_are_counted_under_all_names(server, message):
    parts = [*message.get("content", []), {"type": "text", "text": "Answer: 7"}]
    server.script(saying(None, message={**message, "content": parts}, usage=usage_of(10, 40)))
    (attempt,), _ = ask(server.url)
    assert (attempt.answer, attempt.usage.reasoning_tokens) == ("7", 20)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    "tags",
    [
        ("<think>", "</think>"),
        ("[THINK]", "[/THINK]"),
        ("<|channel|>analysis<|message|>", "<|start|>assistant<|channel|>final<|message|>"),
    ],
)
def test_thoughts_between_tags_are_counted(server, streams, tags):
    pieces = (f"{tags[0]}It is 7. ", f"{tags[1]}Answer: 7")
    told = stream(
        *(chunk({"content": piece}) for piece in pieces), chunk({}, "stop", usage=usage_of(10, 40))
    )
    server.script(told if streams else saying("".join(pieces), usage=usage_of(10, 40)))
    (attempt,), _ = ask(server.url, streams=streams)
    assert (attempt.answer, attempt.usage.reasoning_tokens) == ("7", 20)


@pytest.mark.parametrize("streams", [False, True])
def test_thoughts_and_refusals_are_kept_apart_from_the_text(server, streams):
    said: list[str] = []
    (request,) = asking()
    for message, text, thoughts, refused in (
        ({"reasoning": "Hm.", "content": "Answer: 7"}, "Answer: 7", "Hm.", False),
        ({"reasoning_content": "Hm.", "content": None, "refusal": "No."}, "No.", "Hm.", True),
        ({"content": "Answer: 7", "refusal": None}, "Answer: 7", "", False),
    ):
        told = stream(*(chunk({k: v}) for k, v in message.items()), chunk({}, "stop"))
        server.script(told if streams else saying(None, message=message))
        requests = [replace(request, on_text=said.append, on_thought=said.append)]
        (attempt,), _ = ask(server.url, streams=streams, requests=requests)
        assert (attempt.text, attempt.thoughts, attempt.refused) == (text, thoughts, refused)
    # What is refused is only told as such, once it is known.
    assert said == (["Hm.", "Answer: 7", "Hm.", "Answer: 7"] if streams else said)


def test_thoughts_may_be_counted_beside_the_details(server):
    """SGLang's way."""
    server.script(completion(usage={**usage_of(10, 40), "reasoning_tokens": 30}))
    (attempt,), _ = ask(server.url)
    assert (attempt.usage.decoded_tokens, attempt.usage.reasoning_tokens) == (40, 30)


def test_log_probabilities_in_two_lists_are_read(server):
    told = completion()
    told["choices"][0]["logprobs"] = {"tokens": ["a", "b"], "token_logprobs": [-0.1, -0.3]}
    server.script(told)
    (attempt,), _ = ask(server.url)
    assert (attempt.mean_logprob, attempt.min_logprob) == pytest.approx((-0.2, -0.3))


def test_who_may_not_stream_is_asked_without(server):
    no = {"error": {"message": "Your organization must be verified to stream.", "param": "stream"}}
    server.script(status(400, no), completion())
    (attempt,), backend = ask(server.url, streams=True)
    assert (attempt.answer, server.calls) == ("7", 2)
    assert "small: the server refuses stream" in backend.notes


def objecting(words, when=lambda sent: "logprobs" in sent):
    """Answers 400 to requests of some kind, in words that may depend on them."""

    async def reply(exchange):
        if when(exchange.body):
            await exchange.reply(words(exchange.body) if callable(words) else words, status=400)
        else:
            await exchange.reply(RIGHT)

    return reply


@pytest.mark.parametrize(
    "words",
    [
        lambda sent: {"detail": [{"loc": ["body", "logprobs"], "msg": "Extra", "input": sent}]},
        {"error": {"message": "logprobs do not go with temperature", "param": "logprobs"}},
        {"error": {"message": "Logprobs is not enabled for models/gemini"}},
    ],
    ids=["its place", "its param", "a sentence"],
)
def test_of_a_refusal_the_field_is_left_off_that_it_is_about(server, words):
    server.script(objecting(words))
    (attempt,), backend = ask(server.url, body={"temperature": 0.5})
    assert (attempt.answer, server.calls) == ("7", 2)
    assert backend.notes == ("small: the server refuses logprobs",)


def test_a_refusal_that_repeats_the_request_is_about_none_of_its_fields(server):
    def words(sent):
        told = [{"loc": ("body",), "msg": "Value error, stop cannot be empty", "input": sent}]
        return {"error": {"message": str(told), "param": None, "code": 400}}

    server.script(objecting(words))
    (attempt,), backend = ask(server.url)
    assert (attempt.error, server.calls, backend.notes) == ("rejected", 1, ())


@pytest.mark.parametrize(
    "words",
    [
        "System role not supported",
        "Developer instruction is not enabled for models/gemma-3-27b-it",
        "'messages[0].role' does not support 'system' with this model.",
    ],
)
def test_a_system_message_that_is_refused_is_said_by_the_user(server, words):
    def has_system(sent):
        return sent["messages"][0]["role"] == "system"

    server.script(objecting({"error": {"message": words}}, has_system))
    prompt = ({"role": "system", "content": "Be short."},)
    (attempt,), backend = ask(server.url, prompt=prompt)
    assert (attempt.answer, server.calls) == ("7", 2)
    said = [{"role": "user", "content": "Be short.\n\n2+5="}]
    assert server.requests[-1].body["messages"] == said
    assert backend.notes == ("small: the server refuses system",)


@pytest.mark.parametrize("streams", [False, True])
def test_a_refusal_with_a_200_is_learnt_from(server, streams):
    """OpenRouter's way, once it has begun to answer."""
    raw = json.dumps({"error": {"message": "Unsupported parameter", "param": "temperature"}})
    told = {"error": {"code": 400, "message": "Provider error", "metadata": {"raw": raw}}}
    event = json.dumps({"choices": [], **told}).encode()
    server.script(*((stream(event), stream(*BEGIN, END)) if streams else (told, RIGHT)))
    (attempt,), backend = ask(server.url, streams=streams, body={"temperature": 0.5})
    assert (attempt.answer, server.calls) == ("7", 2)
    assert "temperature" not in server.requests[-1].body
    assert backend.notes == ("small: the server refuses temperature",)


JSON = {"response_format": {"type": "json_object"}}


@pytest.mark.parametrize(
    ("words", "code", "fields", "named"),
    [
        ('"auto" tool choice requires --enable-auto-tool-choice', 400, OFFERED, "tools"),
        ("No endpoints found that support tool use.", 404, OFFERED, "tools"),
        ("tools param requires --jinja flag", 500, OFFERED, "tools"),
        ("This model does not support response format `x`", 400, JSON, "response_format"),
        ("gemma does not support thinking", 400, {"reasoning_effort": "low"}, "reasoning_effort"),
        ("Invalid 'tools': array too long. Expected at most 128.", 400, OFFERED, "tools"),
        ("'tools[0].function.description': string too long.", 400, OFFERED, "tools"),
    ],
)
def test_what_a_client_asks_for_is_named_in_words(server, words, code, fields, named):
    server.script(status(code, {"error": {"message": words}}))
    requests = with_fields(**fields)
    (attempt,), backend = ask(server.url, requests=requests, breaker=CircuitBreaker(failures=1))
    assert (attempt.error, server.calls) == (f"rejected:{named}", 1)
    assert backend.breaker.allows


@pytest.mark.parametrize("streams", [False, True])
def test_thoughts_that_count_as_written_have_room_of_their_own(server, streams):
    words = (
        "`max_tokens` must be greater than `thinking.budget_tokens`. Please consult our "
        "documentation at https://docs.claude.com/en/docs#max-tokens-and-context-window-size"
    )
    server.script(objecting({"error": {"message": words}}, lambda sent: sent["max_tokens"] <= 2000))
    body = {"thinking": {"type": "enabled", "budget_tokens": 2000}}
    (attempt,), _ = ask(server.url, body=body, max_new_tokens=100, streams=streams)
    assert (attempt.answer, [r.body["max_tokens"] for r in server.requests]) == ("7", [100, 2100])


@pytest.mark.parametrize(
    "words",
    ["only support stream mode", "enable_thinking must be set to false for non-streaming calls"],
)
def test_a_server_that_only_streams_is_asked_to(server, words):
    words = {"error": {"message": words}}

    async def reply(exchange):
        streams = exchange.body.get("stream")
        await (stream(*BEGIN, END)(exchange) if streams else exchange.reply(words, status=400))

    server.script(reply)
    (attempt,), _ = ask(server.url)
    assert (attempt.answer, server.calls) == ("7", 2)


def test_fewer_alternatives_for_a_verdict_leave_attempts_their_log_probabilities(server):
    words = {"message": "Requested sample logprobs of 20, which is greater than max allowed: 5"}
    server.script(objecting(words, lambda sent: sent.get("top_logprobs", 0) > 5))
    (made,), _ = ask(server.url)
    asked = asking(action=ActionKind.VERIFY, parent=made)
    (judged,), backend = ask(server.url, requests=asked, verifies=True)
    assert (judged.error, server.requests[-1].body["logprobs"]) == (None, True)
    assert backend.notes == ("small: the server refuses top_logprobs 20",)


ROWS = "Conversation roles must alternate user/assistant/user/assistant/..."


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (ROWS, 400),
        (f"Jinja Exception: {ROWS} at row 19, column 27", 500),
        ("Jinja Exception: System message must be at the beginning.", 500),
        ("this model does not support successive user or assistant messages", 400),
        ("user or tool message(s) should alternate with assistant message(s)", 400),
    ],
)
@pytest.mark.parametrize("role", ["system", "user"])
def test_turns_of_one_role_in_a_row_are_one_where_a_server_wants_it(server, words, code, role):
    def in_a_row(sent):
        roles = [turn["role"] for turn in sent["messages"]]
        return any(one == other for one, other in pairwise(roles))

    server.script(refuse({"error": {"message": words}}, in_a_row, code))
    said = [{"role": role, "content": text} for text in ("Be short.", "Be right.")]
    (request,) = asking()
    request = replace(request, question=replace(request.question, history=tuple(said)))
    (attempt,), backend = ask(server.url, requests=[request], breaker=CircuitBreaker(failures=1))
    assert (attempt.answer, server.calls) == ("7", 2)
    assert "Be short.\n\nBe right." in server.requests[-1].body["messages"][0]["content"]
    assert backend.notes == ("small: the server refuses turns of one role in a row",)


NO_ROOM = {
    "OpenAI": "This model's maximum context length is 1024 tokens. However, you requested {total} "
    "tokens (400 in the messages, {asked} in the completion). Please reduce the length.",
    "vLLM": "'max_tokens' or 'max_completion_tokens' is too large: {asked}. This model's maximum "
    "context length is 1024 tokens and your request has 400 input tokens ({asked} > 1024 - 400).",
    "vLLM 0.20": "This model's maximum context length is 1024 tokens. However, you requested "
    "{asked} output tokens and your prompt contains at least {least} input tokens, for a total of "
    "at least 1025 tokens.",
    "TGI": "`inputs` tokens + `max_new_tokens` must be <= 1024. Given: 400 `inputs` tokens and "
    "{asked} `max_new_tokens`",
    "SGLang": "Requested token count exceeds the model's maximum context length of 1024 tokens. "
    "You requested a total of {total} tokens: 400 tokens from the input messages and {asked} "
    "tokens for the completion.",
    "Anthropic": "input length and `max_tokens` exceed context limit: 400 + {asked} > 1024, "
    "decrease input length or `max_tokens` and try again",
    "OpenRouter": "This endpoint's maximum context length is 1024 tokens. However, you requested "
    "about {total} tokens (400 of text input, {asked} in the output).",
}


@pytest.mark.parametrize("name", NO_ROOM)
def test_an_attempt_is_as_long_as_its_prompt_leaves_room_for(server, name):
    def words(sent):
        asked = sent["max_tokens"]
        told = NO_ROOM[name].format(asked=asked, total=asked + 400, least=1025 - asked)
        return {"error": {"message": told}}

    server.script(objecting(words, lambda sent: sent["max_tokens"] > 624))
    (attempt,), backend = ask(server.url, max_new_tokens=1000, max_retries=0)
    assert (attempt.answer, server.calls, backend.notes) == ("7", 2, ())
    assert 500 <= server.requests[-1].body["max_tokens"] <= 624


def test_a_shortest_attempt_is_asked_for_as_such(server):
    def words(sent):
        said = f"integer below minimum value. Expected a value >= 16, but got {sent['max_tokens']}"
        return {"error": {"message": f"Invalid 'max_tokens': {said}.", "param": "max_tokens"}}

    server.script(objecting(words, lambda sent: sent["max_tokens"] < 16))
    _, backend = ask(server.url, max_new_tokens=5, after=lambda backend: backend.attempts(asking()))
    assert [r.body["max_tokens"] for r in server.requests] == [5, 16, 16]
    assert backend.notes == ("small: the server is asked for at least 16 tokens",)


NO_THINKING = (
    "Function tools with reasoning_effort are not supported for gpt-5.6 in /v1/chat/completions. "
    "To use function tools, use /v1/responses or set reasoning_effort to 'none'."
)


@pytest.mark.parametrize("own", [{}, {"reasoning_effort": "low"}])
def test_a_model_that_takes_tools_only_without_thinking_does_not_think_beside_them(server, own):
    words = {"error": {"message": NO_THINKING, "param": "reasoning_effort"}}
    server.script(
        refuse(words, lambda sent: "tools" in sent and sent.get("reasoning_effort") != "none")
    )
    (attempt,), backend = ask(
        server.url,
        body=own,
        requests=with_fields(**OFFERED),
        after=lambda backend: backend.attempts(asking()),
    )
    efforts = [r.body.get("reasoning_effort") for r in server.requests]
    mine = own.get("reasoning_effort")
    assert (attempt.answer, efforts) == ("7", [mine, "none", mine])
    assert backend.notes == ("small: the server refuses thinking beside tools",)


def test_an_effort_that_a_client_wants_beside_tools_is_its_own_matter(server):
    server.script(status(400, {"error": {"message": NO_THINKING, "param": "reasoning_effort"}}))
    (attempt,), backend = ask(server.url, requests=with_fields(**OFFERED, reasoning_effort="high"))
    assert (attempt.error, server.calls) == ("rejected:reasoning_effort", 1)
    assert backend.notes == ()


@pytest.mark.parametrize("effort", [None, "high"])
@pytest.mark.parametrize(
    "words",
    [
        "Thinking mode does not support this tool_choice",
        "The tool_choice parameter does not support being set to required in thinking mode",
    ],
)
def test_who_thinks_before_no_call_that_has_to_be_made_does_not_think(server, words, effort):
    server.script(refuse({"error": {"message": words}}, lambda sent: "thinking" not in sent))
    fields = {**OFFERED, "tool_choice": "required"} | (
        {"reasoning_effort": effort} if effort else {}
    )
    (attempt,), _ = ask(server.url, requests=with_fields(**fields))
    assert attempt.error == ("rejected:tool_choice" if effort else None)
    assert server.calls == (1 if effort else 2)


@pytest.mark.parametrize(("wanted", "kept"), [(False, 1), (True, 2)])
def test_calls_side_by_side_may_be_refused(server, wanted, kept):
    """By models, whose servers then take no word about it, and by clients, who get the first."""
    words = {"error": {"message": "Unsupported parameter", "param": "parallel_tool_calls"}}
    calls = [{"id": n, "function": {"name": n, "arguments": "{}"}} for n in "fg"]
    told = saying(None, "tool_calls", message={"tool_calls": calls})

    async def reply(exchange):
        refused = "parallel_tool_calls" in exchange.body
        await exchange.reply(words if refused else told, status=400 if refused else 200)

    server.script(reply)
    requests = with_fields(**OFFERED, parallel_tool_calls=wanted)
    (attempt,), _ = ask(server.url, requests=requests)
    assert (len(attempt.calls), server.calls) == (kept, 2)


@pytest.mark.parametrize(
    "words",
    [
        "max_tokens is too large: 1024. This model supports at most 512 completion tokens.",
        "Invalid max_tokens value, the valid range of max_tokens is [1, 512]",
    ],
)
def test_no_more_tokens_are_asked_for_than_a_server_writes(server, words):
    server.script(objecting({"error": {"message": words}}, lambda sent: sent["max_tokens"] > 512))
    (attempt,), backend = ask(server.url)
    assert (attempt.answer, server.calls) == ("7", 2)
    assert backend.notes == ("small: the server writes at most 512 tokens",)
    assert server.requests[-1].body["max_tokens"] == 512


def test_a_server_that_says_that_it_does_not_stream_is_asked_without(server):
    words = {"error": {"message": "This model does not support streaming."}}
    server.script(objecting(words, lambda sent: "stream" in sent))
    (attempt,), _ = ask(server.url, streams=True)
    assert (attempt.answer, server.calls) == ("7", 2)


@pytest.mark.parametrize(
    ("models", "named"),
    [
        (None, False),
        (({"id": "other"},), True),
        ({"data": [{"id": "other"}], "has_more": True}, False),
        ({"data": ["other"]}, False),
        (403, False),
    ],
    ids=["no listing", "a list alone", "one page of it", "names", "a key for answers alone"],
)
def test_models_that_are_not_listed_as_by_others_may_be_there(server, models, named):
    async def look(backend):
        return await backend.check(), await backend.prepare()

    server.script(RIGHT)
    server.models = models
    (wrong, differences), _ = ask(server.url, after=look)
    server.models = []
    assert (wrong, any("lists other" in text for text in differences)) == ({}, named)


def test_a_key_may_end_with_a_line():
    assert endpoint("http://127.0.0.1:9/v1", api_key="key\n").client().api_key == "key"


TOO_LONG = {
    "vLLM": {"message": "This model's maximum context length is 4096 tokens."},
    "TGI": {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048."},
    "Anthropic": {"error": {"message": "prompt is too long: 201000 tokens > 200000 maximum"}},
    "Gemini": [{"error": {"message": "The input token count (12) exceeds the maximum number"}}],
    "llama.cpp": {"error": {"message": "the request exceeds the available context size"}},
    "Anthropic's both": {"message": "input length and `max_tokens` exceed context limit: 9 + 9"},
    "xAI": {
        "error": "This model's maximum prompt length is 131072 but the request contains 200000."
    },
    "Cohere": {"message": "too many tokens: total number of tokens cannot exceed 4081"},
    "Cerebras": {"message": "Please reduce the length of the messages or completion."},
    "Moonshot": {"error": {"message": "Your request exceeded model token limit: 8192"}},
    "DashScope": {"error": {"message": "Range of input length should be [1, 30720]"}},
    "Zhipu": {"error": {"code": "1261", "message": "Prompt exceeds max length"}},
    "TGI's prompt": {"error": "`inputs` must have less than 4095 tokens. Given: 5000"},
    "Bedrock": {"detail": "Too many input tokens. Max input tokens: 8192"},
    "watsonx": {"errors": [{"message": "input tokens 5000 cannot exceed the total tokens limit"}]},
    "OpenAI": {"error": {"message": "Input tokens exceed the configured limit of 272000 tokens."}},
    "OpenAI's text": {"error": {"message": "Invalid 'messages[0].content': string too long."}},
    "LM Studio": {"error": "Cannot truncate prompt with n_keep (14169) >= n_ctx (4096)"},
    "SiliconFlow": {"message": "length of prompt_tokens (57) must be less than max_seq_len (32)."},
    "Vertex": {"error": {"message": "Reduce the input token count and try again."}},
    "vLLM's engine": {"message": "The prompt is longer than the maximum model length of 4096."},
    "TensorRT-LLM": {"message": "prompt length (50) should not exceed max_num_tokens (40)"},
    "Volcengine": {
        "error": {"message": "Total tokens of image and text exceed max message tokens"}
    },
    "Databricks": {"message": "Input length 10000 exceeds maximum allowed length of 8000"},
    "Perplexity": {"message": "Prompt contains 40 tokens, which exceeds the maximum of 32"},
}


@pytest.mark.parametrize("name", TOO_LONG)
def test_a_prompt_that_is_too_long_is_told_in_many_words(server, name):
    server.script(status(400, TOO_LONG[name]))
    (attempt,), backend = ask(server.url)
    assert (attempt.error, server.calls) == ("context_length_exceeded", 1)
    assert not backend.notes


@pytest.mark.parametrize(
    ("behaviour", "error", "calls"),
    [
        (status(413), "context_length_exceeded", 1),
        (status(500, {"error": {"message": "Context size has been exceeded."}}), TOO_MUCH, 1),
        ({"object": "error", "message": "maximum context length", "code": 400}, TOO_MUCH, 1),
        ({"choices": None, "base_resp": {"status_msg": "invalid api key"}}, "unauthorized", 1),
        ({"detail": "Rate limit exceeded"}, "rate_limited", 2),
        ([{"error": {"code": 503, "status": "UNAVAILABLE"}}], "server_error", 2),
        ({"error": {"message": "no", "http_code": "429"}}, "rate_limited", 2),
        ({"error": {"message": "no", "type": "invalid_request_error"}}, "rejected", 1),
        (completion(choices=[{"error": {"code": 502}}], usage=None), "server_error", 2),
        (status(498), "server_error", 2),
        (status(424, {"error": "Request failed", "error_type": "generation"}), "server_error", 2),
        (status(400, [{"error": {"message": "API key not valid."}}]), "unauthorized", 1),
        (status(400, {"error": {"code": "content_filter"}}), "content_filter", 1),
        ({"error": "Model is overloaded"}, "server_error", 2),
        ({"error": {"message": "no", "code": "429"}}, "rate_limited", 2),
        ({"error": {"message": "no", "code": "insufficient_quota"}}, "no_credit", 1),
        (status(425), "server_error", 2),
        (status(410), "no_such_model", 1),
        (status(400, {"error": {"message": "Your credit balance is too low."}}), "no_credit", 1),
        (status(400, {"error": {"message": "Budget has been exceeded!"}}), "no_credit", 1),
        (status(403, {"error": "Your team doesn't have any credits yet."}), "no_credit", 1),
        (status(429, {"error": {"message": "insufficient balance"}}), "no_credit", 1),
        (status(403, {"error": {"message": "your input was flagged"}}), "content_filter", 1),
        (status(400, {"error": {"message": "ContentPolicyViolation"}}), "content_filter", 1),
        (status(400, {"error": "Incorrect API key provided: sk***et."}), "unauthorized", 1),
        (status(400, {"__type": "ThrottlingException"}), "rate_limited", 2),
        (status(400, {"error": {"message": "a/b is not a valid model ID"}}), "no_such_model", 1),
        (status(400, {"error": "The model `x` has been decommissioned."}), "no_such_model", 1),
        (status(429, {"error": {"message": "Please try again in 7m12.48s."}}), "rate_limited", 1),
        (status(429, {"error": {"message": "Please retry after 45 seconds."}}), "rate_limited", 1),
        (status(429, {"error": {"message": "Please wait 49041 seconds"}}), "rate_limited", 1),
        (status(429, {"error": "No deployments. Try again in 60 seconds."}), "rate_limited", 1),
        (status(429, {"error": "Budget has been exceeded!"}), "no_credit", 1),
        (status(429, {"error": "Your account is not active"}), "no_credit", 1),
        (status(429, {"error": "Request too large for gpt-4o on TPM: Limit 3"}), TOO_MUCH, 1),
        (status(429, {"error": "You have used up your daily free allocation"}), "no_credit", 1),
        (status(429, {"error": "Rate limit exceeded: free-models-per-day."}), "no_credit", 1),
        (
            status(400, {"error": "You have reached your specified API usage limits."}),
            "no_credit",
            1,
        ),
        (status(403, {"error": "The free tier of the model is exhausted."}), "no_credit", 1),
        (status(400, {"error": "User location is not supported."}), "unauthorized", 1),
        (status(400, {"error": "Organization has been restricted."}), "unauthorized", 1),
        (status(400, {"error": {"code": "model_not_supported"}}), GONE, 1),
        (status(400, {"errors": [{"message": "No such model @cf/x or task"}]}), GONE, 1),
        (status(400, {"message": "Invocation of model ID x with on-demand throughput"}), GONE, 1),
        ({"error": "Unexpected endpoint or method. (POST /chat/completions)"}, GONE, 1),
        (status(400, {"code": "DataInspectionFailed"}), "content_filter", 1),
        (status(429, {"error": "You reached your monthly spending limit."}), "no_credit", 1),
        (status(412, {"error": {"message": "Account x is suspended"}}), "no_credit", 1),
        (status(403, {"message": "Sorry, your account balance is insufficient"}), "no_credit", 1),
        (status(400, {"error": {"message": "Content Exists Risk"}}), "content_filter", 1),
        (status(403, {"error": "Content violates usage guidelines."}), "content_filter", 1),
        (status(400, {"message": "Invalid model: x"}), GONE, 1),
        (status(499), "server_error", 2),
        (status(400, {"error": "The model has crashed"}), "server_error", 2),
        (status(502, x_should_retry="false"), "server_error", 1),
    ],
)
def test_refusals_are_what_they_say(server, behaviour, error, calls):
    server.script(behaviour)
    (attempt,), _ = ask(server.url)
    assert (attempt.error, server.calls) == (error, calls)


@pytest.mark.parametrize(
    ("usage", "prompt", "cached", "written"),
    [
        ({"prompt_tokens": 10.0, "completion_tokens": 4.0}, 10, 0, 4),
        ({**usage_of(10, 4), "prompt_cache_hit_tokens": 8}, 2, 8, 4),
        ({**usage_of(10, 4), "cached_tokens": 8}, 2, 8, 4),
        ({**usage_of(10, 4), "cache_read_input_tokens": 8}, 2, 8, 4),
        ({"input_tokens": 10, "output_tokens": 4}, 10, 0, 4),
        ({**usage_of(10, 4), "total_tokens": 64}, 10, 0, 54),  # Gemini's thoughts
        ({**usage_of(10, 4), "total_tokens": 12}, 10, 0, 4),
        ({**usage_of(10, 4), "cache_creation_input_tokens": 500, "total_tokens": 514}, 10, 0, 4),
        (
            {"input_tokens": 10, "output_tokens": 4, "cache_read_input_tokens": 1000},
            *(10, 1000, 4),
        ),
        (
            {
                **usage_of(10, 4),
                "total_tokens": 114,
                "completion_tokens_details": {"reasoning_tokens": 100},  # xAI's
                "prompt_tokens_details": {"cached_tokens": 8},
            },
            *(2, 8, 104),
        ),
    ],
)
def test_usage_is_read_in_all_dialects(server, usage, prompt, cached, written):
    server.script(completion(usage=usage))
    (attempt,), _ = ask(server.url)
    found = attempt.usage
    assert (found.prefill_tokens, found.cached_tokens) == (prompt, cached)
    assert found.decoded_tokens == written


@pytest.mark.parametrize(
    "more",
    [
        {"x_groq": {"usage": usage_of(10, 4)}},
        {"timings": {"cache_n": 6, "prompt_n": 4, "predicted_n": 4}},
    ],
    ids=["Groq", "llama.cpp"],
)
def test_streams_tell_usage_in_other_places(server, more):
    server.script(stream(*BEGIN, chunk({}, "stop", **more)))
    (attempt,), _ = ask(server.url, streams=True)
    assert (attempt.prompt_tokens, attempt.completion_tokens) == (10, 4)


def test_a_stream_may_count_its_prompt_first_and_its_answer_last(server):
    first, last = usage_of(12, 1), usage_of(0, 40)
    server.script(stream(chunk({}, usage=first), *BEGIN, chunk({}, "stop", usage=last)))
    (attempt,), _ = ask(server.url, streams=True)
    assert (attempt.prompt_tokens, attempt.completion_tokens) == (12, 40)


@pytest.mark.parametrize("streams", [False, True])
def test_a_server_that_counts_nothing_is_measured(server, streams):
    """Nothing that was written is free because its server says 0."""
    told = stream(*BEGIN, chunk({}, "stop", usage=usage_of(0, 0)))
    server.script(told if streams else completion(usage=usage_of(0, 0)))
    (attempt,), _ = ask(server.url, streams=streams)
    assert attempt.usage.prefill_tokens > 0
    assert attempt.usage.decoded_tokens > 0


def test_milliseconds_are_a_pause_too():
    assert retry_after_s({"retry-after-ms": "250", "retry-after": "1"}) == 0.25


def test_a_date_of_a_server_without_a_clock_is_read_by_ours():
    assert 25 < retry_after_s({"retry-after": formatdate(time.time() + 30, usegmt=True)}) < 31


def test_a_pause_until_a_limit_is_reset_counts_what_is_spent():
    told = {"remaining-requests": "0", "reset-requests": "1m0s", "reset-tokens": "6m0s"}
    headers = {f"x-ratelimit-{name}": value for name, value in told.items()}
    assert retry_after_s({**headers, "x-ratelimit-remaining-tokens": "9"}) == 60
    assert retry_after_s({**headers, "retry-after": "2"}) == 2


@pytest.mark.parametrize(
    "told",
    ["20", "20.0", "20s", "1764500020", "1764500020000", "2025-11-30T10:53:40Z"],
)
@pytest.mark.parametrize("name", ["x-ratelimit-{}-tokens-minute", "ratelimit-{}", "retry-after"])
def test_a_pause_is_told_in_many_ways(told, name):
    """Cerebras's, Together's, OpenRouter's, Anthropic's."""
    headers = {name.format("reset"): told, "date": "Sun, 30 Nov 2025 10:53:20 GMT"}
    if "{}" in name:
        assert retry_after_s({**headers, name.format("remaining"): "9"}) is None
        headers[name.format("remaining")] = "0"
    assert retry_after_s(headers) == 20


def refuse(words, when, code=400):
    """Refuses requests of some kind, with a status and in words of its own."""

    async def reply(exchange):
        refused = when(exchange.body)
        await exchange.reply(words if refused else RIGHT, status=code if refused else 200)

    return reply


def with_fields(n=1, **fields):
    return [replace(r, question=replace(r.question, fields=fields)) for r in asking(n)]


def test_a_403_may_be_about_a_field(server):
    words = {"error": {"message": "You are not allowed to request logprobs from this model"}}
    server.script(refuse(words, lambda sent: "logprobs" in sent, 403))
    (attempt,), backend = ask(server.url, breaker=CircuitBreaker(failures=1))
    assert (attempt.answer, server.calls) == ("7", 2)
    assert backend.notes == ("small: the server refuses logprobs",)


def test_what_is_learnt_helps_those_who_asked_meanwhile(server):
    server.script(objecting({"error": {"message": "logprobs is not supported"}}))
    made, backend = ask(server.url, n=3)
    assert ([a.answer for a in made], server.calls) == (["7"] * 3, 6)
    assert backend.notes == ("small: the server refuses logprobs",)


def test_alternatives_go_with_the_log_probabilities_that_are_refused(server):
    server.script(objecting({"error": {"message": "logprobs is not supported"}}))
    (attempt,), _ = ask(server.url, requests=with_fields(logprobs=True, top_logprobs=3))
    assert (attempt.answer, server.calls) == ("7", 2)
    assert "top_logprobs" not in server.requests[-1].body


TOGETHER = "`temperature` and `top_p` cannot both be specified for this model. Please use only one."


@pytest.mark.parametrize(
    ("words", "when", "fields", "gone", "note"),
    [
        (
            {"error": {"message": TOGETHER}},
            lambda sent: {"temperature", "top_p"} <= sent.keys(),
            {"top_p": 0.9},
            "temperature",
            "temperature beside top_p",
        ),
        (
            {"error": {"message": "temperature is not supported", "param": "temperature"}},
            lambda sent: "temperature" in sent and sent.get("reasoning_effort", "none") != "none",
            {"reasoning_effort": "high"},
            "temperature",
            "temperature beside reasoning_effort high",
        ),
        (
            {"error": {"message": "Function tools with chat_kind are no good."}},
            lambda sent: {"chat_kind", "tools"} <= sent.keys(),
            OFFERED,
            "chat_kind",
            "chat_kind beside tools",
        ),
    ],
    ids=["one of both", "thinking", "the operator's"],
)
def test_what_is_refused_beside_one_clients_field_is_sent_to_all_others(
    server, words, when, fields, gone, note
):
    server.script(refuse(words, when))
    again = [*with_fields(**fields), *with_fields(reasoning_effort="none")]
    made, backend = ask(
        server.url,
        body={"temperature": 0.5, "chat_kind": 1},
        requests=with_fields(**fields),
        after=lambda backend: backend.attempts(again),
    )
    assert ([a.answer for a in made], server.calls) == (["7", "7"], 4)
    assert [gone in r.body for r in server.requests[:2]] == [True, False]
    assert sorted(gone in r.body for r in server.requests[2:]) == [False, True]
    assert backend.notes == (f"small: the server refuses {note}",)


@pytest.mark.parametrize(
    "words",
    [
        {"detail": [{"loc": ["body", "temperature"], "msg": "should be less than 1.5"}]},
        {"error": "Input validation error: `temperature` must be strictly positive"},
    ],
)
def test_a_value_out_of_range_is_its_clients_matter(server, words):
    server.script(refuse(words, lambda sent: sent["temperature"] > 1.5, 422))
    (attempt,), backend = ask(
        server.url,
        body={},
        temperature=0.5,
        requests=with_fields(temperature=1.9),
        after=lambda backend: backend.attempts(asking()),
    )
    assert (attempt.answer, server.calls, backend.notes) == ("7", 2, ())
    assert server.requests[-1].body["temperature"] == 0.5


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("Model grok-4 does not support parameter presencePenalty.", "presence_penalty", 0.5),
        ("Penalty is not enabled for models/gemini-2.5-pro", "presence_penalty", 0.5),
    ],
)
def test_a_field_may_be_named_in_other_words(server, words, field, value):
    server.script(refuse({"error": words}, lambda sent: field in sent))
    (attempt,), _ = ask(server.url, requests=with_fields(**{field: value}))
    assert (attempt.answer, server.calls) == ("7", 2)


def test_a_long_cache_key_is_told_by_its_digest(server):
    words = "Invalid 'prompt_cache_key': string too long. Expected a maximum length of 64."
    server.script(refuse({"error": words}, lambda sent: len(sent.get("prompt_cache_key", "")) > 64))
    long, short = ([*with_fields(prompt_cache_key=key)] for key in ("x" * 69, "of another client"))
    ask(server.url, requests=long, after=lambda backend: backend.attempts([*long, *short]))
    first, digest, again, other = (r.body["prompt_cache_key"] for r in server.requests)
    assert (first, other) == ("x" * 69, "of another client")
    assert (digest, len(digest)) == (again, 64)


UNREAD = {
    "Groq": (400, {"code": "tool_use_failed", "failed_generation": '{"temperature": 21}'}),
    "its schema": (
        400,
        {"code": "tool_use_failed", "message": "[`/temperature`: expected string]"},
    ),
    "Ollama": (500, {"message": "error parsing tool call: raw='the context window', err=x"}),
    "llama.cpp": (500, {"message": "Failed to parse tool call arguments as JSON: parse_error.101"}),
    "OpenAI": (400, {"message": "Could not finish the message because max_tokens was reached"}),
}


@pytest.mark.parametrize("name", UNREAD)
@pytest.mark.parametrize("streams", [False, True])
def test_what_a_server_cannot_read_of_its_model_is_paid_for_once(server, name, streams):
    code, error = UNREAD[name]
    told = b"data: " + json.dumps({"error": {**error, "status_code": code}}).encode() + b"\n\n"
    fails = of_type("text/event-stream", told) if streams else status(code, {"error": error})
    server.script(fails)
    (attempt,), backend = ask(
        server.url, streams=streams, body={"temperature": 0.5}, breaker=CircuitBreaker(failures=1)
    )
    assert (attempt.error, server.calls, backend.notes) == ("unreadable", 1, ())
    assert attempt.usage.prefill_tokens > 0
    assert backend.breaker.allows


def test_what_one_client_asks_for_closes_a_server_to_nobody(server):
    server.script(status(404, {"error": {"message": "No endpoints found that support tool use."}}))
    (attempt,), backend = ask(server.url, breaker=CircuitBreaker(failures=1))
    assert (attempt.error, backend.breaker.allows) == ("rejected", True)


SIGNED = {"google": {"thought_signature": "c2ln"}}


@pytest.mark.parametrize("streams", [False, True])
def test_calls_keep_what_their_server_wants_back(server, streams):
    """Ids as long as they are, one for each call without, and arguments that are JSON."""
    signed = {"index": 0, "id": "x" * 5000, "function": {"name": "f", "arguments": ""}}
    calls = [{**signed, "extra_content": SIGNED}, {"index": 1, "function": {"name": "g"}}]
    told = stream(chunk({"tool_calls": calls}), chunk({}, "tool_calls"))
    whole = saying(None, "tool_calls", message={"tool_calls": calls})
    server.script(told if streams else whole)
    first, second = ask(server.url, streams=streams, requests=with_fields(**OFFERED))[0][0].calls
    assert (first["id"], first["extra_content"]) == ("x" * 5000, SIGNED)
    assert [call["function"]["arguments"] for call in (first, second)] == ["{}", "{}"]
    assert len(second["id"]) > len("call_0")
    assert "extra_content" not in second


@pytest.mark.parametrize(
    ("words", "brought", "wants"),
    [
        (
            "Function call is missing a thought_signature in functionCall parts.",
            None,
            lambda turn, result: "extra_content" in turn["tool_calls"][0],
        ),
        (
            "Unknown parameter: 'messages[1].tool_calls[0].extra_content'.",
            SIGNED,
            lambda turn, result: "extra_content" not in turn["tool_calls"][0],
        ),
        (
            "thinking is enabled but reasoning_content is missing in assistant tool call message",
            None,
            lambda turn, result: turn.get("reasoning_content"),
        ),
        (
            "messages.1.reasoning_content: Extra inputs are not permitted",
            {"reasoning_content": "I call f."},
            lambda turn, result: "reasoning_content" not in turn,
        ),
        (
            "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9.",
            None,
            lambda turn, result: (
                len(turn["tool_calls"][0]["id"]) == 9
                and turn["tool_calls"][0]["id"] == result["tool_call_id"]
            ),
        ),
    ],
    ids=["Gemini's", "others than Gemini's", "Kimi's", "others than Kimi's", "Mistral's"],
)
def test_calls_of_one_model_go_on_with_another(server, words, brought, wants):
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = (
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{**call, **({"extra_content": brought} if brought is SIGNED else {})}],
            **(brought if brought and brought is not SIGNED else {}),
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "7"},
    )
    server.script(
        refuse({"error": {"message": words}}, lambda body: not wants(*body["messages"][1:]))
    )
    (request,) = asking()
    request = replace(request, question=replace(request.question, since=turns))
    (attempt,), backend = ask(server.url, requests=[request])
    assert (attempt.answer, server.calls, len(backend.notes)) == ("7", 2, 1)


LONG_ID = "functions.f:0" * 4


def called(arguments="{}"):
    """A turn that calls a tool, and what that returned."""
    call = {"id": LONG_ID, "type": "function", "function": {"name": "f", "arguments": arguments}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    return (turn, {"role": "tool", "tool_call_id": LONG_ID, "content": "7"})


@pytest.mark.parametrize(
    ("words", "turns", "minds"),
    [
        (
            "Unexpected role 'user' after role 'tool'",
            called(),
            lambda sent: [turn["role"] for turn in sent[-2:]] == ["tool", "user"],
        ),
        (
            "all messages must have non-empty content",
            ({"role": "assistant", "content": ""},),
            lambda sent: any(turn["content"] == "" for turn in sent),
        ),
        (
            "invalid message content type: <nil>",
            called(),
            lambda sent: any(turn["content"] is None for turn in sent),
        ),
        (
            "Unterminated string starting at: line 1 column 7 (char 6)",
            called('{"x": "'),
            lambda sent: sent[0]["tool_calls"][0]["function"]["arguments"] == '{"x": "',
        ),
        (
            "Can only get item pairs from a mapping.",
            called("7"),
            lambda sent: sent[0]["tool_calls"][0]["function"]["arguments"] == "7",
        ),
        (
            "messages.1.content.0.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'",
            called(),
            lambda sent: sent[0]["tool_calls"][0]["id"] == LONG_ID,
        ),
        (
            "Value at 'toolUse.toolUseId' failed to satisfy constraint: regular expression pattern",
            called(),
            lambda sent: sent[1]["tool_call_id"] == LONG_ID,
        ),
        (
            "Invalid 'messages[0].tool_calls[0].id': string too long. Expected at most 40",
            called(),
            lambda sent: len(sent[0]["tool_calls"][0]["id"]) > 40,
        ),
    ],
)
@pytest.mark.parametrize("code", [400, 500])
def test_turns_are_as_a_server_takes_them(server, words, turns, minds, code):
    server.script(refuse({"error": words}, lambda sent: minds(sent["messages"]), code))
    (request,) = asking()
    request = replace(request, question=replace(request.question, history=turns))
    (attempt,), backend = ask(server.url, requests=[request], breaker=CircuitBreaker(failures=1))
    assert (attempt.error, server.calls, len(backend.notes)) == (None, 2, 1)


def test_a_url_may_have_a_query(server):
    server.script(RIGHT)
    server.paths = {"/tokenize?api-version=preview": {"count": 41}}
    found, _ = ask(
        f"{server.url}?api-version=preview", after=lambda b: b.prompt_states([asking()[0].question])
    )
    assert server.requests[0].path == "/v1/chat/completions?api-version=preview"
    assert found[0].prompt_tokens == (41,)
    server.paths = {}
