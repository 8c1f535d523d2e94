"""A backend that suspends, for code that waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from typing import Any

from controller.backends.base import Backend, PromptState, Request, T, Verdict, Wrapped
from controller.process.types import Attempt, Question


class BlockingBackend(Wrapped):
    """Drives a backend on an event loop of its own, in a thread of its own; never suspends.

    The loop, and with it connections and their limits, lasts from call to call. Calls may come
    from several threads.

    Args:
        backend: whose rungs become this one's.
    """

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="allot-waiting", daemon=True
        )
        self._thread.start()

    async def prompt_states(
        self, questions: Sequence[Question], *, hidden: bool = False
    ) -> list[PromptState]:
        """See `Backend.prompt_states`."""
        return self._wait(super().prompt_states(questions, hidden=hidden))

    async def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """See `Backend.attempts`."""
        return self._wait(super().attempts(requests))

    async def verify(self, pairs: Sequence[tuple[Question, Attempt]]) -> Verdict:
        """See `Backend.verify`."""
        return self._wait(super().verify(pairs))

    async def check(self) -> dict[str, str]:
        """See `Backend.check`."""
        return self._wait(super().check())

    async def prepare(self) -> tuple[str, ...]:
        """See `Backend.prepare`."""
        return self._wait(super().prepare())

    async def close(self) -> None:
        """Let go of connections and threads; a second time does nothing."""
        if self._loop.is_closed():
            return
        self._wait(super().close())
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
