"""What all backends have in common."""

import asyncio

import pytest

from controller.backends.base import Backend, OneSpelling, Request, Wrapped, run_now
from controller.backends.ladder import BlockingBackend
from controller.errors import BackendError
from controller.process.actions import ActionKind
from controller.process.types import ModelSpec, Question
from tests.scripted import Scripted

QUESTION = Question(question_id="q", text="q")
REQUEST = Request(question=QUESTION, action=ActionKind.SAMPLE)


class Waiting(Wrapped):
    """Suspends before each attempt."""

    async def attempts(self, requests):
        await asyncio.sleep(0)
        return await super().attempts(requests)


def fake(*answers):
    return Scripted([ModelSpec(name="small", rung=0)], answers)


def test_what_suspends_is_refused_without_an_event_loop_and_waited_for_when_wrapped():
    backend = Waiting(fake("7"))
    with pytest.raises(BackendError, match="never suspends"):
        run_now(backend.attempts([REQUEST]))
    blocking = BlockingBackend(backend)
    try:
        assert run_now(blocking.attempts([REQUEST]))[0].answer == "7"
    finally:
        run_now(blocking.close())


def test_a_backend_without_a_verifier_says_so():
    class Least(Backend):
        models = ()

        async def prompt_states(self, questions, *, hidden=False):
            return []

        async def attempts(self, requests):
            return []

    assert not Least().can_verify(None)
    with pytest.raises(BackendError, match="expected a backend with a verifier"):
        run_now(Least().verify([]))


def test_answers_that_are_the_same_get_the_spelling_of_the_first():
    async def canonical(answer, known):
        return next((k for k in known if k[0] == answer[0]), answer)

    backend = OneSpelling(fake("cat", "dog", "cow", None), canonical)
    requests = [Request(question=QUESTION, action=ActionKind.SAMPLE, index=i) for i in range(4)]
    assert [a.answer for a in run_now(backend.attempts(requests))] == ["cat", "dog", "cat", None]
