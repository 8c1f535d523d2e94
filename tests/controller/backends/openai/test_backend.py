"""A model behind a server that misbehaves in every way that servers do, on real sockets."""

import asyncio
import gzip
import json
import math
import socket
import time
import warnings
from dataclasses import replace
from functools import partial

import pytest

from controller.backends.base import Request
from controller.backends.openai.backend import OpenAIBackend
from controller.backends.openai.endpoint import proxy_for
from controller.backends.openai.resilience import (
    CircuitBreaker,
    RetryBudget,
    retry_after_s,
)
from controller.errors import ConfigError
from controller.process.actions import ActionKind
from controller.process.types import ModelSpec, Question
from tests.controller.server.upstream import Upstream, completion, endpoint

QUESTION = Question(question_id="q", text="2+5=")
RIGHT = completion("Answer: 7")


@pytest.fixture(scope="module")
def server():
    with Upstream().running() as upstream:
        yield upstream


def asking(n=1, action=ActionKind.SAMPLE, parent=None):
    return [Request(question=QUESTION, action=action, index=i, parent=parent) for i in range(n)]


def ask(url, n=1, deadline_s=None, after=None, requests=None, **settings):
    """Attempts, and the backend that made them."""
    parts = {k: settings.pop(k) for k in ("breaker", "retries") if k in settings}
    quick = {"attempt_deadline_s": 10, "connect_timeout_s": 2, "max_retries": 1, **settings}
    backend = OpenAIBackend(endpoint(url, api_key="sk-secret", **quick), seed=0, **parts)

    async def run():
        deadline = None
        if deadline_s is not None:
            deadline = asyncio.get_running_loop().time() + deadline_s
        try:
            timed = [replace(r, deadline=deadline) for r in requests or asking(n)]
            made = await backend.attempts(timed)
            return made if after is None else await after(backend)
        finally:
            await backend.close()

    return asyncio.run(run()), backend


async def hang(exchange):
    await asyncio.sleep(30)


async def drip(exchange):
    await exchange.reply(b"", length=10_000)
    for _ in range(100):
        await exchange.send(b" ")
        await asyncio.sleep(0.05)


async def cut_json(exchange):
    data = b'{"id": "c", "object": "chat.completion", "choices": [{"message": {"role": "assis'
    await exchange.reply(data, length=len(data))


async def cut_body(exchange):
    await exchange.reply(b'{"id": "c"', length=1000)


async def reset(exchange):
    exchange.reset()


async def reset_midway(exchange):
    await exchange.begin_stream()
    await exchange.event("Answer")
    await asyncio.sleep(0.05)
    exchange.reset()


async def reset_early(exchange):
    await exchange.begin_stream()
    await exchange.event("")
    exchange.reset()


async def slow_stream(exchange):
    await exchange.begin_stream()
    for _ in range(100):
        await exchange.event("x")
        await asyncio.sleep(0.05)


async def stalled_stream(exchange):
    await exchange.begin_stream()
    await exchange.event("")
    await asyncio.sleep(0.15)
    await exchange.event("Answer: ")
    await asyncio.sleep(30)


async def cut_stream(exchange):
    await exchange.begin_stream()
    await exchange.event("Answer: ")
    await asyncio.sleep(0.05)  # what comes with the end of a connection may be lost with it


async def garbled_stream(exchange):
    await exchange.begin_stream()
    await exchange.event("Answer: ")
    await exchange.send(b"data: {not json\n\n")


async def error_in_stream(exchange):
    await exchange.begin_stream()
    await exchange.send(b'data: {"error": {"message": "key sk-secret is wrong"}}\n\n')


async def code_in_stream(exchange):
    await exchange.begin_stream()
    await exchange.send(b'data: {"error": {"message": "overloaded", "code": 529}}\n\n')


async def failed_stream(exchange):
    await exchange.begin_stream()
    await exchange.event("Answer: 7")
    await exchange.event(finish="error")
    await exchange.send(b"data: [DONE]\n\n")


async def bomb(exchange):
    await exchange.reply(gzip.compress(b" " * 30_000_000), headers={"content-encoding": "gzip"})


async def huge(exchange):
    await exchange.reply(b" " * 3_000_000)


async def huge_stream(exchange):
    await exchange.begin_stream()
    for _ in range(300):
        await exchange.event("x" * 10_000)


async def html(exchange):
    await exchange.reply(b"<html>welcome</html>", kind="text/html")


async def not_http(exchange):
    await exchange.send(b"\x00\x01\x02 not http at all\r\n\r\n")


def status(code, body=None, **headers):
    async def reply(exchange):
        named = {k.replace("_", "-"): v for k, v in headers.items()}
        await exchange.reply(
            body or {"error": {"message": "sk-secret"}}, status=code, headers=named
        )

    return reply


def usage_of(prompt, written):
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def saying(content, finish="stop", **more):
    """A completion with one choice that ends as told."""
    message = {"role": "assistant", "content": content, **more.pop("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return completion(choices=[choice], **more)


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}

FAULTS = {
    "429": (status(429), {}, "rate_limited"),
    "429 with Retry-After": (status(429, retry_after="0.05"), {}, "rate_limited"),
    "500": (status(500), {}, "server_error"),
    "502 with HTML": (status(502, b"<html>bad gateway</html>"), {}, "server_error"),
    "503": (status(503), {}, "server_error"),
    "wrong content type": (html, {}, "bad_type"),
    "not HTTP": (not_http, {}, "reset"),
    "empty choices": (completion(choices=[], usage=None), {}, "empty_choices"),
    "null choices": (completion(choices=None, usage=None), {}, "empty_choices"),
    "null content": (saying(None, finish=None, usage=None), {}, "null_content"),
    "529": (status(529), {}, "server_error"),
    "an error in a 200": ({"error": {"message": "sk-secret", "code": 429}}, {}, "rate_limited"),
    "a list instead of an object": ([1, 2], {}, "bad_type"),
    "reset": (reset, {}, "reset"),
    "error in SSE": (error_in_stream, {"streams": True}, "bad_response"),
    "error with a code in SSE": (code_in_stream, {"streams": True}, "server_error"),
    "reset before the first token": (reset_early, {"streams": True}, "truncated_stream"),
}  # fmt: skip

STALLS = {"streams": True, "idle_timeout_s": 0.1, "attempt_deadline_s": 5}
BEGUN = {
    "attempt deadline": (hang, {}, "attempt_deadline"),
    "truncated JSON": (cut_json, {}, "bad_json"),
    "truncated body": (cut_body, {}, "truncated"),
    "huge body": (huge, {"max_response_bytes": 2**20}, "too_large"),
    "a compressed body": (bomb, {"max_response_bytes": 2**20}, "too_large"),
    "an end by error": (saying("Answer: 7", "error"), {}, "finish_error"),
    "an end by error in SSE": (failed_stream, {"streams": True}, "finish_error"),
    "slow stream": (slow_stream, {"streams": True}, "attempt_deadline"),
    "stalled stream": (stalled_stream, STALLS, "stalled"),
    "truncated SSE": (cut_stream, {"streams": True}, "truncated_stream"),
    "garbled SSE": (garbled_stream, {"streams": True}, "bad_json"),
    "reset mid-stream": (reset_midway, {"streams": True}, "truncated_stream"),
    "huge stream": (huge_stream, {"streams": True, "max_response_bytes": 2**20}, "too_large"),
}  # fmt: skip


async def streamed(exchange):
    await exchange.begin_stream()
    for part in ("Answer", ": ", "7"):
        await exchange.event(part)
    await exchange.event(finish="stop", usage=usage_of(10, 3))
    await exchange.send(b"data: [DONE]\n\n")


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_is_retried_and_two_are_told(server, fault):
    behaviour, settings, kind = FAULTS[fault]
    right = streamed if settings.get("streams") else RIGHT
    server.script(behaviour, right)
    (attempt,), backend = ask(server.url, **settings)
    assert (attempt.answer, attempt.error) == ("7", None)
    assert server.calls == 2
    assert backend.breaker.allows
    server.script(behaviour)
    (attempt,), backend = ask(server.url, breaker=CircuitBreaker(failures=2), **settings)
    assert attempt.error == kind
    assert attempt.answer is None
    assert server.calls == 2
    assert "sk-secret" not in repr(attempt)
    assert not backend.breaker.allows


@pytest.mark.parametrize("fault", BEGUN)
def test_what_a_server_has_begun_to_write_is_not_asked_for_again(server, fault):
    behaviour, settings, kind = BEGUN[fault]
    server.script(behaviour, RIGHT)
    deadline = {"attempt_deadline_s": 0.3} if kind == "attempt_deadline" else {}
    (attempt,), _ = ask(server.url, **{**settings, **deadline})
    assert (attempt.error, server.calls) == (kind, 1)
    assert "sk-secret" not in repr(attempt)


def test_refused_dns_and_connect_time_out():
    closed = "http://127.0.0.1:9/v1"
    assert ask(closed, attempt_deadline_s=5)[0][0].error == "refused"
    assert ask("http://no-such-host.invalid/v1", attempt_deadline_s=5)[0][0].error == "dns"


def test_connect_time_out():
    """A listener whose queue is full lets nobody in."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fill = [socket.socket() for _ in range(4)]
        for s in fill:
            s.setblocking(False)
            s.connect_ex(("127.0.0.1", port))
        (attempt,), _ = ask(f"http://127.0.0.1:{port}/v1", max_retries=0, attempt_deadline_s=5)
        for s in fill:
            s.close()
    assert attempt.error == "connect_timeout"


def test_slow_drip_ends_at_the_deadline(server):
    """Each byte comes in time, but the answer never does."""
    server.script(drip)
    started = time.monotonic()
    (attempt,), backend = ask(server.url, deadline_s=0.5, attempt_deadline_s=5)
    assert attempt.error == "deadline"
    assert time.monotonic() - started < 1.5
    assert backend.breaker.allows


def test_what_is_not_done_by_the_deadline_does_not_cost_the_rest(server):
    server.script(RIGHT, hang)
    made, _ = ask(server.url, n=3, deadline_s=0.25, attempt_deadline_s=5)
    assert sorted((a.answer or "", a.error or "") for a in made) == [
        ("", "deadline"),
        ("", "deadline"),
        ("7", ""),
    ]


@pytest.mark.parametrize(
    ("code", "kind"),
    [(400, "rejected"), (401, "unauthorized"), (404, "no_such_model"), (422, "rejected")],
)
def test_what_would_fail_again_is_not_retried(server, code, kind):
    server.script(status(code))
    (attempt,), _ = ask(server.url)
    assert (attempt.error, server.calls) == (kind, 1)


def refusing(*names, successor=None):
    """Answers 400 as long as a request has any of these fields."""

    async def reply(exchange):
        found = next((name for name in names if name in exchange.body), None)
        if found is None:
            await exchange.reply(RIGHT)
        else:
            message = f"Unsupported parameter: '{found}' is not supported with this model."
            body = {"error": {"message": message, "param": found, "code": "unsupported_parameter"}}
            await exchange.reply(body, status=400)

    return reply


def test_a_refused_field_is_left_off_from_then_on(server):
    """And spends none of the retries that are for servers that fail."""
    server.script(refusing("max_tokens", "temperature", "logprobs"))
    body = {"temperature": 0.5}
    (attempt,), backend = ask(
        server.url, body=body, max_retries=0, after=lambda backend: backend.attempts(asking())
    )
    assert (attempt.answer, attempt.error, server.calls) == ("7", None, 5)
    assert backend.retries.saved == RetryBudget().saved
    sent = server.requests[-1].body
    assert sent["max_completion_tokens"] > 0
    assert not {"max_tokens", "temperature", "logprobs"} & set(sent)
    assert any("refuses temperature" in note for note in backend.notes)


def test_a_context_that_is_too_long_is_no_refusal_of_a_field(server):
    message = "max_tokens is too large: the maximum context length is 512 tokens"
    server.script(status(400, json.dumps({"error": {"message": message}}).encode()))
    (attempt,), backend = ask(server.url)
    assert (attempt.error, server.calls, backend.notes) == ("context_length_exceeded", 1, ())


def test_an_answer_under_another_name_counts_and_is_told(server):
    server.script(completion(model="small-2026-11-01"))
    (attempt,), backend = ask(server.url)
    assert (attempt.answer, attempt.error, server.calls) == ("7", None, 1)
    assert any("answers as small-2026-11-01" in note for note in backend.notes)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None, "refusal": "I cannot help with that."}, "I cannot help with that."),
        (
            {"content": [{"type": "text", "text": "Answer: "}, {"type": "text", "text": "7"}]},
            "Answer: 7",
        ),
        ({"content": None, "tool_calls": []}, ""),
        ({"content": None, "reasoning_content": "Hm."}, ""),
        ({"content": None, "tool_calls": [CALL]}, ""),
    ],
)
def test_what_was_written_is_paid_for_once_whatever_it_is(server, message, text):
    server.script(saying(None, message=message))
    (attempt,), _ = ask(server.url)
    assert (attempt.text, attempt.error, attempt.calls, server.calls) == (text, None, (), 1)
    assert attempt.usage.decoded_tokens > 0


def test_a_body_replaces_and_removes_fields(server):
    server.script(RIGHT)
    ask(server.url, body={"max_tokens": None, "max_completion_tokens": 99, "logprobs": False})
    sent = server.requests[-1].body
    assert "max_tokens" not in sent
    assert (sent["max_completion_tokens"], sent["logprobs"]) == (99, False)


def test_garbage_logprobs_are_unknown_ones(server):
    for garbage in (float("1e400"), 5.0, "high", None, True):
        server.script(completion(logprob=garbage if garbage != float("inf") else 7e300))
        (attempt,), _ = ask(server.url)
        assert (attempt.answer, attempt.mean_logprob, attempt.min_logprob) == ("7", None, None)
    server.script(RIGHT)
    (attempt,), _ = ask(server.url)
    assert attempt.mean_logprob == pytest.approx(-0.1)


def test_garbage_usage_is_estimated(server):
    server.script(completion(usage={"prompt_tokens": -4, "completion_tokens": "many"}))
    (attempt,), _ = ask(server.url)
    assert attempt.answer == "7"
    assert attempt.prompt_tokens > 0
    assert attempt.completion_tokens > 0


def test_nobody_writes_two_billion_tokens(server):
    server.script(completion(usage=usage_of(10, 2**31 - 1)))
    (attempt,), _ = ask(server.url)
    assert (attempt.answer, attempt.usage.decoded_tokens) == ("7", attempt.completion_tokens)
    assert attempt.completion_tokens < 100
    server.script(completion(choices=[], usage=usage_of(10, 2**31 - 1)))
    (attempt,), _ = ask(server.url)
    assert attempt.usage.cancelled_tokens <= 2**16


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "text/plain", "text/html"])
def test_a_completion_is_read_whatever_its_content_type(server, kind):
    """Some say none that is right, and some write their counts as text."""

    async def reply(exchange):
        told = {"prompt_tokens": "12", "completion_tokens": "3", "total_tokens": "15"}
        await exchange.reply(completion("Answer: 7", usage=told), kind=kind)

    server.script(reply)
    (attempt,), _ = ask(server.url)
    assert (attempt.answer, attempt.error) == ("7", None)
    assert (attempt.prompt_tokens, attempt.completion_tokens) == (12, 3)


def test_half_characters_are_replaced(server):
    server.script(completion("Answer: \ud8007"))
    (attempt,), _ = ask(server.url)
    assert attempt.text == "Answer: ?7"


def test_retry_after_is_kept_whatever_the_clocks_say(server):
    """A date is read by the server's own clock, an hour behind ours."""
    server.script(
        status(
            429,
            retry_after="Wed, 21 Oct 2015 07:28:01 GMT",
            date="Wed, 21 Oct 2015 07:28:00 GMT",
        ),
        RIGHT,
    )
    started = time.monotonic()
    (attempt,), _ = ask(server.url)
    assert attempt.answer == "7"
    assert 1.0 <= time.monotonic() - started < 2.5
    assert retry_after_s({"retry-after": "Wed, 21 Oct 2015 07:28:01 GMT"}) is None
    assert retry_after_s({"retry-after": "-3"}) is None
    assert retry_after_s({"retry-after": "nan"}) is None


def test_nobody_waits_longer_than_the_deadline_for_a_retry(server):
    server.script(status(429, retry_after="20"), RIGHT)
    started = time.monotonic()
    (attempt,), _ = ask(server.url, deadline_s=1)
    assert attempt.error == "rate_limited"
    assert time.monotonic() - started < 0.9


def test_retries_are_budgeted(server):
    server.script(status(500))
    budget = RetryBudget(share=0, most=2, saved=2)
    patient = CircuitBreaker(failures=100)
    made, _ = ask(server.url, n=8, max_retries=5, retries=budget, breaker=patient)
    assert {a.error for a in made} == {"server_error"}
    assert server.calls == 8 + 2


def test_an_open_breaker_asks_nobody_and_tries_again_later(server):
    now = [0.0]
    breaker = CircuitBreaker(failures=2, cooldown_s=10, clock=lambda: now[0])
    server.script(status(500), status(500), RIGHT)

    async def go_on(backend):
        assert not backend.available(0)
        (refused,) = await backend.attempts(asking())
        calls = server.calls
        now[0] = 11.0
        assert backend.available(0)
        (probe,) = await backend.attempts(asking())
        return refused, calls, probe

    (refused, calls, probe), _ = ask(server.url, breaker=breaker, after=go_on)
    assert (refused.error, calls) == ("breaker_open", 2)
    assert probe.answer == "7"
    assert breaker.allows


def test_side_by_side(server):
    async def slow(exchange):
        await asyncio.sleep(0.5)
        await exchange.reply(RIGHT)

    server.script(slow)
    started = time.monotonic()
    made, _ = ask(server.url, n=4, attempt_deadline_s=5)
    assert [a.answer for a in made] == ["7"] * 4
    assert time.monotonic() - started < 4 * 0.5
    assert server.calls == 4


@pytest.mark.parametrize(("given", "calls"), [(4, 1), (2, 3), (1, 4)])
def test_fewer_choices_than_asked_for(server, given, calls):
    """What a server leaves out is asked for one by one; the ledger counts each prompt once."""
    server.script(completion(n=given), RIGHT)
    made, _ = ask(server.url, n=4, asks_n=True)
    assert [a.answer for a in made] == ["7"] * 4
    assert len({a.attempt_id for a in made}) == 4
    assert server.calls == calls
    assert server.requests[0].body["n"] == 4
    assert sum(a.usage.prefill_tokens for a in made) == 10 * calls
    assert sum(a.usage.cached_tokens for a in made) == 10 * (given - 1)


def test_a_server_that_ignores_n_is_not_asked_so_again(server):
    async def again(backend):
        server.script(RIGHT)
        await backend.attempts(asking(3))

    server.script(completion(n=1), RIGHT)
    ask(server.url, n=3, asks_n=True, after=again)
    assert all("n" not in exchange.body for exchange in server.requests)


def test_what_is_asked(server):
    server.script(RIGHT)
    ask(server.url, body={"temperature": 0.7}, max_new_tokens=50)
    body = server.requests[0].body
    assert body["messages"] == [{"role": "user", "content": "2+5="}]
    assert (body["model"], body["max_tokens"], body["logprobs"]) == ("small", 50, True)
    assert body["temperature"] == 0.7
    assert server.requests[0].headers["authorization"] == "Bearer sk-secret"


def test_revising_asks_the_reviser(server):
    server.script(RIGHT)
    (first,), _ = ask(server.url)
    server.script(completion("Answer: 8", model="small-reviser"))
    (second,), _ = ask(
        server.url,
        requests=asking(action=ActionKind.REVISE, parent=first),
        reviser="small-reviser",
    )
    assert (second.answer, second.parent_id) == ("8", first.attempt_id)
    body = server.requests[0].body
    assert body["model"] == "small-reviser"
    assert [m["role"] for m in body["messages"]] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("said", "told", "score"),
    [
        ("Yes.", {"Yes": 0.6, " yes": 0.1, "No": 0.2, "Well": 0.1}, 0.7 / 0.9),
        ("No", {"No": 0.8}, 0.0),
        ("**No**", None, 0.0),
        ("Yes", None, 1.0),
        ("Let me see.", None, 0.5),
    ],
)
def test_a_judgement_is_read_from_its_first_token_or_else_its_text(server, said, told, score):
    server.script(RIGHT)
    (attempt,), _ = ask(server.url)
    top = [{"token": token, "logprob": math.log(p)} for token, p in (told or {}).items()]
    answer = completion(said)
    answer["choices"][0]["logprobs"] = told and {"content": [{**top[0], "top_logprobs": top}] * 2}
    server.script(answer)

    async def verify(backend):
        assert backend.can_verify(attempt)
        return await backend.verify([(QUESTION, attempt)] * 2)

    server.script(answer, answer)
    verdict, _ = ask(
        server.url, verifies=True, asks_n=True, body={"temperature": 0.7}, after=verify
    )
    assert verdict.scores == pytest.approx((score, score))
    assert verdict.usage.verifier_tokens == 2 * (10 + max(1, len(said) // 2))
    sent = server.requests[-1].body
    assert (sent["temperature"], sent["top_logprobs"], "n" in sent) == (0, 20, False)
    assert "> Answer: 7" in sent["messages"][0]["content"]


def test_a_judge_that_fails_is_told_of(server):
    server.script(RIGHT)
    (attempt,), _ = ask(server.url)
    server.script(RIGHT, 500, 500)

    async def verify(backend):
        return await backend.verify([(QUESTION, attempt)])

    verdict, _ = ask(server.url, verifies=True, max_retries=0, after=verify)
    assert (verdict.scores, verdict.failed) == ((None,), True)


def test_a_judgement_is_paid_where_the_deadline_cuts_it_and_its_cached_tokens_are_told(server):
    server.script(RIGHT)
    (attempt,), _ = ask(server.url)

    async def verify(backend):
        deadline = asyncio.get_running_loop().time() + 0.2
        return await backend.verify([(QUESTION, attempt)] * 2, deadline)

    usage = {**usage_of(10, 1), "prompt_tokens_details": {"cached_tokens": 7}}
    server.script(RIGHT, saying("Yes", usage=usage), hang)
    settings = {"verifies": True, "attempt_deadline_s": 5, "prompt_length": (20.0, 0.25)}
    verdict, _ = ask(server.url, after=verify, **settings)
    assert sorted(verdict.scores, key=str) == [1.0, None]
    assert (verdict.usage.verifier_tokens, verdict.usage.cached_tokens) == (3 + 1 + 21 + 2, 7)


def test_streams_add_up(server):
    server.script(streamed)
    (attempt,), _ = ask(server.url, streams=True)
    assert (attempt.answer, attempt.prompt_tokens, attempt.completion_tokens) == ("7", 10, 3)
    assert attempt.usage.cancelled_tokens == 0


@pytest.mark.parametrize("streams", [False, True])
def test_an_attempt_that_was_cut_while_thinking_is_paid_and_has_no_answer(server, streams):
    async def thinking(exchange):
        await exchange.begin_stream()
        await exchange.delta(reasoning_content="Answer: 8")
        await exchange.event(finish="length", usage=usage_of(10, 50))

    thought = {"reasoning_content": "Answer: 8"}
    whole = saying(None, "length", message=thought, usage=usage_of(10, 50))
    server.script(thinking if streams else whole)
    (attempt,), backend = ask(server.url, streams=streams)
    assert (attempt.answer, attempt.error, attempt.text, attempt.cut) == (None, None, "", True)
    assert (attempt.usage.decoded_tokens, attempt.usage.reasoning_tokens) == (50, 50)
    assert (server.calls, backend.breaker.allows) == (1, True)


@pytest.mark.parametrize("streams", [False, True])
def test_tokens_that_were_thinking_are_told_apart(server, streams):
    """By the server's count, or else by how long the thoughts are."""
    told = {**usage_of(10, 40), "completion_tokens_details": {"reasoning_tokens": 30}}
    for usage, expected in ((told, 30), (usage_of(10, 40), 20)):

        async def thinking(exchange, usage=usage):
            await exchange.begin_stream()
            await exchange.delta(reasoning_content="It is 7. ")
            await exchange.delta(content="Answer: 7")
            await exchange.event(finish="stop", usage=usage)

        message = {"content": "Answer: 7", "reasoning_content": "It is 7. "}
        server.script(thinking if streams else saying(None, message=message, usage=usage))
        (attempt,), _ = ask(server.url, streams=streams)
        assert (attempt.answer, attempt.usage.reasoning_tokens) == ("7", expected)


OFF = [
    {"reasoning_effort": "none"},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"reasoning": {"enabled": False}},
]


@pytest.mark.parametrize("body", [*OFF, {}, {"reasoning_effort": "low"}, {"reasoning": None}])
def test_a_server_that_thinks_although_it_is_not_to_is_named_once(server, body):
    message = {"content": "Answer: 7", "reasoning_content": "It is 7. "}
    server.script(*[saying(None, message=message) for _ in range(2)])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        ask(server.url, 2, body=body)
    said = [str(w.message) for w in warned if "thinking" in str(w.message)]
    assert len(said) == (body in OFF)
    assert all("expected no thinking" in text and "50%" in text for text in said)


def test_reasons_to_end_are_kept(server):
    for reason in ("stop", "length", "banana"):
        server.script(saying("Answer: 7", reason))
        (attempt,), _ = ask(server.url)
        assert (attempt.finish_reason, attempt.cut) == (reason, reason == "length")


@pytest.mark.parametrize(
    "told",
    [
        {"usage": {**usage_of(10, 5), "prompt_tokens_details": {"cached_tokens": 9}}},
        {"usage": usage_of(10, 5), "timings": {"cache_n": 9, "prompt_n": 1}},
    ],
)
def test_cached_tokens_are_not_prefilled_again(server, told):
    server.script(completion(**told))
    (attempt,), _ = ask(server.url)
    assert (attempt.usage.cached_tokens, attempt.usage.prefill_tokens) == (9, 1)


def test_each_choice_has_its_own_tokens(server):
    """vLLM counts all choices together, llama.cpp the first alone; without log-probabilities."""
    texts = ("Answer: 7", "Let me see. Answer: 7")
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for i, text in enumerate(texts)
    ]
    for told in (
        {"usage": usage_of(10, 30)},
        {"usage": usage_of(10, 9), "timings": {"cache_n": 0}},
    ):
        server.script(completion(choices=choices, **told))
        made, _ = ask(server.url, n=2, asks_n=True)
        assert [a.completion_tokens for a in made] == [9, 21]


def test_a_failed_request_for_several_choices_is_not_asked_again_one_by_one(server):
    server.script(hang, RIGHT)
    made, _ = ask(server.url, n=3, asks_n=True, attempt_deadline_s=0.3)
    assert ([a.error for a in made], server.calls) == (["attempt_deadline"] * 3, 1)
    server.script(status(400), RIGHT)
    made, _ = ask(server.url, n=3, asks_n=True)
    assert ([a.answer for a in made], server.calls) == (["7"] * 3, 4)


def test_prompts_are_put_around_the_question(server):
    chat = (
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Q: {question}"},
    )
    server.script(RIGHT)
    ((first,), backend) = ask(server.url, prompt=chat)
    assert server.requests[0].body["messages"] == [chat[0], {"role": "user", "content": "Q: 2+5="}]
    assert backend.models[0].prompt == chat
    ask(server.url, prompt=chat, requests=asking(action=ActionKind.REVISE, parent=first))
    assert [m["role"] for m in server.requests[1].body["messages"]] == [
        *("system", "user", "assistant", "user")
    ]


def state(url, after=(), **settings):
    """What is known of the question's prompt before an attempt."""
    backend = OpenAIBackend(endpoint(url, **settings), seed=0)

    async def run():
        try:
            for _ in after:
                await backend.attempts(asking())
            return (await backend.prompt_states([QUESTION]))[0]
        finally:
            await backend.close()

    return asyncio.run(run())


def test_prompts_are_counted_by_servers_that_can(server):
    llama = {"/apply-template": {"prompt": "<user>2+5="}, "/tokenize": {"tokens": [1] * 37}}
    for paths, tokens in ((llama, 37), ({"/tokenize": {"count": 41}}, 41)):
        server.script(RIGHT)
        server.paths = paths
        found = state(server.url)
        assert (found.prompt_tokens, found.counted) == ((tokens,), True)
    server.paths = {}


def test_what_nobody_counts_is_estimated_as_in_training_or_a_guess(server):
    server.script(RIGHT)
    known = state(server.url, prompt_length=(30.0, 0.5))
    assert (known.prompt_tokens, known.counted) == ((32,), True)
    assert not state(server.url).counted
    assert state(server.url, tokenize=lambda chat: 12).prompt_tokens == (12,)


def test_a_server_that_counts_otherwise_than_it_bills_is_not_believed(server):
    server.script(completion(usage=usage_of(80, 5)))
    server.paths = {"/tokenize": {"count": 41}}
    backend = OpenAIBackend(endpoint(server.url))

    async def run():
        for _ in range(3):
            await backend.prompt_states([QUESTION])
            await backend.attempts(asking())
        (found,) = await backend.prompt_states([QUESTION])
        await backend.close()
        return found

    assert not asyncio.run(run()).counted
    server.paths = {}


def test_a_start_tells_what_differs_from_training(server):
    def warnings(**settings):
        backend = OpenAIBackend(endpoint(server.url, **settings))

        async def run():
            try:
                return " ".join(await backend.prepare()), backend
            finally:
                await backend.close()

        return asyncio.run(run())

    server.script(completion(usage=usage_of(50, 1), logprob=None))
    said, _ = warnings(prompt_length=(10.0, 0.25), trained_for=ModelSpec(name="qwen", rung=0))
    assert "small: the controller was trained for qwen; if this is that model" in said
    assert "qwen=URL#small" in said
    assert "no log-probabilities" in said
    assert "+36 tokens" in said
    assert warnings(wants_logprobs=False, prompt_length=(46.0, 0.25))[0] == ""
    server.script(completion(usage=usage_of(34, 1)), completion(usage=usage_of(194, 1)))
    said, backend = warnings()
    assert said == ""
    assert server.requests[0].body["max_tokens"] == 1
    assert not backend.lengths.fit.known, "until attempts bear it out"
    assert backend.lengths.fit.estimate(340) == pytest.approx(115, abs=2)


PATIENT = {"streams": True, "attempt_deadline_s": 20, "silence_s": 0.3, "idle_timeout_s": 0.3}


async def slow_answer(exchange):
    await exchange.begin_stream()
    for piece in (*"slowly so ", "Answer: 7"):
        await exchange.event(piece)
        await asyncio.sleep(0.1)
    await exchange.event(finish="stop")


def test_who_writes_is_waited_for_and_who_is_silent_is_not(server):
    server.script(slow_answer)
    (attempt,), _ = ask(server.url, **PATIENT)
    assert (attempt.answer, attempt.error) == ("7", None)
    server.script(hang)
    started = time.monotonic()
    (attempt,), backend = ask(server.url, breaker=CircuitBreaker(failures=1), **PATIENT)
    assert time.monotonic() - started < 1
    assert (attempt.error, server.calls, attempt.usage.cancelled_tokens) == ("silent", 1, 0)
    assert attempt.usage.prefill_tokens > 0
    assert not backend.breaker.allows


def test_who_waits_while_others_are_written_to_is_in_a_queue(server):
    slot = asyncio.Lock()

    async def one_at_a_time(exchange):
        async with slot:
            await slow_answer(exchange)

    server.script(one_at_a_time)
    made, _ = ask(server.url, n=2, **PATIENT)
    assert [a.answer for a in made] == ["7", "7"]


def test_of_a_server_that_never_streams_no_silence_is_told(server):
    async def slow(exchange):
        await asyncio.sleep(0.5)
        await exchange.reply(RIGHT)

    async def again(backend):
        server.script(slow)
        return await backend.attempts(asking())

    server.script(RIGHT)
    (attempt,), _ = ask(server.url, after=again, **PATIENT)
    assert attempt.answer == "7"
    assert "stream" not in server.requests[0].body


async def several(exchange, last=2):
    """Three choices, turn by turn; as many as told have ends."""

    def choice(index, finish=None, **delta):
        return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}

    await exchange.begin_stream()
    for piece in ("Answer", ": "):
        for index in range(3):
            await exchange.delta(more=choice(index, content=piece))
    for index in range(last + 1):
        await exchange.delta(more=choice(index, content=str(index)))
        await exchange.delta(more=choice(index, "stop"))
    if last == 2:
        await exchange.delta(more={"choices": [], "usage": usage_of(10, 9)})
        await exchange.send(b"data: [DONE]\n\n")


def test_several_choices_in_one_stream(server):
    said = {i: [] for i in range(3)}
    server.script(several)
    requests = [replace(r, on_text=said[r.index].append) for r in asking(3)]
    made, _ = ask(server.url, requests=requests, asks_n=True, **PATIENT)
    assert (server.calls, server.requests[0].body["n"]) == (1, 3)
    assert [(a.answer, a.completion_tokens) for a in made] == [("0", 3), ("1", 3), ("2", 3)]
    assert [a.usage.prefill_tokens for a in made] == [10, 0, 0]
    assert ["".join(pieces) for pieces in said.values()] == [f"Answer: {i}" for i in range(3)]


def test_choices_that_a_stream_lost_are_asked_for_and_what_was_written_is_paid(server):
    server.script(partial(several, last=1), streamed)
    made, _ = ask(server.url, n=3, asks_n=True, **PATIENT)
    assert [a.answer for a in made] == ["0", "1", "7"]
    assert ([a.usage.cancelled_tokens for a in made], server.calls) == ([2, 0, 0], 2)


@pytest.mark.parametrize(("count", "same"), [(494e6, True), (1.5e9, False), (None, False)])
def test_a_model_of_the_size_of_training_may_have_another_name(server, count, same):
    server.models = [{"id": "small", "meta": {"n_params": 494_032_768}}]
    server.script(RIGHT)
    trained = ModelSpec(name="qwen", rung=0, parameters=count)
    found, _ = ask(server.url, after=lambda b: b.prepare(), trained_for=trained)
    server.models = []
    assert (found == ()) is same


def test_tokens_of_failed_tries_are_not_forgotten(server):
    server.script(cut_stream)
    (attempt,), _ = ask(server.url, streams=True)
    assert attempt.usage.cancelled_tokens == 1
    server.script(slow_stream)
    (attempt,), _ = ask(server.url, streams=True, deadline_s=0.2)
    assert attempt.error == "deadline"
    assert attempt.usage.cancelled_tokens > 1
    empty = {**completion("Answer: 7"), "choices": []}
    server.script(empty)
    (attempt,), _ = ask(server.url)
    assert attempt.usage.prefill_tokens == 10
    assert attempt.usage.cancelled_tokens == empty["usage"]["completion_tokens"]


def test_cancelling_reaches_the_server(server):
    server.script(hang)
    backend = OpenAIBackend(endpoint(server.url))

    async def run():
        task = asyncio.create_task(backend.attempts(asking(3)))
        while server.open < 3:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(200):
            if server.abandoned == 3:
                break
            await asyncio.sleep(0.01)
        await backend.close()

    asyncio.run(run())
    assert (server.abandoned, server.open) == (3, 0)


def test_servers_elsewhere_are_asked_through_the_environments_proxy(server, monkeypatch):
    there = "http://models.invalid/v1"
    server.script(completion())
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/v1"))
    assert ask(there)[0][0].answer is not None
    assert server.requests[0].path == f"{there}/chat/completions"
    monkeypatch.setenv("NO_PROXY", "other,.invalid")
    assert ask(there)[0][0].error == "dns"
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(ConfigError, match="scheme 'socks5'"):
        proxy_for("https://models.example/v1")
    monkeypatch.setenv("https_proxy", "proxy:3128")
    assert proxy_for("https://models.example/v1") == "http://proxy:3128"


def test_redirects_are_not_followed_and_this_machine_needs_no_proxy(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server.script(status(307, location="http://127.0.0.1:9/v1/chat/completions"))
    (attempt,), backend = ask(server.url, breaker=CircuitBreaker(failures=1))
    assert (attempt.error, server.calls) == ("redirected", 1)
    assert not backend.breaker.allows
