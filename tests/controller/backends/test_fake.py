"""The fake backend: scripted, reproducible, and with the ledger of a real one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.backends.base import Backend, Request, run_now
from controller.backends.fake import FakeBackend, Script
from controller.errors import BackendError, ConfigError
from controller.process.actions import ActionKind
from controller.process.types import Attempt, ModelSpec, Question

MODELS = (
    ModelSpec(name="small", rung=0, parameters=1.0),
    ModelSpec(name="large", rung=1, parameters=10.0),
)
QUESTION = Question(question_id="q", text="two plus two", reference="4")


def sample(index: int = 0, question: Question = QUESTION) -> Request:
    return Request(question=question, action=ActionKind.SAMPLE, index=index)


def escalate(index: int = 0) -> Request:
    return Request(question=QUESTION, action=ActionKind.ESCALATE, rung=1, index=index)


def revise(parent: Attempt, index: int = 0) -> Request:
    return Request(question=QUESTION, action=ActionKind.REVISE, parent=parent, index=index)


def test_scripted_answers_come_in_order_and_over_again() -> None:
    script = Script(answers=[["5", None], ["4.0"]], revisions=["6"])
    backend: Backend = FakeBackend(MODELS, scripts={"q": script})
    attempts = run_now(backend.attempts([sample(0), sample(1), sample(2), escalate()]))
    assert [a.answer for a in attempts] == ["5", None, "5", "4"]
    (revision,) = run_now(backend.attempts([revise(attempts[0])]))
    assert (revision.answer, revision.parent_id) == ("6", "small:sample:0")
    assert revision.attempt_id == "small:sample:0>revise:0"


def test_same_seed_same_attempts_in_any_order() -> None:
    requests = [*(sample(i) for i in range(20)), escalate()]
    first = run_now(FakeBackend(MODELS, seed=1).attempts(requests))
    second = run_now(FakeBackend(MODELS, seed=1).attempts(requests[::-1]))[::-1]
    other = run_now(FakeBackend(MODELS, seed=2).attempts(requests))
    assert [(a.answer, a.mean_logprob) for a in first] == [
        (a.answer, a.mean_logprob) for a in second
    ]
    assert [a.answer for a in first] != [a.answer for a in other]


def test_success_is_as_frequent_as_asked_for() -> None:
    backend = FakeBackend(MODELS, default=Script(success=[0.3, 1.0]))
    small = run_now(backend.attempts([sample(i) for i in range(4000)]))
    large = run_now(backend.attempts([escalate(i) for i in range(50)]))
    assert sum(a.answer == "4" for a in small) / len(small) == pytest.approx(0.3, abs=0.03)
    assert {a.answer for a in large} == {"4"}


def test_first_attempt_of_an_episode_pays_the_prompt() -> None:
    backend = FakeBackend(MODELS, completion_tokens=7)
    usages = [a.usage for a in run_now(backend.attempts([sample(0), sample(1), escalate()]))]
    assert [(u.prefill_tokens, u.cached_tokens) for u in usages] == [(3, 0), (0, 3), (3, 0)]
    assert {(u.decoded_tokens, u.serial_rounds) for u in usages} == {(7, 1)}
    state = run_now(backend.prompt_states([QUESTION]))[0]
    assert (state.prompt_tokens, state.usage.prefill_tokens) == ((3, 3), 0)
    assert run_now(backend.attempts([sample(2)]))[0].usage.prefill_tokens == 3
    state = run_now(backend.prompt_states([QUESTION], hidden=True))[0]
    assert state.usage.prefill_tokens == 3
    assert run_now(backend.attempts([sample(2)]))[0].usage.cached_tokens == 3


def test_revision_pays_its_whole_prompt() -> None:
    backend = FakeBackend(MODELS)
    (parent,) = run_now(backend.attempts([sample()]))
    for index in range(2):
        (revision,) = run_now(backend.attempts([revise(parent, index)]))
        assert revision.usage.prefill_tokens == revision.prompt_tokens > parent.prompt_tokens


def test_failures_are_attempts() -> None:
    script = Script(answers=[[BackendError("out of luck"), "4"]])
    backend = FakeBackend(MODELS, scripts={"q": script})
    unknown = replace(QUESTION, question_id="unknown", reference=None)
    failed, healthy, unscripted, orphan = run_now(
        backend.attempts(
            [
                sample(0),
                sample(1),
                sample(0, unknown),
                Request(question=QUESTION, action=ActionKind.REVISE),
            ]
        )
    )
    assert (failed.error, failed.answer) == ("out of luck", None)
    assert healthy.answer == "4"
    assert "reference" in str(unscripted.error)
    assert "parent" in str(orphan.error)


def test_chances_out_of_range() -> None:
    with pytest.raises(ConfigError, match="success"):
        Script(success=[1.5])
