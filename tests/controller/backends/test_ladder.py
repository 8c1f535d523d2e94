"""A blocking backend on its own thread, shared by many."""

import asyncio
import threading
import time
from dataclasses import replace

import pytest

from controller.backends.base import Request, run_now
from controller.backends.ladder import ThreadedBackend
from controller.backends.local.backend import TransformersBackend, load_model
from controller.errors import BackendError
from controller.process.actions import ActionKind
from controller.process.types import ModelSpec, Question
from tests.conftest import CHECKPOINTS
from tests.scripted import Scripted

MODELS = [ModelSpec(name="small", rung=0)]


class Slow(Scripted):
    """Takes a while per call, however much is asked."""

    def __init__(self, seconds=0.1):
        super().__init__(MODELS, ["7"], ["7"])
        self.seconds, self.calls = seconds, []

    async def attempts(self, requests):
        self.calls.append(list(requests))
        end = time.monotonic() + self.seconds
        while time.monotonic() < end and not all(
            r.unwanted and r.unwanted.is_set() for r in requests
        ):
            time.sleep(0.01)
        if any(r.question.text == "bad" for r in requests):
            raise ValueError("bad question")
        return await super().attempts(requests)


class After:
    """Is set once it has been looked at so often."""

    def __init__(self, looks):
        self.left = looks

    def is_set(self):
        self.left -= 1
        return self.left < 0


def request(text="q", index=0, unwanted=None):
    question = Question(question_id=text, text=text)
    return Request(question=question, action=ActionKind.SAMPLE, index=index, unwanted=unwanted)


def run(backend, work):
    async def main():
        threaded = ThreadedBackend(backend)
        try:
            return await work(threaded)
        finally:
            await threaded.close()

    return asyncio.run(main())


def test_what_piles_up_goes_into_one_call():
    backend = Slow()

    async def ask(threaded):
        return await asyncio.gather(*(threaded.attempts([request(f"q{i}")]) for i in range(20)))

    made = run(backend, ask)
    assert [a.question_id for (a,) in made] == [f"q{i}" for i in range(20)]
    assert len(backend.calls) <= 3


def test_the_loop_goes_on_meanwhile():
    async def ask(threaded):
        ticks, work = 0, asyncio.create_task(threaded.attempts([request()]))
        while not work.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks

    assert run(Slow(0.5), ask) > 5


def test_what_fails_is_told_to_those_who_asked_for_it_alone():
    async def ask(threaded):
        busy = asyncio.create_task(threaded.attempts([request("first")]))
        (failed,), (good,) = await asyncio.gather(
            threaded.attempts([request("bad")]), threaded.attempts([request("good")])
        )
        await busy
        with pytest.raises(BackendError, match="expected a backend with a verifier"):
            await threaded.verify([(request().question, good)])
        return failed, good

    failed, good = run(Slow(0.1), ask)
    assert (failed.error, failed.answer, good.answer) == ("local models: ValueError", None, "7")


def test_the_deadline_is_kept_and_what_waits_is_told():
    backend = Slow(30)

    async def ask(threaded):
        deadline = asyncio.get_running_loop().time() + 0.2
        return await threaded.attempts([replace(request(), deadline=deadline)])

    started = time.monotonic()
    run(backend, ask)
    assert time.monotonic() - started < 5
    assert backend.calls[0][0].unwanted.is_set()


def test_a_cancelled_call_is_unwanted_and_one_that_waits_is_never_made():
    backend = Slow(30)

    async def ask(threaded):
        first = asyncio.create_task(threaded.attempts([request("first")]))
        while not backend.calls:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(threaded.attempts([request("second")]))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.sleep(0.05)
        first.cancel()
        return await asyncio.gather(first, second, return_exceptions=True)

    found = run(backend, ask)
    assert all(isinstance(error, asyncio.CancelledError) for error in found)
    assert [r.question.text for call in backend.calls for r in call] == ["first"]


def test_local_models_give_up_at_the_next_token():
    """Tokens written until then are counted as cancelled; others in the batch go on."""
    backend = TransformersBackend([load_model(CHECKPOINTS / "small", 0)], temperature=0.0)
    text = "Spell this word backward (example: sun -> nus): planet"
    (whole,) = run_now(backend.attempts([request(text)]))
    never, soon = threading.Event(), After(4)
    kept, dropped = run_now(backend.attempts([request(text, 1, never), request(text, 2, soon)]))
    assert (kept.answer, kept.completion_tokens) == (whole.answer, whole.completion_tokens)
    assert (dropped.answer, dropped.completion_tokens) == (None, 0)
    assert dropped.error.startswith("cancelled")
    assert 0 < dropped.usage.cancelled_tokens < whole.completion_tokens
    never.set()
    (unbegun,) = run_now(backend.attempts([request(text, 3, never)]))
    assert (unbegun.usage.processed_tokens, unbegun.answer) == (0, None)


class Upset(Scripted):
    """Tells its texts, and cannot answer two clients at once."""

    async def attempts(self, requests):
        for request in requests:
            if request.on_text is not None:
                request.on_text("Answer: 7")
        if len(requests) > 1:
            raise RuntimeError
        return await super().attempts(requests)


def test_what_was_told_before_a_call_failed_is_not_told_again():
    async def asked():
        threaded, told = ThreadedBackend(Upset(MODELS, ["7"])), [[], []]
        blocker = threading.Event()
        threaded._call, call = lambda *order: (blocker.wait(), call(*order))[1], threaded._call
        questions = [Question(question_id=str(i), text="?") for i in range(3)]
        requests = [
            Request(question=q, action=ActionKind.SAMPLE, on_text=on_text)
            for q, on_text in zip(questions, [None, *(t.append for t in told)], strict=True)
        ]
        waiting = [asyncio.create_task(threaded.attempts([request])) for request in requests]
        await asyncio.sleep(0.2)  # the first one is in the thread, the others wait for it
        blocker.set()
        made = [(await one)[0].answer for one in waiting]
        await threaded.close()
        return made, told

    made, told = asyncio.run(asked())
    assert made == ["7"] * 3
    assert told == [["Answer: 7"]] * 2
