"""The API as clients see it."""

import asyncio
import json
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import openai
import pytest

from controller.answers import KINDS
from controller.policy.pricing import PACE_QUESTIONS, Pricing
from controller.process.terms import Terms
from controller.server.config import Limits
from controller.server.keys import Keys, key_digest, new_key
from controller.server.ops import episode_fields
from tests.controller.server.conftest import ASK, ladder, variant
from tests.controller.server.upstream import CUT, REFUSAL, completion, replying, script

MIDDLE = 1e-4
SPELL = "Spell this word backward (example: sun -> nus): planet"
SUM = "State the final answer to the following arithmetic problem: 88 - 52 - 32 - 30 ="
"""Price at which the controller samples until it is settled."""


async def patient(exchange):
    await asyncio.sleep(0.4)
    await exchange.reply(completion("Answer: 7"))


def total(upstreams):
    """Tokens that the upstream servers say they processed."""
    served = [completion(model="any")["usage"] for upstream in upstreams for _ in upstream.requests]
    return sum(u["prompt_tokens"] for u in served), sum(u["completion_tokens"] for u in served)


def test_json(service, small, large):
    found = service.chat()
    assert found.choices[0].message.content == "Answer: 7"
    assert found.choices[0].finish_reason == "stop"
    allot = found.model_extra["allot"]
    assert allot["answer"] == "7"
    assert [d["action"] for d in allot["decisions"]][-1] == "STOP"
    assert sum(allot["decisions"][0]["probabilities"].values()) == pytest.approx(1)


def test_usage_is_the_sum_of_all_calls(service, small, large):
    small.script(*(completion(f"Answer: {n}", logprob=-2.0) for n in (1, 2, 3, 3, 4, 5)))
    found = service.ask(price=MIDDLE).json()
    assert small.calls + large.calls > 3
    prompt, written = total([small, large])
    assert found["usage"]["prompt_tokens"] == prompt
    assert found["usage"]["completion_tokens"] == written
    by_action = found["allot"]["usage"]["by_action"]
    assert sum(u["decoded_tokens"] for u in by_action.values()) == written
    assert sum(u["prefill_tokens"] for u in by_action.values()) == prompt
    attempts = [a for d in found["allot"]["decisions"] for a in d["attempts"]]
    assert len(attempts) == small.calls + large.calls


def test_a_stream_with_explanations_tells_what_attempts_write(serve, small, large):
    async def writes(exchange):
        await exchange.begin_stream()
        await exchange.event("Answer: ")
        await exchange.event("7", finish="stop")
        await exchange.send(b"data: [DONE]\n\n")

    script((small, large), writes)
    service = serve(small, large)
    chunks = list(service.chat(stream=True, extra_body={"allot": {"explain": True}}))
    told = [c.model_extra["allot"] for c in chunks if "allot" in (c.model_extra or {})]
    kinds = [event.get("event") for event in told]
    first = kinds.index("decision")
    assert kinds[0] == "choice"
    assert set(kinds[1:first]) == {"text"}
    (made,) = told[first]["attempts"]
    assert "".join(event["text"] for event in told[1:first]) == made["text"]
    assert {event["attempt"] for event in told[1:first]} == {0}


def test_stream(service):
    chunks = list(service.chat(stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    events = [c.model_extra["allot"]["event"] for c in chunks if "event" in (
        c.model_extra or {}).get("allot", {})]  # fmt: skip
    assert text == "Answer: 7"
    assert events[:2] == ["choice", "decision"]
    assert chunks[-1].usage.total_tokens > 0
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-2].model_extra["allot"]["answer"] == "7"


def test_decisions_are_streamed_when_they_happen(serve, small, large):
    """The first choice is there before the model has answered."""
    release = []

    async def wait(exchange):
        while not release:
            await asyncio.sleep(0.01)
        await exchange.reply(completion())

    small.script(wait)
    service = serve(small, large)
    body = {"model": "allot", "messages": ASK, "stream": True, "allot": {"price": 1e-3}}
    with service.http.stream("POST", "/v1/chat/completions", json=body) as reply:
        lines = reply.iter_lines()
        seen = [json.loads(line[6:]) for line in (next(lines) for _ in range(4)) if line]
        assert seen[-1]["allot"]["event"] == "choice"
        release.append(True)
        assert [line for line in lines if line][-1] == "data: [DONE]"


def test_text_completions(service):
    found = service.openai.completions.create(model="allot", prompt="2+5=")
    assert found.choices[0].text == "Answer: 7"
    parts = service.openai.completions.create(model="allot", prompt="2+5=", stream=True)
    assert "".join(p.choices[0].text for p in parts) == "Answer: 7"


def test_the_conversation_reaches_the_models(service, small):
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Hello"},
        *ASK,
    ]
    service.chat(turns, max_tokens=17)
    body = small.requests[0].body
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "user"]
    assert body["messages"][1]["content"] == "Hi"
    assert body["max_tokens"] == 17


def test_terms_by_field_and_by_header(service):
    by_field = service.ask(price=2e-4, round_price=0.01).json()["allot"]
    by_header = service.ask(
        headers={"x-allot-price": "2e-4", "x-allot-round-price": "0.01"}
    ).json()["allot"]
    assert (by_field["price"], by_field["round_price"]) == (2e-4, 0.01)
    assert (by_header["price"], by_header["round_price"]) == (2e-4, 0.01)
    both = service.ask(headers={"x-allot-accuracy": "0.4"}, price=3e-4).json()["allot"]
    assert both["price"] == 3e-4


def test_targets_become_prices(service, checkpoint):
    by_cost = service.ask(mean_cost=300).json()["allot"]["price"]
    assert by_cost == pytest.approx(Pricing(checkpoint).price_for(Terms(mean_cost=300)))
    by_accuracy = service.ask(accuracy=0.5).json()["allot"]["price"]
    assert by_accuracy == pytest.approx(Pricing(checkpoint).price_for(Terms(accuracy=0.5)))
    out_of_reach = service.ask(accuracy=0.999)
    assert out_of_reach.status_code == 400
    assert "cannot be relied on" in out_of_reach.json()["error"]["message"]
    assert service.ask(accuracy=0.5, price=1e-4).status_code == 400


def test_a_mean_cost_is_kept_over_the_questions_that_name_no_price(serve, small, large, checkpoint):
    service = serve(
        small, large, variant_settings={"pricing": Pricing(checkpoint, Terms(mean_cost=300))}
    )
    first = service.ask().json()["allot"]
    assert first["price"] == pytest.approx(Pricing(checkpoint).price_for(Terms(mean_cost=300)))
    service.ask(price=1e-5)
    owed = (300 - first["cost"]) / PACE_QUESTIONS
    assert owed != 0
    expected = Pricing(checkpoint).price_for(Terms(mean_cost=300 + owed))
    assert service.ask().json()["allot"]["price"] == pytest.approx(expected)


def test_a_budget_is_a_hard_cap(service, small):
    small.script(*(completion(f"Answer: {n}", logprob=-2.0) for n in range(30)))
    free = service.ask(price=MIDDLE).json()["allot"]["cost"]
    capped = service.ask(price=MIDDLE, budget=240).json()["allot"]["cost"]
    assert capped < 240
    assert capped < free


@pytest.mark.parametrize(
    "term",
    [
        {"price": 1e-60},
        {"price": 1e60},
        {"round_price": 1e-60},
        {"budget": 0},
        {"budget": 30},
        {"deadline_s": 601},
    ],
)
def test_terms_beyond_what_can_be_are_refused_by_name(service, small, term):
    found = service.ask(**term)
    assert (found.status_code, found.json()["error"]["param"]) == (400, next(iter(term)))
    assert small.calls == 0


@pytest.mark.parametrize("price", [1e-12, 1e-6, 1e3, 1e12])
def test_strange_prices_are_answered(service, price):
    assert service.ask(price=price).json()["allot"]["answer"] == "7"


def test_a_body_is_read_whose_sender_would_rather_speak_otherwise(service):
    upgrade = {
        "connection": "Upgrade, HTTP2-Settings",
        "upgrade": "h2c",
        "http2-settings": "AAMAAABkAARAAAAAAAIAAAAA",
    }
    assert service.ask(headers=upgrade).json()["allot"]["answer"] == "7"


def test_pages_of_others_are_turned_away_where_no_key_is_needed(serve, small, large):
    service, key = serve(small, large), new_key()
    assert service.ask(headers={"origin": "https://evil.example"}).status_code == 403
    assert service.ask(headers={"origin": "null"}).status_code == 403
    assert service.ask(headers={"host": "evil.example:8080"}).status_code == 403
    assert service.http.get("/models", headers={"host": "evil.example"}).status_code == 403
    assert small.calls == 0
    assert service.ask(headers={"origin": "http://localhost:3000"}).status_code == 200
    guarded = serve(small, large, keys=Keys({"ann": key_digest(key)}))
    for name, value in (("authorization", f"Bearer {key}"), ("x-api-key", key), ("api-key", key)):
        assert guarded.ask(headers={"host": "allot.example", name: value}).status_code == 200
    refused = guarded.ask(headers={"x-api-key": "other"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("texts", [False, True])
def test_whole_texts_are_written_down_only_where_texts_are(serve, small, large, checkpoint, texts):
    secret = "My name is Ann and I live in Oslo."
    backend = ladder(small, large)
    whole = variant(replace(checkpoint, answers="whole"), backend)
    script((small, large), completion(secret))
    service = serve(small, large, variants=[whole], answers=KINDS["whole"])
    service.ask()
    logged = json.dumps(episode_fields(service.served[0], texts=texts))
    assert (secret in logged) is texts
    assert json.loads(logged)["answer"]


def test_giving_up_must_be_wished_for(service, small, large):
    """At an absurd price no attempt is worth it; by default there is one all the same."""
    assert service.ask(price=0.5).json()["allot"]["answer"] == "7"
    small.script(completion())
    found = service.ask(price=0.5, give_up=True).json()
    assert found["allot"]["gave_up"] is (small.calls == 0)


def test_no_readable_answer(service, small, large):
    """The largest model's text is returned where no answer can be read."""
    short, long = "Once upon a time. There was a queen.", "Long ago there lived a king. He was old."
    small.script(completion(short))
    large.script(completion(long, model="large"))
    found = service.ask("Tell me a story", price=MIDDLE).json()
    expected = long if large.calls else short
    assert found["choices"][0]["message"]["content"] == expected
    assert found["allot"]["answer"] is None


def test_decide(service, checkpoint):
    def decide(*answers, question=None, **allot):
        reply = service.http.post(
            "/v1/decide",
            json={
                "question": question,
                "prompt_tokens": [20],
                "attempts": [
                    {
                        "action": "sample",
                        "answer": a,
                        "prompt_tokens": 20,
                        "completion_tokens": 40,
                        "mean_logprob": -0.3,
                        "round": 1,
                    }
                    for a in answers
                ],
                "allot": {"price": 1e-3, **allot},
            },
        )
        assert reply.status_code == 200, reply.text
        return reply.json()

    fresh = decide(give_up=True)
    assert fresh["leader"] is None
    assert "REVISE" not in fresh["allowed"]
    settled, split = decide("7", "7", "7.0", "7"), decide("1", "2", "3", "4")
    assert settled["leader"] == "7"
    assert settled["action"] == "STOP"
    assert settled["value"] > split["value"]
    assert sum(split["probabilities"].values()) == pytest.approx(1)
    assert "observation" in decide("7", explain=True)
    easy, hard = (decide(question=q)["value"] for q in (SPELL, SUM))
    assert easy > hard
    scored = service.http.post(
        "/v1/decide",
        json={
            "prompt_tokens": [20, 25],
            "attempts": [
                {
                    "action": "escalate",
                    "text": "Answer: 3",
                    "prompt_tokens": 25,
                    "completion_tokens": 9,
                    "verifier_score": 0.9,
                }
            ],
        },
    ).json()
    assert scored["leader"] == "3"


def test_models_health_and_readiness(service, large):
    assert [m.id for m in service.openai.models.list()] == ["allot"]
    assert service.openai.models.retrieve("allot").id == "allot"
    assert service.http.get("/health").json() == {"status": "ok"}
    assert service.ready().json()["available"] == ["small", "large"]
    service.service.draining = True
    assert service.http.get("/ready").status_code == 503


def test_ready_with_one_model_down(serve, large):
    service = serve("http://127.0.0.1:9/v1", large)
    found = service.ready()
    assert (found.status_code, found.json()["available"]) == (200, ["large"])
    assert found.json()["wrong"] == {"small": "refused"}


def test_ready_does_not_wait_for_servers_that_hang(serve, large):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        service = serve(f"http://127.0.0.1:{silent.getsockname()[1]}/v1", large)
        started = time.monotonic()
        found = service.http.get("/ready")
        assert time.monotonic() - started < 1
    assert found.json()["wrong"]["small"] == "not checked yet"


def test_an_answer_that_was_cut_says_so(service, small, large):
    script((small, large), CUT)
    found = service.chat(max_tokens=4)
    assert found.choices[0].finish_reason == "length"


def test_streams_count_as_in_flight_from_the_start(serve, small, large):
    """All requests of a burst are counted before the first of them has its answer."""
    small.script(patient)
    service = serve(small, large, limits=Limits(max_in_flight=4))
    body = {"model": "allot", "messages": ASK, "stream": True}

    def status(_):
        with service.http.stream("POST", "/v1/chat/completions", json=body) as reply:
            reply.read()
            return reply.status_code

    with ThreadPoolExecutor(12) as pool:
        found = Counter(pool.map(status, range(12)))
    assert found == {200: 4, 429: 8}
    until = time.monotonic() + 5
    while service.service.room.taken and time.monotonic() < until:
        time.sleep(0.01)
    assert service.service.room.taken == 0


def test_metrics(service):
    service.ask()
    text = service.http.get("/metrics").text
    assert 'allot_upstream_tries_total{model="small",outcome="ok"}' in text
    assert 'allot_requests_total{path="/v1/chat/completions",status="200"} 1.0' in text
    assert "allot_decision_seconds_count 1.0" in text


def test_unknown_models_are_told(service):
    with pytest.raises(openai.NotFoundError):
        service.openai.chat.completions.create(model="gpt-9", messages=ASK)


def test_keys(serve, small, large):
    key = new_key()
    service = serve(small, large, keys=Keys({"ann": key_digest(key)}))
    assert service.ask().status_code == 401
    assert service.ask(headers={"authorization": f"Bearer {key}x"}).status_code == 401
    assert service.ask(headers={"authorization": f"Basic {key}"}).status_code == 401
    assert service.http.get("/metrics").status_code == 401
    assert service.http.get("/health").status_code == 200
    client = service.openai.with_options(api_key=key)
    assert client.chat.completions.create(model="allot", messages=ASK).choices
    assert small.requests[-1].headers["authorization"] == "Bearer upstream-secret"


def test_escalation_budgets_are_per_caller(serve, small, large):
    small.script(replying(500))
    keys = {name: new_key() for name in ("ann", "bob")}
    service = serve(
        small,
        large,
        max_retries=0,
        keys=Keys({name: key_digest(key) for name, key in keys.items()}),
        limits=Limits(caller_escalations_per_minute=1),
    )

    def ask(name):
        return service.ask(headers={"authorization": f"Bearer {keys[name]}"}).status_code

    assert [ask("ann"), ask("ann"), ask("bob")] == [200, 503, 200]


def test_headers_are_scrubbed(service, small):
    service.ask(headers={"x-allot-budget": "100000", "x-other": "kept"})
    forwarded = " ".join(small.requests[0].headers)
    assert "x-allot" not in forwarded
    assert "x-other" not in forwarded


def test_headers_that_mean_nothing_are_refused_by_name(service, small):
    for name in ("x-allot-arm", "x-allot-buget", "x-allot-explain"):
        refused = service.ask(headers={name: "1"})
        assert refused.status_code == 400
        assert name in refused.json()["error"]["message"]
    twice = service.ask(headers=[("x-allot-price", "1"), ("x-allot-price", "2")])
    assert (twice.status_code, twice.json()["error"]["param"]) == (400, "x-allot-price")
    assert not small.requests


def test_limits(serve, small, large):
    service = serve(small, large, limits=Limits(max_in_flight=1))
    service.service.room.enter()
    assert service.ask("x" * 2**20).status_code == 413
    assert service.ask(headers={"x-big": "y" * 40_000}).status_code in (400, 431)
    busy = service.ask()
    assert (busy.status_code, busy.headers["retry-after"]) == (429, "1")


def test_strange_questions_are_for_the_rule(serve, small, large):
    """A prompt far longer than any in training, counted as such."""
    service = serve(small, large, variant_settings={"fallback": "self-consistency-5"})
    found = service.ask("word " * 20_000).json()["allot"]
    assert {d["decided_by"] for d in found["decisions"]} == {"self-consistency-5"}
    assert small.calls == 5
    metrics = service.http.get("/metrics").text
    assert 'allot_strays_total{arm="main",feature="prompt_length"} 1.0' in metrics
    normal = service.ask(price=1e-3).json()["allot"]
    assert {d["decided_by"] for d in normal["decisions"]} == {"policy"}


def test_a_watched_policy_does_not_decide(serve, small, large):
    service = serve(small, large, variant_settings={"always": "always-large"})
    found = service.ask().json()["allot"]
    assert (found["model"], small.calls, large.calls) == ("large", 0, 1)
    assert found["decisions"][0]["decided_by"] == "always-large"
    assert len(found["decisions"][0]["probabilities"]) == 6


def test_a_split_is_by_hash_and_stays(serve, small, large, checkpoint):
    backend = ladder(small, large)
    variants = [
        variant(checkpoint, backend, "a", share=0.7),
        variant(checkpoint, backend, "b", share=0.3, always="always-large"),
    ]
    service = serve(small, large, variants=variants)
    assign = service.service.engine.variants.assign
    names = [assign(f"user {i}").name for i in range(4000)]
    assert names == [assign(f"user {i}").name for i in range(4000)]
    assert 0.27 < names.count("b") / len(names) < 0.33
    user = next(f"user {i}" for i, name in enumerate(names) if name == "b")
    found = service.chat(user=user)
    assert found.model_extra["allot"]["arm"] == "b"


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_text_is_streamed_as_it_is_written_where_it_is_returned_whatever_it_says(
    serve, small, large, api
):
    """A fixed rule's one attempt: its first words are there before its last."""
    release = []

    async def slowly(exchange):
        await exchange.begin_stream()
        await exchange.event("Answer: ")
        while not release:
            await asyncio.sleep(0.01)
        await exchange.event("7", finish="stop")
        await exchange.send(b"data: [DONE]\n\n")

    small.script(slowly)
    service = serve(
        small, large, variant_settings={"always": "always-small"}, attempt_deadline_s=20
    )
    pieces = []
    if api == "chat":
        stream = service.chat(stream=True)
        told = (c.choices[0].delta.content for c in stream)
    else:
        stream = service.openai.responses.create(model="allot", input="2+5=", stream=True)
        told = (e.delta for e in stream if e.type == "response.output_text.delta")
    for piece in filter(None, told):
        pieces.append(piece)
        release.append(True)
    assert pieces == ["Answer: ", "7"]
    assert small.calls == 1


THOUGHTS = {
    "a field": [{"reasoning": "Hm"}, {"reasoning": "."}, {"content": "Answer: 7"}],
    "tags": [{"content": c} for c in ("<th", "ink>Hm", ".</thi", "nk>\n\nAns", "wer: 7")],
}


@pytest.mark.parametrize("way", THOUGHTS)
@pytest.mark.parametrize("rule", ["always-small", None])
@pytest.mark.parametrize("stream", [False, True])
def test_thoughts_are_told_before_the_text_and_not_in_it(serve, small, large, way, rule, stream):
    async def thinks(exchange):
        await exchange.begin_stream()
        for delta in THOUGHTS[way]:
            await exchange.delta(**delta)
        await exchange.event(finish="stop")

    script((small, large), thinks)
    service = serve(small, large, streams=True, variant_settings={"always": rule})
    made = service.chat(stream=stream)
    parts = [c.choices[0].delta for c in made] if stream else [made.choices[0].message]
    told = [part.model_dump() for part in parts]
    assert "".join(part.get("reasoning_content") or "" for part in told) == "Hm."
    assert "".join(part["content"] or "" for part in told) == "Answer: 7"
    last = max(i for i, part in enumerate(told) if part.get("reasoning_content"))
    assert not any(part["content"] for part in told[:last])


@pytest.mark.parametrize("stream", [False, True])
def test_a_models_refusal_is_told_as_one(service, small, large, stream):
    script((small, large), REFUSAL)
    made = service.chat(stream=stream)
    parts = [c.choices[0].delta for c in made] if stream else [made.choices[0].message]
    assert "".join(part.refusal or "" for part in parts) == "No."
    assert not any(part.content for part in parts)


def test_pages_that_are_let_in_may_read_what_they_get(serve, small, large):
    key = new_key()
    here, elsewhere = "http://localhost:3000", "https://chat.example"
    wanted = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,x-stainless-os",
    }
    for keys, origin, status in (
        (None, here, 200),
        (None, elsewhere, 403),
        (Keys({"ann": key_digest(key)}), elsewhere, 200),
    ):
        service = serve(small, large, keys=keys)
        asked = {"origin": origin, **wanted}
        preflight = service.http.options("/v1/chat/completions", headers=asked)
        found = service.ask(headers={"origin": origin, "authorization": f"Bearer {key}"})
        assert (preflight.status_code, found.status_code) == (status, status)
        for reply in (preflight, found):
            assert ("access-control-allow-origin" in reply.headers) is (status == 200)
        shown = found.headers.get("access-control-expose-headers", "")
        assert ("retry-after" in shown) is (status == 200)


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/embeddings", "/v1/responses/resp_1"])
def test_what_is_not_served_says_what_is(service, path):
    found = service.http.post(path, json={})
    told = found.json()["error"]["message"]
    assert (found.status_code, told.partition(": ")[0]) == (404, path)
    assert "/v1/chat/completions" in told


def test_another_method_or_model_is_refused_by_name(service):
    found = service.http.get("/v1/completions")
    told = "/v1/completions: expected POST, found GET"
    assert (found.status_code, found.json()["error"]["message"]) == (405, told)
    with pytest.raises(openai.NotFoundError) as refused:
        service.openai.chat.completions.create(model="gpt-4o", messages=ASK)
    assert (refused.value.param, refused.value.code) == ("model", "model_not_found")


def test_a_byte_order_mark_is_no_part_of_a_body(service):
    body = json.dumps({"model": "allot", "messages": ASK}).encode("utf-8-sig")
    assert service.http.post("/v1/chat/completions", content=body).status_code == 200


def test_a_packed_body_is_refused_by_name(service):
    found = service.ask(headers={"content-encoding": "gzip"})
    assert found.status_code == 415
    assert "content-encoding" in found.json()["error"]["message"]


def test_an_answer_and_a_failure_have_the_id_of_the_log(service, small, large):
    raw = service.openai.chat.completions.with_raw_response.create(model="allot", messages=ASK)
    assert raw.headers["x-request-id"] == raw.parse().id == service.served[-1].episode_id

    small.script(replying(429, headers={"retry-after": "60"}))
    large.script(replying(429, headers={"retry-after-ms": "89500"}))
    with pytest.raises(openai.RateLimitError) as busy:
        service.chat()
    assert busy.value.request_id == service.served[-1].episode_id
    assert busy.value.response.headers["retry-after"] == "60"

    script((small, large), replying(503, headers={"retry-after": "80.5"}))
    assert service.ask().headers["retry-after"] == "81"

    script((small, large), replying(401))
    asked = {"model": "allot", "messages": ASK, "stream": True}
    found = service.http.post("/v1/chat/completions", json=asked)
    assert "upstream_error" in found.text
    assert found.headers["x-request-id"] == service.served[-1].episode_id
    assert found.headers["x-accel-buffering"] == "no"


def test_a_text_that_breaks_off_is_not_followed_by_another(serve, small, large):
    async def broken(exchange):
        await exchange.begin_stream()
        await exchange.event("Answer: ")
        exchange.reset()

    small.script(broken)
    service = serve(small, large, variant_settings={"always": "always-small"})
    with pytest.raises(openai.APIError, match="no model answered"):
        list(service.chat(stream=True))
    assert (small.calls, large.calls) == (1, 0)
