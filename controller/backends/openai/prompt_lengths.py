"""What a server tells of prompts: how long they are, and which of them it has cached."""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.backends.prompts import Message
from controller.process.types import Question

Line = tuple[float, float]
"""Tokens of the template, and tokens per character of what is asked."""

Counted = tuple[int, int]
"""Characters of what is asked, and tokens of the prompt."""

GUESS: Line = (8.0, 0.25)
"""English in a short template: no knowledge."""

FAR = 0.2
"""Share of the true length by which estimates may be off, a few in a hundred apart."""

WARM_S = 300.0
"""How long hosted servers keep a prompt at least; others do while there is room."""
_MOST_PROMPTS, _MOST_MISSES = 4096, 3

_ENOUGH, _FEW, _WINDOW, _MOST_PAIRS = 8, 3, 64, 256
_STEEPEST, _NARROW = 4.0, 0.7
_LONGEST_TEMPLATE = 4096


def characters(question: Question) -> int:
    """Length of what is asked, tools included, without the prompt around it."""
    return len(question.text) + _length((*question.history, *question.since), question.fields)


def plausible(tokens: int, chat: Sequence[Message], fields: Mapping[str, Any]) -> bool:
    """Whether a chat may have so many tokens: hardly more than bytes, the template apart."""
    return tokens <= 4 * _length(chat, fields) + _LONGEST_TEMPLATE


def _length(turns: Sequence[Message], fields: Mapping[str, Any]) -> int:
    """Characters of turns and of what else a template writes out."""
    written = sum(len(turn["content"] or "") for turn in turns)
    calls = [turn["tool_calls"] for turn in turns if "tool_calls" in turn]
    for further in (calls, fields.get("tools"), fields.get("response_format")):
        written += len(json.dumps(further)) if further else 0
    return written


def fit_prompt_length(counted: Sequence[Counted]) -> Line | None:
    """The line from characters to tokens; None if it is too far from the prompts, or these few.

    >>> fit_prompt_length([(n, 30 + n // 4) for n in range(40, 400, 4)])
    (30.0, 0.25)
    """
    pairs = _pairs(counted)
    if len(counted) < _ENOUGH:
        return None
    line = _line(pairs)
    return line if _off(line, pairs, 0.95) <= FAR else None


def _pairs(counted: Sequence[Counted]) -> NDArray[np.float64]:
    """Different prompts by length, (K, 2), as many as it takes."""
    pairs = np.array(sorted(set(counted)), float).reshape(-1, 2)
    if len(pairs) <= _MOST_PAIRS:
        return pairs
    return np.asarray(pairs[np.linspace(0, len(pairs) - 1, _MOST_PAIRS).astype(np.int64)])


def _line(pairs: NDArray[np.float64]) -> Line:
    """Medians of slopes and constants, to which outliers do not matter.

    Source: Theil 1950, A rank-invariant method of linear and polynomial regression analysis.
    """
    long, tokens = pairs.T
    if long[0] > _NARROW * long[-1]:
        # Prompts of nearly one length do not tell a slope that holds for others.
        return float(np.median(tokens - GUESS[1] * long)), GUESS[1]
    i, j = np.triu_indices(len(pairs), 1)
    i, j = i[long[i] != long[j]], j[long[i] != long[j]]
    slope = max(0.0, float(np.median((tokens[j] - tokens[i]) / (long[j] - long[i]))))
    return float(np.median(tokens - slope * long)), slope


def _off(line: Line, pairs: NDArray[np.float64], share: float) -> float:
    long, tokens = pairs.T
    off = np.abs(line[0] + line[1] * long - tokens) / np.maximum(tokens, 1)
    return float(np.quantile(off, share))


class RunningFit:
    """Estimates the length of prompts, better with each that was counted.

    A `prior`, the line that training saw, weighs as much as a few prompts.
    """

    def __init__(self, prior: Line | None = None) -> None:
        self._counted: deque[Counted] = deque(maxlen=_WINDOW)
        self._start: list[Counted] = []
        self.line, self.known = GUESS, False
        """`known` tells that the line is more than a guess."""
        if prior is not None:
            self.start(prior)
            self.known = True

    def start(self, line: Line) -> None:
        """Begin with a line that is not yet known to be right."""
        self.line = line
        lengths = [25 * 2**k for k in range(_ENOUGH)]
        self._start = [(n, max(1, round(line[0] + line[1] * n))) for n in lengths]

    def start_from(self, short: tuple[int, int | None], long: tuple[int, int | None]) -> None:
        """Begin with the line through two prompts, as far as they were counted."""
        if short[1] is not None and long[1] is not None:
            slope = (long[1] - short[1]) / (long[0] - short[0])
            if 0 < slope <= _STEEPEST:
                self.start((short[1] - slope * short[0], slope))

    def estimate(self, characters: int) -> int:
        """Tokens of a prompt that asks something of so many characters."""
        constant, slope = self.line
        return max(1, round(constant + slope * characters))

    def tokens(self, text: str) -> int:
        """Tokens of a text on its own."""
        return max(1, round(self.line[1] * len(text)))

    def learn(self, characters: int, tokens: int) -> None:
        """Take note of a prompt that was counted."""
        self._counted.append((characters, tokens))
        pairs = _pairs([*self._start, *self._counted])
        if len(pairs) >= _ENOUGH:
            self.line, seen = _line(pairs), _pairs(self._counted)
            # Trust takes nearly all of many prompts, doubt half of a few: outliers must do neither.
            if len(seen) >= _ENOUGH and _off(self.line, seen, 0.9) <= FAR:
                self.known = True
            elif len(seen) >= _FEW and _off(self.line, seen, 0.5) > FAR:
                self.known = False


class WarmPrompts:
    """Remembers what one model was asked, by digests.

    A server that did not have cached what it was expected to, three times in a row, is expected to
    have nothing until it tells otherwise.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._misses = clock, 0
        self._known: OrderedDict[bytes, tuple[int, float]] = OrderedDict()  # tokens, when

    def tokens(self, chat: Sequence[Message]) -> int:
        """Tokens at the beginning of a chat that its server has cached by all that is known."""
        return 0 if self._misses >= _MOST_MISSES else self._longest(chat)

    def learn(self, chat: Sequence[Message], prompt: int, cached: int) -> None:
        """A chat was read: how many tokens it had, and how many of them were cached."""
        if cached:
            self._misses = 0
        elif self._longest(chat):
            self._misses += 1
        sizes = [len(json.dumps(turn)) for turn in chat]
        # The last turn may be wrapped in words that the next prompt has around another one.
        *_, before, whole = [b"", *_digests(chat)]
        self._know(before, prompt * sum(sizes[:-1]) // sum(sizes))
        self._know(whole, prompt)

    def _longest(self, chat: Sequence[Message]) -> int:
        late = self._clock() - WARM_S
        found = (self._known.get(digest, (0, late)) for digest in _digests(chat))
        return max((tokens for tokens, seen in found if seen > late), default=0)

    def _know(self, digest: bytes, tokens: int) -> None:
        self._known.pop(digest, None)
        self._known[digest] = tokens, self._clock()
        if len(self._known) > _MOST_PROMPTS:
            self._known.popitem(last=False)


def _digests(chat: Sequence[Message]) -> Iterator[bytes]:
    """Of each of a chat's beginnings, the shortest first."""
    found = hashlib.blake2b(digest_size=16)
    for turn in chat:
        found.update(json.dumps(turn, sort_keys=True).encode() + b"\n")
        yield found.copy().digest()
