"""A service whose policy hardly ever decides says so."""

import logging

import pytest

from controller.backends.prompts import read_prompts
from controller.errors import ConfigError
from controller.server.variants import ENOUGH, GuardWatch
from tests.controller.server.conftest import QUESTION

STRANGE = "word " * 20_000


def events(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "allot.service"]


def test_a_state_begins_and_ends_once(caplog):
    caplog.set_level(logging.INFO, "allot.service")
    watch = GuardWatch("main")
    for _ in range(ENOUGH - 1):
        watch.note("prompt_length")
    assert not watch.warnings, "of few questions nothing can be said"
    watch.note("small_length")
    assert events(caplog) == ["guard_overrules"]
    assert caplog.records[-1].fields == {"arm": "main", "share": 1.0, "feature": "prompt_length"}
    assert "prompt_length" in watch.warnings[0]
    for _ in range(400):
        watch.note(None)
    assert events(caplog) == ["guard_overrules", "guard_is_quiet"]
    assert (watch.share, watch.warnings) == (0.0, ())


def test_a_service_says_loudly_that_its_policy_does_not_decide(serve, small, large, caplog):
    """In the reply, in /ready, in a metric and in the log."""
    caplog.set_level(logging.INFO, "allot.service")
    service = serve(small, large, variant_settings={"fallback": "always-small"})
    replies = [service.ask(STRANGE).json()["allot"] for _ in range(ENOUGH)]
    assert {reply["guarded"] for reply in replies} == {"prompt_length"}
    assert replies[-2]["warnings"] == []
    assert events(caplog) == ["guard_overrules"]
    normal = service.ask(QUESTION, price=1e-3).json()["allot"]
    assert normal["guarded"] is None
    assert "95%" in normal["warnings"][0]
    ready = service.http.get("/ready")
    assert (ready.status_code, ready.json()["warnings"]) == (200, normal["warnings"])
    share = f'allot_guard_share{{arm="main"}} {ENOUGH / (ENOUGH + 1)}'
    assert share in service.http.get("/metrics").text


def test_without_a_guard_nothing_is_watched(serve, small, large):
    service = serve(small, large, variant_settings={"fallback": None})
    for _ in range(ENOUGH):
        assert service.ask(STRANGE).json()["allot"]["guarded"] is None
    assert service.http.get("/ready").json()["warnings"] == []


def test_a_decision_elsewhere_says_that_it_is_the_guards(serve, small, large):
    service = serve(small, large)
    cut = {
        "action": "sample",
        "text": "Let me think",
        "prompt_tokens": 10,
        "completion_tokens": 40,
        "finish_reason": "length",
    }
    for tokens, feature in ((10, None), (100_000, "prompt_length")):
        asked = {"prompt_tokens": [tokens], "attempts": [cut], "allot": {"price": 1e-3}}
        reply = service.http.post("/v1/decide", json=asked)
        assert reply.status_code == 200, reply.text
        assert reply.json()["guarded"] == feature


def test_prompts_are_for_one_model_or_for_all(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("Be short.")
    short, other = read_prompts(["Be short."], ["a"])["a"], ({"role": "system", "content": "x=1"},)
    assert read_prompts([f"a={file}", "x=1"], ["a", "b"]) == {"a": short, "b": other}
    assert read_prompts([f"a={file}"], ["a", "b"]) == {"a": short}
    for given in ([f"c={file}"], ["a=x", "a=y"], ["./no/such"], ["a=no.txt"]):
        with pytest.raises(ConfigError, match="prompt"):
            read_prompts(given, ["a", "b"])
