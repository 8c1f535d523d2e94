"""Backends made of backends: a ladder of one model each; in a thread, or on a loop of its own."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

from controller.backends.base import (
    DEADLINE,
    UNLIMITED,
    Backend,
    Pairs,
    PromptState,
    Request,
    T,
    Verdict,
    Wrapped,
    run_now,
)
from controller.backends.identity import blank_attempt
from controller.backends.prompts import Message
from controller.errors import BackendError, ConfigError
from controller.process.cost import Usage
from controller.process.types import Attempt, ModelSpec, Question

GRACE_S = 0.25
"""From the deadline until attempts have been given up: what they took is then known."""


class Absent(Backend):
    """An arm that is not there: a menu's controller goes on without the model of its training."""

    def __init__(self, model: ModelSpec) -> None:
        self.models = (model,)
        self.reads_prompts = self.revises = False

    def available(self, rung: int) -> bool:
        """It never is."""
        return False

    async def check(self) -> dict[str, str]:
        """Whoever deploys the controller has named no such model."""
        return {self.models[0].name: "not_named"}

    async def prompt_states(
        self, questions: Sequence[Question], *, hidden: bool = False
    ) -> list[PromptState]:
        """No attempts are to be had."""
        return [PromptState(prompt_tokens=(0,), available=(0,)) for _ in questions]

    async def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """Nobody asks for any. Raises ConfigError: always."""
        raise ConfigError(f"requests: expected arms that are there, found {self.models[0].name}")


class Ladder(Backend):
    """One backend per rung, each of which knows its own model alone, as rung 0.

    Args:
        rungs: the small model's backend first.
        at_once: whether all rungs work at the same time, which takes an event loop; if not, one
            after the other, and what never suspends never does.

    Raises:
        ConfigError: no rungs, a rung with several models, or two models of one name.
    """

    def __init__(self, rungs: Sequence[Backend], *, at_once: bool = True) -> None:
        if not rungs or any(len(rung.models) != 1 for rung in rungs):
            raise ConfigError("ladder: expected backends of one model each")
        self.rungs, self._at_once = tuple(rungs), at_once
        self.models = tuple(replace(b.models[0], rung=r) for r, b in enumerate(rungs))
        if len({model.name for model in self.models}) < len(rungs):
            raise ConfigError(
                f"ladder: expected models of distinct names, found {[m.name for m in self.models]}"
            )
        self.reads_prompts = rungs[0].reads_prompts
        self.revises = any(rung.revises for rung in rungs)
        self._verifier = next((r for r, rung in enumerate(rungs) if rung.verifies), None)

    @property
    def notes(self) -> tuple[str, ...]:
        """Of all rungs."""
        return tuple(note for rung in self.rungs for note in rung.notes)

    def takes(self, field: str, value: Any = None) -> bool:
        """See `Backend.takes`."""
        return all(rung.takes(field, value) for rung in self.rungs)

    def available(self, rung: int) -> bool:
        """Whether a model is worth asking now."""
        return self.rungs[rung].available(0)

    async def prompt_states(
        self, questions: Sequence[Question], *, hidden: bool = False
    ) -> list[PromptState]:
        """The small model's prompt states, with the prompt lengths of all rungs."""
        by_rung = await self._all(
            backend.prompt_states(questions, hidden=hidden and rung == 0)
            for rung, backend in enumerate(self.rungs)
        )
        return [
            replace(
                states[0],
                prompt_tokens=tuple(s.prompt_tokens[0] for s in states),
                available=_available(states),
                warm=tuple(s.warm[0] if s.warm else None for s in states),
            )
            for states in zip(*by_rung, strict=True)
        ]

    async def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """One attempt per request, in order.

        Raises:
            ConfigError: a request for a rung that is not on the ladder.
        """
        asked = list(dict.fromkeys(request.rung for request in requests))
        if not set(asked) <= set(range(len(self.rungs))):
            raise ConfigError(f"requests: expected rungs of the ladder, found {sorted(asked)}")
        groups = await self._all(
            self._made(rung, [r for r in requests if r.rung == rung]) for rung in asked
        )
        made = dict(zip(asked, map(iter, groups), strict=True))
        return [next(made[request.rung]) for request in requests]

    async def _made(self, rung: int, requests: Sequence[Request]) -> list[Attempt]:
        local = [replace(request, rung=0) for request in requests]
        made = await self.rungs[rung].attempts(local)
        return [replace(attempt, rung=rung) for attempt in made] if rung else made

    def can_verify(self, attempt: Attempt) -> bool:
        """Whether the model that verifies, or the first model's adapter, could score an attempt."""
        if self._verifier is not None:
            return self.rungs[self._verifier].can_verify(attempt)
        return attempt.rung == 0 and self.rungs[0].can_verify(attempt)

    async def verify(self, pairs: Pairs, deadline: float | None = None) -> Verdict:
        """Have it score attempts."""
        return await self.rungs[self._verifier or 0].verify(pairs, deadline)

    async def check(self) -> dict[str, str]:
        """What is wrong with which model, by name."""
        found = await self._all(backend.check() for backend in self.rungs)
        return {name: what for entry in found for name, what in entry.items()}

    async def prepare(self) -> tuple[str, ...]:
        """Find out what each rung needs."""
        found = await self._all(backend.prepare() for backend in self.rungs)
        return tuple(warning for entry in found for warning in entry)

    async def warm(self, context: Sequence[Message], rungs: int) -> dict[int, Usage]:
        """See `Backend.warm`; those that are down, or cannot read it, are left out."""
        done: dict[int, Usage] = {}
        why: list[BackendError] = []

        async def read(rung: int, backend: Backend) -> None:
            try:
                done[rung] = (await backend.warm(context, 1))[0]
            except BackendError as error:
                why.append(error)

        await self._all(read(r, b) for r, b in enumerate(self.rungs[:rungs]) if b.available(0))
        if not done:
            raise why[0] if why else BackendError("context: no model is there to read it")
        return done

    async def _all(self, work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        return list(await asyncio.gather(*work)) if self._at_once else [await w for w in work]

    async def close(self) -> None:
        """Close all backends."""
        for backend in self.rungs:
            await backend.close()


def _available(states: Sequence[PromptState]) -> tuple[int, ...] | None:
    """Attempts that can be had by rung; None if as many as one likes of all."""
    if all(state.available is None for state in states):
        return None
    return tuple(UNLIMITED if s.available is None else s.available[0] for s in states)


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

    def __init__(self, backend: Backend, *, revises: bool = True) -> None:
        super().__init__(backend)
        self.revises = revises
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
        deadline = min((r.deadline for r in requests if r.deadline is not None), default=None)
        unwanted, loop = threading.Event(), asyncio.get_running_loop()
        in_loop: Any = loop.call_soon_threadsafe
        wanted = [
            replace(r, unwanted=unwanted, on_text=r.on_text and partial(in_loop, r.on_text))
            for r in requests
        ]
        work = asyncio.ensure_future(self._order("attempts", wanted))
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
            return [self._failed(request, DEADLINE) for request in requests]
        try:
            made: list[Attempt] = work.result()
        except BackendError as error:
            return [self._failed(request, str(error)) for request in requests]
        if late:
            made = [replace(a, error=DEADLINE) if a.error else a for a in made]
        if self.revises:
            return made
        return [replace(attempt, num_revisions=0) for attempt in made]

    def _failed(self, request: Request, why: str) -> Attempt:
        blank = blank_attempt(self.models[request.rung].name, request)
        return replace(blank, error=why, usage=Usage(serial_rounds=1))

    async def verify(self, pairs: Pairs, deadline: float | None = None) -> Verdict:
        """See `Backend.verify`."""
        verdicts: list[Verdict] = await self._order("verify", [tuple(pairs)])
        return verdicts[0]

    async def warm(self, context: Sequence[Message], rungs: int) -> dict[int, Usage]:
        """See `Backend.warm`."""
        read: list[dict[int, Usage]] = await self._order("warm", [(tuple(context), rungs)])
        return read[0]

    async def check(self) -> dict[str, str]:
        """What is wrong, if the thread has ended."""
        return {} if self._thread.is_alive() else {m.name: "stopped" for m in self.models}

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
            # Only one of them may be to blame. What was told is not told again.
            for order in orders:
                if kind == "attempts":
                    order.items = [replace(request, on_text=None) for request in order.items]
                self._serve(kind, [order])
            return
        for order in orders:
            order.future.set_result(list(islice(results, len(order.items))))

    def _call(self, kind: str, items: list[Any]) -> list[Any]:
        if kind == "attempts":
            return run_now(self.backend.attempts(items))
        if kind == "verify":
            return [run_now(self.backend.verify(pairs)) for pairs in items]
        if kind == "warm":
            return [run_now(self.backend.warm(*item)) for item in items]
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
