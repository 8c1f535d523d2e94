"""Contexts that are read while nobody waits: on sockets, by the bundled models and by servers."""

import re

import pytest

from controller.backends.base import run_now
from controller.backends.ladder import ThreadedBackend
from controller.backends.local.backend import TransformersBackend
from controller.backends.local.model import load_model
from controller.checkpoint import load_checkpoint
from controller.errors import BackendError
from controller.server.app import Service
from controller.server.config import Limits
from controller.server.engine import Engine
from controller.server.ops import Metrics
from controller.server.routes import context_id
from controller.server.variants import Variants
from tests.conftest import CHECKPOINTS
from tests.controller.server.conftest import CONTROLLER, QUESTION, listening, variant

CONTEXT = "A shop sells apples, bread and cheese.\n" * 8
MODELS = [load_model(CHECKPOINTS / name, rung) for rung, name in enumerate(("small", "large"))]


def ask(running, context=CONTEXT, prepared=None, **allot):
    told = {} if prepared is None else {"prepared": prepared}
    turns = [{"role": "system", "content": context}] if context else []
    return running.http.post(
        "/v1/chat/completions",
        json={
            "model": "allot",
            "messages": [*turns, {"role": "user", "content": QUESTION}],
            "allot": {"rule": "always-small", "explain": True, "seed": 1, **told, **allot},
        },
    )


def prepare(running, **asked):
    return running.http.post("/v1/prepare", json={"context": CONTEXT, **asked})


def local(limits=None):
    backend = ThreadedBackend(TransformersBackend(MODELS))
    checkpoint = load_checkpoint(CONTROLLER)
    metrics = Metrics()
    engine = Engine(
        Variants([variant(checkpoint, backend)]),
        backend,
        limits=limits,
        on_served=metrics.served,
    )
    return listening(Service(engine, metrics=metrics))


def usage(reply):
    return reply.json()["usage"]


def test_a_context_that_was_prepared_is_not_read_again():
    with local() as running:
        cold = ask(running)
        assert cold.status_code == 200, cold.text
        assert usage(cold)["prompt_tokens_details"]["cached_tokens"] == 0
    with local() as running:
        made = prepare(running)
        assert made.status_code == 200, made.text
        (by_small,) = made.json()["usage"]
        warm = ask(running, prepared=made.json()["id"])
        assert warm.status_code == 200, warm.text
        told = usage(warm)
        assert told["prompt_tokens_details"]["cached_tokens"] == by_small["idle_tokens"] > 100
        assert told["prompt_tokens"] == usage(cold)["prompt_tokens"]
        same = [reply.json()["choices"][0]["message"]["content"] for reply in (cold, warm)]
        assert same[0] == same[1]


def test_idle_tokens_are_charged_apart_and_once():
    with local() as running:
        first = prepare(running, level=2).json()
        assert [one["model"] for one in first["usage"]] == ["small", "large"]
        again = prepare(running, level=2).json()
        assert first["id"] == again["id"] == context_id(CONTEXT)
        assert [one["idle_tokens"] for one in again["usage"]] == [0, 0]
        text = running.http.get("/metrics").text
        for one in first["usage"]:
            found = re.search(rf'allot_idle_tokens_total{{model="{one["model"]}"}} (\S+)', text)
            assert float(found[1]) == one["idle_tokens"]
        assert "allot_tokens_total{" not in text


def test_what_is_too_long_for_every_local_model_is_the_clients_and_costs_nothing():
    with local() as running:
        refused = ask(running, CONTEXT * 50, rule="adaptive-cascade")
        assert refused.status_code == 400, refused.text
        assert refused.json()["error"]["code"] == "context_length_exceeded"
        assert "allot_tokens_total{" not in running.http.get("/metrics").text


@pytest.mark.parametrize("context", [CONTEXT + "Pears, too.", None])
def test_a_changed_context_is_refused(context):
    with local() as running:
        made = prepare(running).json()
        refused = ask(running, context, prepared=made["id"])
        assert refused.status_code == 400
        assert refused.json()["error"]["message"].startswith("prepared: expected the context")


@pytest.mark.parametrize("name", ["idle_tokens_per_minute", "caller_idle_tokens_per_minute"])
def test_idle_work_has_a_cap(name):
    with local(Limits(**{name: 10})) as running:
        assert prepare(running).status_code == 200
        refused = prepare(running, context="Another one.")
        assert refused.status_code == 429
        assert "idle_tokens" in refused.json()["error"]["message"]
        assert ask(running).status_code == 200


@pytest.mark.parametrize("asked", [{"context": ""}, {"level": 0}, {"contexts": "x"}])
def test_what_cannot_be_prepared_is_refused(asked):
    with local() as running:
        assert prepare(running, **asked).status_code == 400


def test_a_context_without_room_for_a_question_is_refused():
    with local() as running:
        refused = prepare(running, context="word " * 3000)
        assert refused.status_code == 400
        assert "expected fewer than small's" in refused.json()["error"]["message"]


def test_a_server_is_asked_for_one_token_after_the_context(serve, small, large):
    running = serve(small, large)
    made = prepare(running, level=2)
    assert made.status_code == 200, made.text
    for upstream in (small, large):
        (body,) = [request.body for request in upstream.requests if "messages" in request.body]
        assert body["messages"][0] == {"role": "system", "content": CONTEXT}
        assert body["max_tokens"] == 1
    assert all(one["idle_tokens"] > 0 for one in made.json()["usage"])


def test_few_contexts_are_kept_the_last_ones():
    backend = TransformersBackend(MODELS[:1], max_cached_prompts=2)

    def read(text):
        (used,) = run_now(backend.warm([{"role": "system", "content": text}], 1)).values()
        return used.prefill_tokens

    found = [read(text) > 0 for text in ("one", "two", "one", "three", "one", "two")]
    assert found == [True, True, False, True, False, True]
    with pytest.raises(BackendError, match="expected fewer"):
        read("word " * 3000)
