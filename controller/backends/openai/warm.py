"""Prompts that a server has read lately, of which it finds the beginning of a next one cached."""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from controller.backends.prompts import Message

WARM_S = 300.0
"""How long hosted servers keep a prompt at least; others do while there is room."""
_MOST, _MOST_MISSES = 4096, 3


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
        if len(self._known) > _MOST:
            self._known.popitem(last=False)


def _digests(chat: Sequence[Message]) -> Iterator[bytes]:
    """Of each of a chat's beginnings, the shortest first."""
    found = hashlib.blake2b(digest_size=16)
    for turn in chat:
        found.update(json.dumps(turn, sort_keys=True).encode() + b"\n")
        yield found.copy().digest()
