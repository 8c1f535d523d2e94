"""A backend that is awaited, for code that waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from controller.backends.asynchronous import AsyncBackend
from controller.backends.base import PromptState, Request, Verdict
from controller.types import Attempt, ModelSpec, Question

T = TypeVar("T")


class BlockingBackend:
    """Drives an `AsyncBackend` on an event loop of its own, in a thread of its own.

    The loop, and with it connections and their limits, lasts from call to call. Calls may come
    from several threads.

    Args:
        backend: whose rungs become this one's.
    """

    def __init__(self, backend: AsyncBackend) -> None:
        self._backend, self._loop = backend, asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="allot-waiting", daemon=True
        )
        self._thread.start()

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """One model per rung, the small one first."""
        return self._backend.models

    @property
    def reads_prompts(self) -> bool:
        """Whether it can tell the small model's prompt state."""
        return self._backend.reads_prompts

    @property
    def revises(self) -> bool:
        """Whether its small model can be asked to revise."""
        return self._backend.revises

    def prompt_states(
        self, questions: Sequence[Question], *, hidden: bool = False
    ) -> list[PromptState]:
        """See `Backend.prompt_states`."""

        async def states() -> list[PromptState]:
            found = (self._backend.prompt_state(question, hidden=hidden) for question in questions)
            return list(await asyncio.gather(*found))

        return self._wait(states())

    def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """See `Backend.attempts`; all rungs work at the same time."""

        async def made() -> list[Attempt]:
            rungs = sorted({request.rung for request in requests})
            places = [[i for i, r in enumerate(requests) if r.rung == rung] for rung in rungs]
            groups = await asyncio.gather(
                *(self._backend.attempts([requests[i] for i in of_rung]) for of_rung in places)
            )
            by_place = {
                place: attempt
                for of_rung, group in zip(places, groups, strict=True)
                for place, attempt in zip(of_rung, group, strict=True)
            }
            return [by_place[i] for i in range(len(requests))]

        return self._wait(made())

    def can_verify(self, attempt: Attempt) -> bool:
        """See `Backend.can_verify`."""
        return self._backend.can_verify(attempt)

    def verify(self, pairs: Sequence[tuple[Question, Attempt]]) -> Verdict:
        """See `Backend.verify`."""
        return self._wait(self._backend.verify(pairs))

    def close(self) -> None:
        """Let go of connections and threads; a second time does nothing."""
        if self._loop.is_closed():
            return
        self._wait(self._backend.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # an interrupt ends what was asked of others, too
            future.cancel()
            raise
