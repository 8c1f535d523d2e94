"""Backends that are awaited: the interface, and a ladder of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from controller.backends.base import PromptState, Request, Verdict
from controller.errors import BackendError, ConfigError
from controller.exchange import MakeAttempts, ReadPrompt, VerifyAttempts, Work
from controller.types import Attempt, ModelSpec, Question


class AsyncBackend(Protocol):
    """Makes attempts on an event loop; see `controller.backends.base.Backend`.

    A cancelled call cancels what it has asked of others. `deadline` is a time of the event
    loop's clock: whatever is not done by then is returned as an attempt with `error`.
    """

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """One model per rung, the small one first."""
        ...

    @property
    def reads_prompts(self) -> bool:
        """Whether it can tell the small model's prompt state."""
        ...

    @property
    def revises(self) -> bool:
        """Whether its small model can be asked to revise."""
        ...

    def available(self, rung: int) -> bool:
        """Whether a model is worth asking now."""
        ...

    async def prompt_state(self, question: Question, *, hidden: bool) -> PromptState:
        """Prompt length and, if asked for and known, hidden state."""
        ...

    async def attempts(
        self, requests: Sequence[Request], *, deadline: float | None = None
    ) -> list[Attempt]:
        """One attempt per request, in order."""
        ...

    def can_verify(self, attempt: Attempt) -> bool:
        """Whether `verify` could score an attempt."""
        ...

    async def verify(self, pairs: Sequence[tuple[Question, Attempt]]) -> Verdict:
        """Score attempts.

        Raises:
            BackendError: there is no verifier, or it cannot score one of them.
        """
        ...

    async def check(self) -> dict[str, str]:
        """What is wrong with which model, by name; empty when all answer."""
        ...

    async def prepare(self) -> tuple[str, ...]:
        """Find out what questions need; says what is not as in training."""
        ...

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...


async def perform(work: Work, backend: AsyncBackend, deadline: float | None = None) -> Any:
    """Have a backend do a piece of work, as `controller.exchange.perform` does without waiting."""
    match work:
        case ReadPrompt():
            return await backend.prompt_state(work.question, hidden=work.hidden)
        case MakeAttempts():
            return await backend.attempts(work.requests, deadline=deadline)
        case VerifyAttempts():
            return await backend.verify(work.pairs)


class Ladder:
    """One backend per rung, each of which knows its own model alone, as rung 0.

    Args:
        rungs: the small model's first.

    Raises:
        ConfigError: no rungs, a rung with several models, or two models of one name.
    """

    def __init__(self, rungs: Sequence[AsyncBackend]) -> None:
        if not rungs or any(len(rung.models) != 1 for rung in rungs):
            raise ConfigError("ladder: expected backends of one model each")
        self._rungs = tuple(rungs)
        self._models = tuple(replace(b.models[0], rung=r) for r, b in enumerate(rungs))
        if len({model.name for model in self._models}) < len(rungs):
            raise ConfigError(
                f"ladder: expected models of distinct names, found {[m.name for m in self._models]}"
            )

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """One model per rung, the small one first."""
        return self._models

    @property
    def reads_prompts(self) -> bool:
        """Whether the small model's backend can tell prompt states."""
        return self._rungs[0].reads_prompts

    @property
    def revises(self) -> bool:
        """Whether the small model's backend can revise."""
        return self._rungs[0].revises

    def available(self, rung: int) -> bool:
        """Whether a model is worth asking now."""
        return self._rungs[rung].available(0)

    async def prompt_state(self, question: Question, *, hidden: bool) -> PromptState:
        """The small model's prompt state, with the prompt lengths of all rungs."""
        states = await asyncio.gather(
            *(
                backend.prompt_state(question, hidden=hidden and rung == 0)
                for rung, backend in enumerate(self._rungs)
            )
        )
        return replace(states[0], prompt_tokens=tuple(s.prompt_tokens[0] for s in states))

    async def attempts(
        self, requests: Sequence[Request], *, deadline: float | None = None
    ) -> list[Attempt]:
        """One attempt per request, in order; all requests are for one rung.

        Raises:
            ConfigError: requests for several rungs, or for one that is not on the ladder.
        """
        rungs = {request.rung for request in requests}
        if len(rungs) != 1 or not rungs <= set(range(len(self._rungs))):
            raise ConfigError(f"requests: expected one rung of the ladder, found {sorted(rungs)}")
        (rung,) = rungs
        local = [replace(request, rung=0) for request in requests]
        made = await self._rungs[rung].attempts(local, deadline=deadline)
        return [replace(attempt, rung=rung) for attempt in made] if rung else made

    def can_verify(self, attempt: Attempt) -> bool:
        """Whether the small model's backend could score an attempt."""
        return attempt.rung == 0 and self._rungs[0].can_verify(attempt)

    async def verify(self, pairs: Sequence[tuple[Question, Attempt]]) -> Verdict:
        """Have the small model's backend score attempts."""
        return await self._rungs[0].verify(pairs)

    async def check(self) -> dict[str, str]:
        """What is wrong with which model, by name."""
        found = await asyncio.gather(*(backend.check() for backend in self._rungs))
        return {name: what for entry in found for name, what in entry.items()}

    async def prepare(self) -> tuple[str, ...]:
        """Find out what each rung needs."""
        found = await asyncio.gather(*(backend.prepare() for backend in self._rungs))
        return tuple(warning for entry in found for warning in entry)

    async def close(self) -> None:
        """Close all backends."""
        for backend in self._rungs:
            await backend.close()


def no_verifier() -> BackendError:
    """What a backend without a verifier raises."""
    return BackendError("verify: expected a backend with a verifier, found none")
