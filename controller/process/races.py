"""Samples of one question that are written side by side, looked at every few tokens.

A race is S samples. At a mark, every `group` tokens, those that are still written go on or are
dropped; when none is left, the answers of those that ended vote. Pure arrays: a replay fills them
from a recording, `controller.race` from models that write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from controller.process.lockstep import Bools, Floats, Ints

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
