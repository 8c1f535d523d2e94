"""Samples that a backend writes side by side, dropped while they are written.

A backend in this process gives the row of a dropped sample to the others, and its memory back; of
one behind a server the stream is closed. What was written of it is in the ledger as cancelled.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from controller.answers import UNSTATED, answer_kind, read_answer
from controller.backends.base import Backend, Request
from controller.process.actions import ActionKind
from controller.process.cost import Usage
from controller.process.lockstep import Bools
from controller.process.races import Marks, shared_characters, signals
from controller.process.types import Attempt, Question

_UNKNOWN = -20.0
"""Mean log-probability of a sample of which none is told: others lead on a tie."""

Decide = Callable[[Marks], Bools]
"""Which of the running samples go on, (E, S)."""


@dataclass(eq=False)
class Sample:
    """An attempt as far as it is written; a `Watcher`.

    Attributes:
        text: without what is not complete yet.
        ends: characters of the text after each token.
        logprobs: of each token, in nats.
        done: whether it has ended.
        cut: whether it has because it is as long as an attempt may be.
        failed: whether it cannot be written to its end.
        looked: told after each change.
    """

    text: str = ""
    ends: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    done: bool = False
    cut: bool = False
    failed: bool = False
    looked: Callable[[], None] = lambda: None

    def wrote(self, text: str, logprob: float, *, last: bool = False, cut: bool = False) -> None:
        """See `Watcher.wrote`."""
        if math.isfinite(logprob):
            self.text += text
            self.ends.append(len(self.text))
            self.logprobs.append(logprob)
            self.done, self.cut = last, cut
        else:
            self.failed = True
        self.looked()

    def end(self, attempt: Attempt) -> None:
        """What came of it; a server need not have told all of the text as it was written."""
        self.failed = attempt.error is not None
        self.done, self.cut = not self.failed, attempt.cut
        if self.done:
            self.text = attempt.text or self.text

    def groups(self, size: int) -> list[float]:
        """Mean log-probability of each group of tokens, the last one perhaps not whole."""
        parts = (self.logprobs[i : i + size] for i in range(0, len(self.logprobs), size))
        return [sum(part) / len(part) for part in parts]

    def places(self, size: int) -> list[int]:
        """Characters of the text after each of these groups."""
        return [*self.ends[size - 1 : -1 : size], len(self.text)]


@dataclass(frozen=True, kw_only=True)
class Raced:
    """What became of a race.

    Attributes:
        answer: the leading one; None if no sample that ended has one.
        attempts: of the samples that ended, in their order.
        dropped: samples that were begun and dropped.
        usage: of all samples; `cancelled_tokens` were written by those that were dropped.
    """

    answer: str | None
    attempts: tuple[Attempt, ...]
    dropped: int
    usage: Usage


class Race:
    """Asks a backend for samples of one question, and decides at each mark which go on.

    Marks are reached by the last sample that runs; of those that are ahead, behind a server, only
    what they had written at the mark counts.
    """

    def __init__(
        self, backend: Backend, question: Question, num_samples: int, group: int, decide: Decide
    ) -> None:
        self.backend, self.question, self.group, self.decide = backend, question, group, decide
        self.samples = [Sample(looked=self._look) for _ in range(num_samples)]
        self.flags = [threading.Event() for _ in range(num_samples)]
        self._tasks: dict[int, asyncio.Task[list[Attempt]]] = {}
        self._prompt_tokens = self._mark = self._dropped = 0

    async def run(self) -> Raced:
        """Write until nothing runs."""
        (state,) = await self.backend.prompt_states([self.question])
        self._prompt_tokens = state.prompt_tokens[0]
        self._decide()
        begun = [place for place, flag in enumerate(self.flags) if not flag.is_set()]
        wasted: list[Usage] = []
        requests = [
            Request(
                question=self.question,
                action=ActionKind.SAMPLE,
                index=place,
                unwanted=self.flags[place],
                watcher=self.samples[place],
                on_cancelled=wasted.append,
            )
            for place in begun
        ]
        if self.backend.in_step:
            made = await self.backend.attempts(requests)
            for attempt in made:
                self.samples[attempt.index].end(attempt)
        else:
            made = await self._streamed(requests)
        whole = tuple(attempt for attempt in made if attempt.error is None)
        leader = int(self._marks().poll[0][0])
        return Raced(
            answer=self._answers()[1][leader] if leader >= 0 else None,
            attempts=whole,
            dropped=self._dropped,
            usage=sum([*(attempt.usage for attempt in made), *wasted], Usage()),
        )

    async def _streamed(self, requests: Sequence[Request]) -> list[Attempt]:
        """Attempts in streams of their own, without those that were closed."""
        for request in requests:
            task = asyncio.create_task(self.backend.attempts([request]))
            task.add_done_callback(partial(self._ended, request.index))
            self._tasks[request.index] = task
        try:
            found = await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        finally:
            for task in self._tasks.values():
                task.cancel()
        for result in found:
            if isinstance(result, Exception):
                raise result
        return [attempt for made in found if isinstance(made, list) for attempt in made]

    def _ended(self, place: int, task: asyncio.Task[list[Attempt]]) -> None:
        if task.cancelled() or task.exception() is not None:
            self.samples[place].failed = True
        else:
            self.samples[place].end(task.result()[0])
        self._look()

    def _running(self) -> Bools:
        return ~(np.array([sample.done for sample in self.samples]) | self._lost())

    def _lost(self) -> Bools:
        """Samples that were dropped or failed, (S,)."""
        each = zip(self.samples, self.flags, strict=True)
        return np.array([sample.failed or flag.is_set() for sample, flag in each])

    def _look(self) -> None:
        """Decide if all that runs has reached the next mark."""
        running = self._running()
        while running.any() and self._mark * self.group <= min(
            len(self.samples[place].logprobs) for place in np.flatnonzero(running)
        ):
            self._decide()
            running = self._running()

    def _decide(self) -> None:
        marks = self._marks()
        for place in np.flatnonzero(marks.running[0] & ~self.decide(marks)[0]).tolist():
            self.flags[place].set()
            self._dropped += self._mark > 0
            if place in self._tasks:
                self._tasks[place].cancel()
        self._mark += 1

    def _answers(self) -> tuple[list[int], list[str]]:
        """Numbers of the samples' answers, -1 for none, and the answers."""
        kind = answer_kind(self.question.answers or UNSTATED)
        known, numbers = dict[str, int](), list[int]()
        for sample in self.samples:
            answer = read_answer(sample.text, None, kind, cut=sample.cut) if sample.done else None
            numbers.append(-1 if answer is None else known.setdefault(answer, len(known)))
        return numbers, list(known)

    def _marks(self) -> Marks:
        """What is known of the samples now, as a replay would have it; E = 1."""
        running, written = self._running(), self.group * self._mark
        length = np.array([len(sample.logprobs) for sample in self.samples])
        groups = [np.array(s.groups(self.group), np.float32).tolist() for s in self.samples]
        marks = max(self._mark, 1, *(len(row) for row in groups))
        filled = np.array([[*row, *[0.0] * (marks - len(row))] for row in groups], np.float64)
        places = [
            len(s.text) if s.done or not 0 < written < len(s.ends) else s.ends[written - 1]
            for s in self.samples
        ]
        at = np.where(running, self._mark, marks)
        told = np.take_along_axis(signals(filled, length, self.group), at[None, :, None], 2)
        return Marks(
            prompt_tokens=np.array([self._prompt_tokens]),
            written=np.array([written]),
            running=running[None],
            ended=(~running & ~self._lost())[None],
            answer=np.array([self._answers()[0]]),
            mean=np.where(running | (length > 0), told[0].T, _UNKNOWN),
            last=told[1].T,
            lowest=told[2].T,
            places=np.array([places]) * (written > 0),
            shared=shared_characters([sample.text for sample in self.samples])[None],
        )
