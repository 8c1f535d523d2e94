"""Backends on threads: one that waits for code that does not, and the other way round."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from controller.backends.base import Backend, PromptState, Request, T, Verdict, Wrapped, run_now
from controller.backends.identity import blank_attempt
from controller.errors import BackendError
from controller.process.cost import Usage
from controller.process.types import Attempt, Question

TOO_LATE = "deadline"
GRACE_S = 0.25
"""From the deadline until attempts have been given up: what they took is then known."""


@dataclass(eq=False)
class _Order:
    """Something asked of the thread.

    Attributes:
        kind: method of the backend; orders of one kind go into one call.
        items: arguments of that call; a list with a result for each comes back.
    """

    kind: str
    items: Sequence[Any]
    future: Future[list[Any]] = field(default_factory=Future)


class ThreadedBackend(Wrapped):
    """Runs a backend that never suspends in one thread, what has piled up meanwhile in one call.

    Requests of different clients so share the batches of a local model. An attempt that is
    no longer wanted is given up at its next token.
    """

    def __init__(
        self, backend: Backend, *, reads_prompts: bool = True, revises: bool = True
    ) -> None:
        super().__init__(backend)
        self.reads_prompts, self.revises = reads_prompts, revises
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="allot-models", daemon=True)
        self._thread.start()

    def available(self, rung: int) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    async def prompt_states(
        self, questions: Sequence[Question], *, hidden: bool = False
    ) -> list[PromptState]:
        """See `Backend.prompt_states`."""
        return await self._order("hidden_states" if hidden else "prompt_states", questions)

    async def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """See `Backend.attempts`; what is not done by the first deadline has an `error`."""
        deadlines = (r.deadline for r in requests if r.deadline is not None)
        deadline = min(deadlines, default=None)
        unwanted = threading.Event()
        wanted = [replace(request, unwanted=unwanted) for request in requests]
        work = asyncio.ensure_future(self._order("attempts", wanted))
        loop = asyncio.get_running_loop()
        left_s = None if deadline is None else max(0.0, deadline - loop.time())
        try:
            done, _ = await asyncio.wait({work}, timeout=left_s)
            late = not done
            if late:
                unwanted.set()
                done, _ = await asyncio.wait({work}, timeout=GRACE_S)
        finally:
            unwanted.set()
            if not work.done():
                work.cancel()
        if not done:
            return [self._failed(request, TOO_LATE) for request in requests]
        try:
            made: list[Attempt] = work.result()
        except BackendError as error:
            return [self._failed(request, str(error)) for request in requests]
        if late:
            made = [replace(a, error=TOO_LATE) if a.error else a for a in made]
        if self.revises:
            return made
        return [replace(attempt, num_revisions=0) for attempt in made]

    def _failed(self, request: Request, why: str) -> Attempt:
        blank = blank_attempt(self.models[request.rung].name, request)
        return replace(blank, error=why, usage=Usage(serial_rounds=1))

    async def verify(self, pairs: Sequence[tuple[Question, Attempt]]) -> Verdict:
        """See `Backend.verify`."""
        verdicts: list[Verdict] = await self._order("verify", [tuple(pairs)])
        return verdicts[0]

    async def check(self) -> dict[str, str]:
        """What is wrong, if the thread has ended."""
        if self._thread.is_alive():
            return {}
        return {model.name: "stopped" for model in self.models}

    async def close(self) -> None:
        """Finish the call that is running and end the thread."""
        self._orders.put(None)
        await asyncio.to_thread(self._thread.join)

    async def _order(self, kind: str, items: Sequence[Any]) -> list[Any]:
        if not self._thread.is_alive():
            raise BackendError("local models: expected their thread to run, found it closed")
        order = _Order(kind, items)
        self._orders.put(order)
        try:
            return await asyncio.wrap_future(order.future)
        except BackendError:
            raise
        except Exception as error:  # a local model can raise whatever torch raises
            raise BackendError(f"local models: {type(error).__name__}") from error

    def _run(self) -> None:
        while True:
            waiting = [self._orders.get()]
            while not self._orders.empty():
                waiting.append(self._orders.get())
            orders = [o for o in waiting if o and o.future.set_running_or_notify_cancel()]
            for kind in dict.fromkeys(order.kind for order in orders):
                self._serve(kind, [order for order in orders if order.kind == kind])
            if None in waiting:
                return

    def _serve(self, kind: str, orders: Sequence[_Order]) -> None:
        try:
            results = iter(self._call(kind, [item for order in orders for item in order.items]))
        except Exception as error:  # whatever it is, those who wait must hear of it
            if len(orders) == 1:
                orders[0].future.set_exception(error)
                return
            for order in orders:  # only one of them may be to blame
                self._serve(kind, [order])
            return
        for order in orders:
            order.future.set_result(list(islice(results, len(order.items))))

    def _call(self, kind: str, items: list[Any]) -> list[Any]:
        if kind == "attempts":
            return run_now(self.backend.attempts(items))
        if kind == "verify":
            return [run_now(self.backend.verify(pairs)) for pairs in items]
        return run_now(self.backend.prompt_states(items, hidden=kind == "hidden_states"))


class BlockingBackend(Wrapped):
    """Drives a backend on an event loop of its own, in a thread of its own; never suspends.

    The loop, and with it connections and their limits, lasts from call to call. Calls may come
    from several threads.
    """

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="allot-waiting", daemon=True
        )
        self._thread.start()

    async def close(self) -> None:
        """Let go of connections and threads; a second time does nothing."""
        if self._loop.is_closed():
            return
        await super().close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _done(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # an interrupt ends what was asked of others, too
            future.cancel()
            raise
