"""Models behind OpenAI-compatible servers, for recording: many requests, none of them urgent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from controller.backends.asynchronous import Ladder, no_verifier
from controller.backends.base import PromptState, Request, Verdict
from controller.backends.endpoint import Endpoint
from controller.backends.openai import OpenAIBackend
from controller.backends.resilience import CircuitBreaker, RetryBudget
from controller.errors import BackendError
from controller.types import Attempt, ModelSpec, Question

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
        self._ladder = Ladder(
            [
                OpenAIBackend(
                    endpoint,
                    breaker=CircuitBreaker(failures=2**31),
                    retries=RetryBudget(share=endpoint.max_retries, most=float("inf")),
                )
                for endpoint in endpoints
            ]
        )
        self._concurrency = concurrency
        self._runner = asyncio.Runner()

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """One model per rung, the small one first."""
        return self._ladder.models

    def prompt_states(
        self, questions: Sequence[Question], *, hidden: bool = False
    ) -> list[PromptState]:
        """Estimated lengths: servers do not tell hidden states."""

        async def all_states() -> list[PromptState]:
            return [await self._ladder.prompt_state(q, hidden=False) for q in questions]

        return self._runner.run(all_states())

    def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """One attempt per request, in order.

        Raises:
            BackendError: a server does not answer, however often it is asked.
        """

        async def all_attempts() -> list[Attempt]:
            room = asyncio.Semaphore(self._concurrency)

            async def one(request: Request) -> Attempt:
                async with room:
                    (attempt,) = await self._ladder.attempts([request])
                if attempt.error is not None and attempt.error not in FACTS:
                    raise BackendError(
                        f"{attempt.model}: expected its server to answer, found "
                        f"{attempt.error!r} again and again; run the same command again to go on"
                    )
                return attempt

            tasks = []
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(request)) for request in requests]
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            return [task.result() for task in tasks]

        return self._runner.run(all_attempts())

    def can_verify(self, attempt: Attempt) -> bool:
        """False: servers have no verifier."""
        return False

    def verify(self, pairs: Sequence[tuple[Question, Attempt]]) -> Verdict:
        """Never; raises `BackendError`."""
        raise no_verifier()
