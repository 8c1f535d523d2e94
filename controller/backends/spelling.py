"""Answers that are the same, in one spelling, so that they vote for one another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from controller.backends.base import Backend, Request, Wrapped
from controller.process.types import Attempt

Canonical = Callable[[str, Sequence[str]], Awaitable[str]]
"""The one of the known answers that an answer is the same as, or the answer itself."""


class OneSpelling(Wrapped):
    """Gives answers that are the same the spelling of the first, throughout one episode.

    Args:
        backend: makes the attempts.
        canonical: tells which answers are the same.
    """

    def __init__(self, backend: Backend, canonical: Canonical) -> None:
        super().__init__(backend)
        self._canonical = canonical
        self._known: list[str] = []

    async def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """See `Backend.attempts`."""
        return [await self._spelled(made) for made in await super().attempts(requests)]

    async def _spelled(self, attempt: Attempt) -> Attempt:
        if attempt.answer is None:
            return attempt
        answer = await self._canonical(attempt.answer, self._known)
        if answer not in self._known:
            self._known.append(answer)
        return attempt if answer == attempt.answer else replace(attempt, answer=answer)
