"""Recording from servers: one queue for each, and nobody far ahead of the others.

Attempts at one question are asked for one after the other, by as many askers as the server has
room for: so each finds the prompt that the last one left in the server's cache, which attempts
side by side would each read again.
"""

from __future__ import annotations

import asyncio
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from controller.backends.base import Backend, Request
from controller.backends.openai.backend import ATTEMPT_DEADLINE
from controller.errors import BackendError
from controller.process.actions import ActionKind
from controller.process.types import Attempt, ModelSpec, Question
from training.record.recording import Missing, RecordConfig

FACTS = frozenset({"rejected", "null_content", "empty_choices", "too_large", ATTEMPT_DEADLINE})
"""Failures that say something about a question and a model, and are recorded as such."""

HOPELESS = frozenset({"unauthorized", "no_such_model", "wrong_model"})
"""Failures that waiting does not help against."""

PATIENCE_S = 600.0
"""How long a recording waits for a server that is down."""

_QUIET_S = 2.0
"""How long it says nothing about that."""

_TRIES = 5
"""At an attempt that fails while the server answers others."""

FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model behind a server, its place among all that are recorded, and a way to ask it."""

    spec: ModelSpec
    rung: int
    connect: Callable[[], Backend]


class Pace:
    """Keeps models from running ahead, so that a recording that is ended early has wasted little.

    Args:
        todo: what is to be recorded, in order.
        ahead: questions by which one may be ahead of the first that is not whole.
    """

    def __init__(self, todo: Sequence[Missing], ahead: int) -> None:
        self._ahead, self._front = ahead, 0
        self._left = [sum(map(len, missing.indices.values())) for missing in todo]
        self._places = {missing.question.question_id: i for i, missing in enumerate(todo)}
        self._moved = asyncio.Event()

    def done(self, question_id: str, attempts: int = 1) -> None:
        """Attempts at a question have been made."""
        self._left[self._places[question_id]] -= attempts
        while self._front < len(self._left) and self._left[self._front] <= 0:
            self._front += 1
            self._moved.set()

    async def reaches(self, question_id: str) -> None:
        """Wait until it is a question's turn."""
        while self._places[question_id] > self._front + self._ahead:
            self._moved.clear()
            await self._moved.wait()


@dataclass(eq=False)
class _Turn:
    """Attempts at one question by one model."""

    question: Question
    model: ServedModel
    indices: deque[int]


class ServerQueue:
    """Asks the models of one server, a bounded number of requests at a time.

    A service has to give up on a server that is down. A recording waits, and if that is in vain
    had better stop, to be resumed when the server is up again, than write down failures.

    Args:
        models: behind it.
        concurrency: requests at the same time.
    """

    def __init__(self, models: Sequence[ServedModel], concurrency: int) -> None:
        self.models, self.concurrency = tuple(models), concurrency
        self._answered_at = 0.0
        self._complained = False
        self._to_blame: set[str] = set()

    async def record(
        self,
        todo: Sequence[Missing],
        config: RecordConfig,
        pace: Pace,
        note: Callable[[Sequence[Attempt], int], None],
    ) -> None:
        """Record what its models lack; `note` is told of attempts, their revisions, and rungs.

        Raises:
            BackendError: the server does not answer.
        """
        backends = {model.rung: model.connect() for model in self.models}
        fresh = deque(
            _Turn(missing.question, model, deque(missing.indices[model.spec.name]))
            for missing in todo
            for model in self.models
            if model.spec.name in missing.indices
        )
        begun: list[_Turn] = []

        async def ask() -> None:
            while (turn := _next_turn(fresh, begun)) is not None:
                await pace.reaches(turn.question.question_id)
                backend = backends[turn.model.rung]
                while turn.indices:
                    index = turn.indices.popleft()
                    note(await self._chain(backend, turn, index, config), turn.model.rung)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.concurrency):
                    group.create_task(ask())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            for backend in backends.values():
                await backend.close()

    async def _chain(
        self, backend: Backend, turn: _Turn, index: int, config: RecordConfig
    ) -> list[Attempt]:
        """An attempt and its revisions."""
        rung, question = turn.model.rung, turn.question
        request = Request(question=question, action=config.action(rung), index=index)
        chain = [await self._attempt(backend, turn.model, request)]
        for _ in range(config.revision_depth if config.is_revised(rung, index) else 0):
            if chain[-1].error is not None:
                break
            again = Request(question=question, action=ActionKind.REVISE, parent=chain[-1])
            chain.append(await self._attempt(backend, turn.model, again))
        return chain

    async def _attempt(self, backend: Backend, model: ServedModel, request: Request) -> Attempt:
        """An attempt, or the failure that says something about its question.

        Raises:
            BackendError: the server is down, or does not have the model.
        """
        now = asyncio.get_running_loop().time
        failed_at, tries = 0.0, 0
        while True:
            (attempt,) = await backend.attempts([request])
            attempt = replace(attempt, rung=model.rung)
            if attempt.error is None or attempt.error in FACTS:
                self._answered_at, self._complained = now(), False
                return attempt
            tries += 1
            failed_at = failed_at or now()
            if tries >= _TRIES and self._is_to_blame(request.question.question_id, failed_at):
                return attempt
            waited_s = now() - max(failed_at, self._answered_at)
            if attempt.error in HOPELESS or waited_s > PATIENCE_S:
                raise BackendError(
                    f"{model.spec.name}: expected its server to answer, found {attempt.error!r} "
                    f"for {waited_s / 60:.0f} minutes; run the same command again to go on"
                )
            if waited_s > _QUIET_S and not self._complained:
                self._complained = True
                warnings.warn(
                    f"{model.spec.name}: expected its server to answer, found {attempt.error!r}, "
                    f"asking again for up to {PATIENCE_S / 60:.0f} minutes",
                    stacklevel=2,
                )
            await asyncio.sleep(min(FIRST_PAUSE_S * 2 ** (tries - 1), _LONGEST_PAUSE_S))

    def _is_to_blame(self, question_id: str, failed_at: float) -> bool:
        """Whether a question fails while the server answers others."""
        if self._answered_at > failed_at:
            self._to_blame.add(question_id)
        return question_id in self._to_blame


def _next_turn(fresh: deque[_Turn], begun: list[_Turn]) -> _Turn | None:
    """What to do next: a question that nobody has begun, else help with one."""
    begun[:] = [turn for turn in begun if turn.indices]
    if fresh:
        begun.append(fresh.popleft())
        return begun[-1]
    return max(begun, key=lambda turn: len(turn.indices), default=None)
