"""What becomes of an answer when models fail: degraded, in time, never lost."""

import asyncio
import threading
import time
from contextlib import suppress

import httpx2
import pytest

from controller.backends.openai.resilience import CircuitBreaker
from controller.server.config import Limits
from tests.controller.server.upstream import completion, replying, script

DEAR, CHEAP = 2e-3, 1e-5
"""Prices at which the controller samples once and stops, and at which it then escalates."""

DOUBTFUL, STRANGE = (
    [completion(f"Answer: {answer}", logprob=logprob) for answer in (1, 2, 1, 3, 1, 4) * 4]
    for logprob in (-0.5, -2.0)
)
"""Attempts that agree too little to do without the large model; of the latter a rule decides."""


fail = replying(500, {"error": {"message": "internal sk-secret"}})


async def hang(exchange):
    await asyncio.sleep(30)


def eventually(holds, within_s=3.0):
    end = time.monotonic() + within_s
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


def test_small_down_the_large_one_answers(serve, small, large):
    small.script(fail)
    found = serve(small, large, max_retries=1).ask(price=CHEAP).json()
    assert found["allot"]["model"] == "large"
    assert found["allot"]["answer"] == "7"
    assert found["allot"]["degraded"] is True
    assert found["allot"]["unavailable"] == ["small"]
    assert small.calls >= 2
    assert large.calls >= 1


def test_small_down_and_no_budget_for_the_large_one(serve, small, large):
    small.script(fail)
    reply = serve(small, large, max_retries=0).ask(price=CHEAP, budget=400)
    assert (reply.status_code, large.calls) == (503, 0)
    assert reply.json()["error"]["code"] == "models_unavailable"
    assert "secret" not in reply.text


def test_large_down_the_best_small_answer_stands(serve, small, large):
    small.script(*DOUBTFUL)
    large.script(fail)
    found = serve(small, large, max_retries=0).ask(price=CHEAP).json()
    assert large.calls >= 1
    assert found["allot"]["degraded"] is True
    assert found["allot"]["unavailable"] == ["large"]
    assert found["allot"]["model"] == "small"
    assert found["choices"][0]["message"]["content"] == "Answer: 1"


def test_an_open_breaker_saves_the_wait(serve, small, large):
    small.script(fail)
    service = serve(
        small, large, max_retries=0, breaker=lambda: CircuitBreaker(failures=2, cooldown_s=60)
    )
    for _ in range(2):
        service.ask(price=CHEAP)
    calls = small.calls
    found = service.ask(price=CHEAP).json()
    assert small.calls == calls
    assert found["allot"]["unavailable"] == ["small"]
    assert 'allot_model_available{model="small"} 0.0' in service.http.get("/metrics").text


def test_all_down(serve, small, large):
    small.script(fail)
    large.script(fail)
    reply = serve(small, large, max_retries=0).ask(price=CHEAP)
    assert reply.status_code == 503
    assert reply.headers["retry-after"]
    assert small.calls
    assert large.calls


@pytest.mark.parametrize("made", [DOUBTFUL, STRANGE], ids=["policy", "rule"])
def test_the_deadline_is_kept_and_the_best_answer_too(serve, small, large, made):
    """The second model hangs for longer than there is time."""
    small.script(*made)
    large.script(hang)
    service = serve(small, large)
    started = time.monotonic()
    found = service.ask(price=CHEAP, deadline_s=3.0).json()
    assert time.monotonic() - started < 3.6
    assert large.calls
    assert found["allot"]["answer"] == "1"
    assert "deadline" in found["allot"]["limited"]
    assert eventually(lambda: large.abandoned == large.calls)


def test_no_answer_by_the_deadline(serve, small, large):
    small.script(hang)
    large.script(hang)
    service = serve(small, large)
    started = time.monotonic()
    reply = service.ask(price=DEAR, deadline_s=0.5)
    assert time.monotonic() - started < 1.1
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline")


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
def test_a_client_that_leaves_takes_its_requests_with_it(serve, small, large, stream):
    small.script(hang)
    service = serve(small, large)
    body = {
        "model": "allot",
        "messages": [{"role": "user", "content": "?"}],
        "stream": stream,
        "allot": {"price": DEAR},
    }

    def leave():
        url = "/v1/chat/completions"
        with (
            suppress(httpx2.TimeoutException),
            service.http.stream("POST", url, json=body, timeout=0.5) as reply,
        ):
            list(reply.iter_bytes())

    thread = threading.Thread(target=leave)
    thread.start()
    assert eventually(lambda: small.open >= 1)
    thread.join()
    assert eventually(lambda: small.open == 0)
    assert small.abandoned == small.calls
    assert eventually(lambda: service.service.room.taken == 0)


def test_others_are_answered_meanwhile(serve, small, large):
    """One upstream that hangs does not hold up the event loop."""

    async def choosy(exchange):
        slow = "slow" in exchange.body["messages"][0]["content"]
        await (hang(exchange) if slow else exchange.reply(completion()))

    small.script(choosy)
    large.script(completion(model="large"))
    service = serve(small, large)
    slow = threading.Thread(target=lambda: service.ask("slow", price=DEAR, deadline_s=2))
    slow.start()
    assert eventually(lambda: small.open == 1)
    assert service.ask("quick", price=DEAR).json()["allot"]["answer"] == "7"
    slow.join()


def test_escalations_are_budgeted_outside_the_policy(serve, small, large):
    """However much a question looks like it, nobody spends more than allowed."""
    small.script(fail)  # all that is left is to escalate
    limits = Limits(escalations_per_minute=3)
    service = serve(small, large, limits=limits, max_retries=0)
    codes = [service.ask(price=CHEAP).status_code for _ in range(5)]
    assert large.calls == 3
    assert codes[3:] == [503, 503]


def test_escalations_of_a_request(serve, small, large):
    small.script(*DOUBTFUL)
    service = serve(small, large)
    found = service.ask(price=CHEAP, max_escalations=0).json()
    assert large.calls == 0
    assert "request_budget" in found["allot"]["limited"]
    assert found["allot"]["degraded"] is False


def test_a_question_whose_client_left_is_on_the_bill(serve, small, large):
    """It is logged, counted and charged for the prompt that was being read."""
    small.script(hang)
    service = serve(small, large)
    with suppress(httpx2.TimeoutException):
        service.http.post(
            "/v1/chat/completions",
            json={"model": "allot", "messages": [{"role": "user", "content": "2+5="}]},
            timeout=0.5,
        )
    assert eventually(lambda: service.served)
    (served,) = service.served
    assert served.limited == ("cancelled",)
    assert [attempt.error for attempt in served.attempts] == ["cancelled"]
    assert served.cost == served.usage["small"].prefill_tokens > 0


def test_what_was_written_when_a_client_left_is_on_the_bill(serve, small, large):
    async def write(exchange):
        await exchange.begin_stream()
        for _ in range(5):
            await exchange.event("word ")
        await asyncio.sleep(20)

    small.script(write)
    service = serve(small, large, streams=True)
    with suppress(httpx2.TimeoutException):
        body = {"model": "allot", "messages": [{"role": "user", "content": "2+5="}]}
        service.http.post("/v1/chat/completions", json=body, timeout=0.5)
    assert eventually(lambda: service.served)
    (served,) = service.served
    assert served.usage["small"].cancelled_tokens == 5
    assert served.cost == served.usage["small"].prefill_tokens + 5


def test_what_was_written_by_the_deadline_is_on_the_bill_and_told(serve, small, large):
    """A model that writes slowly is not given up on before."""

    async def write(exchange):
        await exchange.begin_stream()
        for _ in range(100):
            await exchange.event("word ")
            await asyncio.sleep(0.1)

    script((small, large), write)
    service = serve(small, large, streams=True, silence_s=0.3, idle_timeout_s=0.3)
    reply = service.ask(price=DEAR, deadline_s=1.0)
    (served,) = service.served
    written = served.usage["small"].cancelled_tokens
    assert written >= 5
    assert served.cost == served.usage["small"].prefill_tokens + written
    assert reply.status_code == 504
    assert f"within 1 s {written} tokens were written" in reply.json()["error"]["message"]
    assert "--deadline-s" in reply.json()["error"]["message"]


def test_a_model_that_is_silent_leaves_time_for_another(serve, small, large):
    small.script(hang)
    service = serve(small, large, streams=True, silence_s=0.3)
    found = service.ask(price=CHEAP, deadline_s=5).json()["allot"]
    assert (found["model"], found["unavailable"]) == ("large", ["small"])


def test_a_question_that_came_to_its_deadline_is_on_the_bill(serve, small, large):
    small.script(hang)
    service = serve(small, large)
    assert service.ask(price=DEAR, deadline_s=0.3).status_code == 504
    (served,) = service.served
    assert served.cost == served.usage["small"].prefill_tokens > 0


def test_a_budget_holds_where_answers_are_empty(serve, small, large):
    """Tokens that a server bills are paid for, whatever it wrote."""
    empty = completion()
    empty["choices"] = []
    empty["usage"] |= {"prompt_tokens": 40, "completion_tokens": 60}
    script((small, large), empty)
    service = serve(small, large)
    budget = 400
    service.ask(price=CHEAP, budget=budget)
    (served,) = service.served
    processed = sum(usage.processed_tokens for usage in served.usage.values())
    assert 0 < processed <= served.cost <= budget


def test_what_a_providers_filter_keeps_out_is_the_askers_matter(serve, small, large):
    """Told as OpenAI tells it, after one call per model, and not held against the servers."""

    told = {"message": "The prompt of sk-secret was filtered.", "code": "content_filter"}
    filtered = replying(400, {"error": told})
    small.script(filtered)
    large.script(filtered)
    service = serve(small, large, breaker=lambda: CircuitBreaker(failures=1))
    reply = service.ask(price=CHEAP)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "content_filter")
    assert "secret" not in reply.text
    assert (small.calls, large.calls) == (1, 1)
    small.script(completion())
    assert service.ask(price=DEAR).json()["allot"]["answer"] == "7"


def test_a_bug_is_told_to_whoever_waits_and_counted_as_one(service, monkeypatch):
    """In a stream as well: an event says that there is no answer."""

    async def broken(*args, **kwargs):
        raise IndexError

    monkeypatch.setattr(service.service.engine, "answer", broken)
    body = {"model": "allot", "messages": [{"role": "user", "content": "2+5="}]}
    streamed = service.http.post("/v1/chat/completions", json={**body, "stream": True}).text
    assert '"internal error"' in streamed
    assert service.http.post("/v1/chat/completions", json=body).status_code == 500
    counted = httpx2.get(f"{service.http.base_url}/metrics").text  # That one has been closed.
    assert 'allot_requests_total{path="/v1/chat/completions",status="500"} 1.0' in counted
    assert 'status="gone"' not in counted
