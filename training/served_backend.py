"""Models behind OpenAI-compatible servers, for recording: many requests, none of them urgent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from controller.backends.asynchronous import Ladder, no_verifier
from controller.backends.base import PromptState, Request, Verdict
from controller.backends.endpoint import Endpoint
from controller.backends.openai import OpenAIBackend
from controller.backends.resilience import CircuitBreaker, RetryBudget
from controller.errors import BackendError
from controller.types import Attempt, ModelSpec, Question

Result = TypeVar("Result")

FACTS = frozenset({"rejected", "null_content", "empty_choices", "too_large"})
"""Failures that say something about a question and a model, and are recorded as such."""


class ServedBackend:
    """Asks servers for attempts, a bounded number at a time, and waits for the answers.

    A service has to give up on a server that is down; a recording had better stop, to be
    resumed when it is up again, than write down that all attempts failed.

    Args:
        endpoints: one per rung, the small model's first.
        concurrency: requests at the same time.
    """

    def __init__(self, endpoints: Sequence[Endpoint], concurrency: int) -> None:
        self._endpoints, self._concurrency = tuple(endpoints), concurrency
        self._models = self._ladder().models

    def _ladder(self) -> Ladder:
        return Ladder(
            [
                OpenAIBackend(
                    endpoint,
                    breaker=CircuitBreaker(failures=2**31),
                    retries=RetryBudget(share=endpoint.max_retries, most=float("inf")),
                )
                for endpoint in self._endpoints
            ]
        )

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """One model per rung, the small one first."""
        return self._models

    def prompt_states(
        self, questions: Sequence[Question], *, hidden: bool = False
    ) -> list[PromptState]:
        """Estimated lengths: servers do not tell hidden states."""

        async def states(ladder: Ladder) -> list[PromptState]:
            return [await ladder.prompt_state(question, hidden=False) for question in questions]

        return self._run(states)

    def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """One attempt per request, in order.

        Raises:
            BackendError: a server does not answer, however often it is asked.
        """

        async def attempts(ladder: Ladder) -> list[Attempt]:
            room = asyncio.Semaphore(self._concurrency)
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(_attempt(ladder, request, room)) for request in requests
                    ]
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            return [task.result() for task in tasks]

        return self._run(attempts)

    def _run(self, work: Callable[[Ladder], Awaitable[Result]]) -> Result:
        """Work on an event loop and connections of its own, which end with it."""

        async def whole() -> Result:
            ladder = self._ladder()
            try:
                return await work(ladder)
            finally:
                await ladder.close()

        return asyncio.run(whole())

    def can_verify(self, attempt: Attempt) -> bool:
        """False: servers have no verifier."""
        return False

    def verify(self, pairs: Sequence[tuple[Question, Attempt]]) -> Verdict:
        """Never; raises `BackendError`."""
        raise no_verifier()


async def _attempt(ladder: Ladder, request: Request, room: asyncio.Semaphore) -> Attempt:
    async with room:
        (attempt,) = await ladder.attempts([request])
    if attempt.error is not None and attempt.error not in FACTS:
        raise BackendError(
            f"{attempt.model}: expected its server to answer, found {attempt.error!r} again and "
            "again; run the same command again to go on"
        )
    return attempt
