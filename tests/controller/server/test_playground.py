"""The page at `/`: where it is, what it may run, and what it asks the API for."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from controller.policy.deciders import NAMED_RULES
from controller.server.config import ServeConfig
from controller.server.routes import page

HOSTILE = "</script><script>hacked = 1</script>"


def test_a_page_is_there_unless_keys_are_set():
    keys = Path("keys")
    assert ServeConfig().has_playground
    assert not ServeConfig(keys=keys).has_playground
    assert ServeConfig(keys=keys, playground=True).has_playground
    assert not ServeConfig(playground=False).has_playground


def test_a_service_without_a_page_says_404(service):
    assert service.http.get("/").status_code == 404


def test_only_the_pages_own_script_and_style_run(serve, small, large):
    reply = serve(small, large, playground=True).http.get("/")
    policy = reply.headers["content-security-policy"]
    for kind in ("script", "style"):
        (own,) = re.findall(f"<{kind}>(.*?)</{kind}>", reply.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in policy
    assert not re.findall(r"""(?:src|href)=["']?(?!data:)\w""", reply.text)


def test_names_of_models_cannot_leave_their_place(serve, small, large, checkpoint):
    running = serve(small, large)
    engine = running.service.engine
    engine.backend.models = [
        replace(model, name=HOSTILE + str(model.rung)) for model in engine.backend.models
    ]
    text = bytes(page(engine, keys=False).body).decode()
    assert HOSTILE not in text
    (setup,) = re.findall(r'id="setup">(.*?)</script>', text, re.DOTALL)
    assert json.loads(setup)["models"][0]["name"] == HOSTILE + "0"


@pytest.mark.parametrize("rule", NAMED_RULES)
def test_a_rule_that_an_asker_names_decides(service, rule):
    told = service.ask(rule=rule).json()["allot"]
    assert {decision["decided_by"] for decision in told["decisions"]} == {rule}


def test_a_named_rule_leaves_the_guards_watch_alone(serve, small, large):
    service = serve(small, large)
    watch = service.service.engine.variants.all[0].watch
    service.ask(rule="always-large")
    assert len(watch.last) == 0
    service.ask()
    assert len(watch.last) == 1


def test_what_an_asker_does_without_is_not_done_and_told_where_it_was_wanted(service):
    for refused in ("escalate", "large"):
        told = service.ask(rule="always-large", without=[refused]).json()["allot"]
        assert "ESCALATE" not in [decision["action"] for decision in told["decisions"]]
        assert told["limited"] == ["without"]
    decided = service.http.post(
        "/v1/decide", json={"prompt_tokens": [20], "allot": {"without": ["revise", "escalate"]}}
    ).json()
    assert not {"REVISE", "ESCALATE"} & set(decided["allowed"])


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"rule": "magic"}, "rule: expected one of"),
        ({"without": ["sample", "escalate"]}, "without: expected to leave stop, and a model"),
        ({"without": ["small", "large"]}, "without: expected to leave stop, and a model"),
        ({"without": ["stop"]}, "without: expected to leave stop, and a model"),
        ({"without": ["magic"]}, "without: expected any of"),
    ],
)
def test_terms_that_cannot_be_kept_are_refused(service, terms, message):
    reply = service.ask(**terms)
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]


def test_who_asks_for_explanations_gets_votes_and_texts(service):
    *_, last = service.ask(rule="self-consistency-5", explain=True).json()["allot"]["decisions"]
    assert last["votes"] == {"7": 5.0}
    first = service.ask(explain=True).json()["allot"]["decisions"][0]
    assert first["votes"] == {}
    assert [attempt["text"] for attempt in first["attempts"]]
