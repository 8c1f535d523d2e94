"""Samples of one question that are written side by side, looked at every few tokens.

A race is S samples. At a mark, every `group` tokens, those that are still written go on or are
dropped; when none is left, the answers of those that ended vote. A backend in this process gives
the row of a dropped sample to the others, and its memory back; of one behind a server the stream is
closed. What was written of it is in the ledger as cancelled. A replay fills `Marks` from a
recording.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from controller.answers import UNSTATED, answer_kind, read_answer
from controller.backends.base import Backend, Request
from controller.process.actions import ActionKind
from controller.process.cost import Usage
from controller.process.lockstep import Bools, Floats, Ints
from controller.process.types import Attempt, Question

SAMPLE_FEATURES = ("mean", "last", "lowest", "same", "alike")
"""Of a sample at a mark: the first three are log-probabilities; `same` is the share of the other
samples that begin with its text, `alike` the mean share of its text that others begin with."""

FEATURES = (
    *("price", "prompt", "written", "running", "ended", "votes", "runner-up", "confidence"),
    *("best", "mean value", "worst", "alike", "settled"),
)
"""What a policy sees of a race: nothing of it is computed from a reference."""

_TIE = 1e-3
"""Votes that an answer of probability 1 is ahead of one of probability 0."""
_UNKNOWN = -20.0
"""Mean log-probability of a sample of which none is told: others lead on a tie."""


def signals(groups: Floats, length: Ints, group: int) -> Floats:
    """Log-probabilities of samples at every mark: `mean`, `last` and `lowest` of `Marks`.

    Args:
        groups: mean of each group of `group` tokens, (..., M); anything after the end.
        length: tokens of each sample, (...).
        group: tokens from mark to mark.

    Returns:
        (3, ..., M + 1), zeros at the first mark; what has ended stays as it was.
    """
    ends = np.minimum(length[..., None], group * np.arange(groups.shape[-1] + 1))  # (..., M + 1)
    sizes = np.diff(ends)
    last = np.maximum(-(-ends[..., 1:] // group) - 1, 0)
    means = np.stack(
        [
            np.where(sizes > 0, groups * sizes, 0).cumsum(-1) / np.maximum(ends[..., 1:], 1),
            np.take_along_axis(groups, last, -1),
            np.minimum.accumulate(np.where(sizes > 0, groups, np.inf), -1),
        ]
    )
    return np.concatenate([np.zeros((*means.shape[:-1], 1)), means], -1)


def shared_characters(texts: Sequence[str]) -> Ints:
    """Characters that each two of S texts begin with alike, (S, S).

    >>> shared_characters(["1+2=3", "1+2=4", ""])[0]
    array([5, 4, 0])
    """
    codes = np.array(texts, str).view(np.uint32).reshape(len(texts), -1)  # (S, L)
    same = np.logical_and.accumulate(codes[:, None] == codes, 2).sum(2)
    lengths = np.array([len(text) for text in texts])
    return np.asarray(np.minimum(np.minimum(same, lengths), lengths[:, None]))


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What is known of E races of S samples at their marks; log-probabilities are in nats.

    Attributes:
        prompt_tokens, written: of the prompt, and by each running sample so far; (E,).
        running, ended: being written; done and not dropped; (E, S).
        answer: of those that ended, numbered within their race, -1 for none; (E, S).
        mean, last, lowest: mean log-probability of the tokens so far, of those of the last group,
            and of the group where it is lowest; 0 before the first mark; (E, S).
        places: characters of the text of each sample so far, (E, S).
        shared: characters that the whole texts of two samples, as far as known, begin with alike,
            (E, S, S).
    """

    prompt_tokens: Ints
    written: Ints
    running: Bools
    ended: Bools
    answer: Ints
    mean: Floats
    last: Floats
    lowest: Floats
    places: Ints
    shared: Ints

    @cached_property
    def common(self) -> Floats:
        """Share of the text of a sample that another one begins with, (E, S, S)."""
        own, other = self.places[:, :, None], self.places[:, None]
        alike = np.minimum(np.minimum(self.shared, own), other)
        return np.where(own > 0, alike / np.maximum(own, 1), 1.0)

    @cached_property
    def poll(self) -> tuple[Ints, Floats, Floats, Floats]:
        """Leading answer, its votes and the next one's, its mean probability of a token, (E,) each.

        Ties go to the answer whose attempts are likelier.
        """
        votes = self.ended & (self.answer >= 0)  # (E, S)
        same = (
            (self.answer[:, :, None] == self.answer[:, None]) & votes[:, :, None] & votes[:, None]
        )
        likely = np.exp(self.mean)  # (E, S)
        counts = same.sum(2).astype(np.float64)
        first = (counts + _TIE * (same * likely[:, None]).sum(2)).argmax(1)[:, None]  # (E, 1)
        leading = np.take_along_axis(same, first[:, :, None], 1)[:, 0]  # (E, S)
        number = np.take_along_axis(counts, first, 1)[:, 0]
        sure = (likely * leading).sum(1) / np.maximum(number, 1)
        answer = np.where(number > 0, np.take_along_axis(self.answer, first, 1)[:, 0], -1)
        return answer, number, np.where(leading, 0, counts).max(1), sure

    @property
    def over(self) -> Bools:
        """Whether no sample runs, (E,)."""
        return np.asarray(~self.running.any(1))

    @property
    def settled(self) -> Bools:
        """Whether those that run could not change which answer leads, (E,)."""
        _, leader, second, _ = self.poll
        return np.asarray(leader - second > self.running.sum(1))

    def sample_features(self) -> Floats:
        """`SAMPLE_FEATURES`, and their products with the logarithm of the tokens, (E, S, F)."""
        there = (self.running | self.ended)[:, None] & ~np.eye(self.running.shape[1], dtype=bool)
        others = np.maximum(there.sum(2), 1)
        same = ((self.common >= 1) & there).sum(2) / others
        alike = (self.common * there).sum(2) / others
        own = np.stack([self.mean, self.last, self.lowest, same, alike], 2)
        late = np.log(np.maximum(self.written, 1))[:, None, None]
        return np.concatenate([own, own * late, np.broadcast_to(late, (*own.shape[:2], 1))], 2)

    def observe(self, price: Floats, values: Floats) -> np.ndarray:
        """`FEATURES`, (E, D) float32, given log-odds (E, S) that samples are right."""
        _, leader, second, sure = self.poll
        total, running = self.running.shape[1], self.running.sum(1)
        some = running > 0
        chance = 1 / (1 + np.exp(-values))
        alike = self.sample_features()[:, :, SAMPLE_FEATURES.index("alike")]

        def mean(x: Floats) -> Floats:
            return np.asarray((x * self.running).sum(1) / np.maximum(running, 1))

        columns = (
            *(np.log10(price) + 3, np.log10(self.prompt_tokens), np.log1p(self.written) / 4),
            *(running / total, self.ended.sum(1) / total, leader / total, second / total, sure),
            np.where(self.running, chance, 0).max(1),
            mean(chance),
            np.where(some, np.where(self.running, chance, 1).min(1), 0),
            *(mean(alike), self.settled),
        )
        return np.stack(columns, 1).astype(np.float32)


def strongest(marks: Marks, values: Floats, count: Ints) -> Bools:
    """The `count` (E,) running samples of most value, the earlier one where these tie, (E, S)."""
    order = np.argsort(np.where(marks.running, -values, np.inf), axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    return np.asarray(marks.running & (rank < count[:, None]))


def keeps(num_samples: int) -> tuple[int, ...]:
    """How many samples may be kept, 0 to stop.

    >>> keeps(16)
    (0, 1, 2, 3, 4, 6, 8, 12, 16)
    """
    steps = {n for power in range(num_samples.bit_length()) for n in (2**power, 3 * 2**power // 2)}
    return (0, *sorted(n for n in steps | {num_samples} if n <= num_samples))


def keep_mask(marks: Marks, counts: tuple[int, ...]) -> Bools:
    """Counts that drop some of the running samples, and the first that drops none, (E, A)."""
    running = marks.running.sum(1)[:, None]
    return np.asarray(np.array((-1, *counts[:-1])) < running)


def kv_token_steps(prompt_tokens: Ints, begin: Ints, end: Ints) -> Ints:
    """Tokens held, summed over the steps in which tokens `begin` + 1 to `end` are written."""
    return np.asarray(prompt_tokens * (end - begin) + (end * (end + 1) - begin * (begin + 1)) // 2)


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
