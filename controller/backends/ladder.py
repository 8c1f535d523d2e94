"""A ladder of backends, one model each."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any

from controller.backends.base import UNLIMITED, Backend, PromptState, Request, T, Verdict
from controller.errors import ConfigError
from controller.process.types import Attempt, ModelSpec, Question


class Absent(Backend):
    """An arm that is not there: a menu's controller goes on without it.

    Args:
        model: of its training.
    """

    def __init__(self, model: ModelSpec) -> None:
        self.models = (model,)
        self.reads_prompts = self.revises = False

    def available(self, rung: int) -> bool:
        """It never is."""
        return False

    async def prompt_states(
        self, questions: Sequence[Question], *, hidden: bool = False
    ) -> list[PromptState]:
        """No attempts are to be had."""
        return [PromptState(prompt_tokens=(0,), available=(0,)) for _ in questions]

    async def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """Nobody asks for any.

        Raises:
            ConfigError: always.
        """
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
        self.reads_prompts, self.revises = rungs[0].reads_prompts, rungs[0].revises

    @property
    def notes(self) -> tuple[str, ...]:
        """Of all rungs."""
        return tuple(note for rung in self.rungs for note in rung.notes)

    def takes(self, field: str) -> bool:
        """See `Backend.takes`."""
        return all(rung.takes(field) for rung in self.rungs)

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
            )
            for states in zip(*by_rung, strict=True)
        ]

    async def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """One attempt per request, in order.

        Raises:
            ConfigError: a request for a rung that is not on the ladder.
        """
        places: dict[int, list[int]] = {}
        for place, request in enumerate(requests):
            places.setdefault(request.rung, []).append(place)
        if not places.keys() <= set(range(len(self.rungs))):
            raise ConfigError(f"requests: expected rungs of the ladder, found {sorted(places)}")
        groups = await self._all(
            self._made(rung, [requests[i] for i in own]) for rung, own in places.items()
        )
        made = {
            place: attempt
            for own, group in zip(places.values(), groups, strict=True)
            for place, attempt in zip(own, group, strict=True)
        }
        return [made[place] for place in range(len(requests))]

    async def _made(self, rung: int, requests: Sequence[Request]) -> list[Attempt]:
        local = [replace(request, rung=0) for request in requests]
        made = await self.rungs[rung].attempts(local)
        return [replace(attempt, rung=rung) for attempt in made] if rung else made

    def can_verify(self, attempt: Attempt) -> bool:
        """Whether the small model's backend could score an attempt."""
        return attempt.rung == 0 and self.rungs[0].can_verify(attempt)

    async def verify(self, pairs: Sequence[tuple[Question, Attempt]]) -> Verdict:
        """Have the small model's backend score attempts."""
        return await self.rungs[0].verify(pairs)

    async def check(self) -> dict[str, str]:
        """What is wrong with which model, by name."""
        found = await self._all(backend.check() for backend in self.rungs)
        return {name: what for entry in found for name, what in entry.items()}

    async def prepare(self) -> tuple[str, ...]:
        """Find out what each rung needs."""
        found = await self._all(backend.prepare() for backend in self.rungs)
        return tuple(warning for entry in found for warning in entry)

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
