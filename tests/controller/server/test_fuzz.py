"""Whatever comes in, nothing but our own fault would be a 5xx, and there is none."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from controller.server.app import Service
from controller.server.config import Limits
from controller.server.engine import Engine
from controller.server.variants import Variants
from tests.controller.server.conftest import ladder, listening, variant
from tests.controller.server.upstream import Upstream, completion

QUICK = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
}


@pytest.fixture(scope="module")
def service(checkpoint):
    with (
        Upstream(completion(model="small")).running() as small,
        Upstream(completion(model="large")).running() as large,
    ):
        backend = ladder(small, large)
        engine = Engine(Variants([variant(checkpoint, backend)]), backend, limits=Limits())
        with listening(Service(engine)) as running:
            yield running


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_the_document_tells_the_truth(service, mode):
    """schemathesis: documented statuses, content types and forms, and no server errors."""
    api = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) >= 7
    for operation in operations:
        if operation.method != "post" and mode is GenerationMode.NEGATIVE:
            continue  # nothing can be wrong where nothing is asked

        @settings(max_examples=40, **QUICK)
        @given(operation.as_strategy(generation_mode=mode))
        def probe(case):
            case.call_and_validate(
                checks=[
                    not_a_server_error,
                    status_code_conformance,
                    content_type_conformance,
                    response_schema_conformance,
                ]
            )

        probe()


numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 1, 1e308, -0.0, 2**63, 2**200, float("nan"), float("inf")]),
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
terms = st.dictionaries(
    st.sampled_from(
        ["price", "budget", "round_price", "accuracy", "mean_cost", "deadline_s", "give_up",
         "max_escalations", "seed", "question_id", "explain", "rule", "without", "x"]
    ),
    st.one_of(numbers, anything),
    max_size=4,
)  # fmt: skip
messages = st.one_of(
    anything,
    st.lists(
        st.fixed_dictionaries(
            {
                "role": st.sampled_from(["user", "system", "assistant", "tool", ""]),
                "content": st.one_of(st.text(max_size=50), anything),
            }
        ),
        max_size=4,
    ),
)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
schemas = st.fixed_dictionaries(
    {
        "type": st.just("json_schema"),
        "json_schema": st.fixed_dictionaries({"name": st.just("x"), "schema": anything}),
    }
)
bodies = st.fixed_dictionaries(
    {"model": st.sampled_from(["allot", "x"]), "messages": messages},
    optional={
        "allot": st.one_of(terms, anything),
        "stream": st.one_of(st.booleans(), anything),
        "n": st.one_of(numbers, anything),
        "max_tokens": st.one_of(numbers, anything),
        "seed": numbers,
        "temperature": anything,
        "tools": st.one_of(anything, st.just([TOOL])),
        "tool_choice": st.one_of(anything, st.just("required")),
        "response_format": st.one_of(anything, st.just({"type": "json_object"}), schemas),
        "stop": anything,
        "input": st.one_of(messages, st.text(max_size=20)),
        "text": anything,
        "user": anything,
        "prompt": anything,
        "prompt_tokens": anything,
        "attempts": anything,
    },
)


def send(service, path, content, headers=None):
    reply = service.http.post(path, content=content, headers=headers)
    assert reply.status_code < 500, (reply.status_code, reply.text, content[:500])
    if reply.status_code != 200:
        assert reply.json()["error"]["message"]
    return reply.status_code


PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/decide"]


@settings(max_examples=300, **QUICK)
@given(bodies, st.sampled_from(PATHS))
def test_bodies(service, body, path):
    """NaN and infinities are written as Python's json does: not JSON, and so refused."""
    send(service, path, json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass"))


@settings(max_examples=150, **QUICK)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "action": st.sampled_from(["sample", "revise", "escalate"]),
                "answer": st.one_of(st.none(), st.text(max_size=8)),
                "prompt_tokens": st.integers(0, 10**7),
                "completion_tokens": st.integers(0, 10**7),
                "mean_logprob": st.one_of(st.none(), st.floats(-1e6, 0)),
                "verifier_score": st.one_of(st.none(), st.floats(0, 1)),
                "rung": st.one_of(st.none(), st.integers(0, 3)),
                "round": st.one_of(st.none(), st.integers(0, 3)),
            }
        ),
        max_size=30,
    ),
    st.lists(st.integers(0, 10**7), min_size=1, max_size=3),
    st.floats(1e-12, 1e12),
)
def test_decide_survives_any_history(service, attempts, lengths, price):
    body = {"prompt_tokens": lengths, "attempts": attempts, "allot": {"price": price}}
    send(service, "/v1/decide", json.dumps(body))


@settings(max_examples=100, **QUICK)
@given(st.binary(max_size=300))
def test_bytes(service, content):
    send(service, "/v1/chat/completions", content)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"model":"allot","messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"allot","messages":[{"role":"user","content":"' + b"9" * 900_000 + b'"}]}',
        b'{"model":"allot","messages":[{"role":"user","content":"x"}],"n":' + b"9" * 5000 + b"}",
        b'{"model":"allot","messages":[{"role":"user","content":"x"}],"allot":{"price":1e400}}',
        b'{"model":"allot","model":"allot","messages":[{"role":"user","content":"\\u0000"}]}',
    ],
)
def test_nasty_bodies(service, content):
    send(service, "/v1/chat/completions", content)


@settings(max_examples=100, **QUICK)
@given(
    st.sampled_from(
        ["price", "budget", "deadline-s", "max-escalations", "accuracy", "question-id"]
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
)
def test_header_values(service, name, value):
    body = {"model": "allot", "messages": [{"role": "user", "content": "x"}]}
    send(service, "/v1/chat/completions", json.dumps(body), {f"x-allot-{name}": value})
