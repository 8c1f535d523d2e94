"""Work that the decision core needs, and the two ways to wait for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from controller.backends.base import Backend, Request
from controller.types import Attempt, Question

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ReadPrompt:
    """Ask for a `PromptState`, its hidden state included if `hidden`."""

    question: Question
    hidden: bool


@dataclass(frozen=True, kw_only=True)
class MakeAttempts:
    """Ask for one attempt per request."""

    requests: tuple[Request, ...]


@dataclass(frozen=True, kw_only=True)
class VerifyAttempts:
    """Ask for a `Verdict` on attempts."""

    pairs: tuple[tuple[Question, Attempt], ...]


Work = ReadPrompt | MakeAttempts | VerifyAttempts
Exchange = Generator[Work, Any, T]
"""Yields work, is sent its result, returns a T."""


def perform(work: Work, backend: Backend) -> Any:
    """Have a backend do a piece of work and wait for it."""
    match work:
        case ReadPrompt():
            return backend.prompt_states([work.question], hidden=work.hidden)[0]
        case MakeAttempts():
            return backend.attempts(work.requests)
        case VerifyAttempts():
            return backend.verify(work.pairs)


def carry_out(exchange: Exchange[T], perform: Callable[[Work], Any]) -> T:
    """Run an exchange to its end in this thread."""
    result = None
    while True:
        try:
            work = exchange.send(result)
        except StopIteration as done:
            value: T = done.value
            return value
        result = perform(work)


async def carry_out_async(exchange: Exchange[T], perform: Callable[[Work], Awaitable[Any]]) -> T:
    """Run an exchange to its end on the event loop."""
    result = None
    while True:
        try:
            work = exchange.send(result)
        except StopIteration as done:
            value: T = done.value
            return value
        result = await perform(work)
