"""Token buckets: of one process, or of several processes and machines, in Redis or Valkey."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import redis

from controller.errors import ConfigError

_log = logging.getLogger("allot.service")

_MOST = 10_000
_TIMEOUT_S, _PAUSE_S = 0.1, 1.0
"""The event loop waits for the store, so not for long, and after a failure not at once again."""


class Buckets:
    """Token buckets by name, each with up to a minute's worth, refilled evenly."""

    notes: tuple[str, ...] = ()
    """What people should know."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, float]] = OrderedDict()  # left, when

    def take(self, name: str, per_minute: float, taken: int = 1) -> float:
        """Take tokens, or none to look; how many are left then."""
        now = self._clock()
        left, seen = self._known.pop(name, (per_minute, now))
        left = min(per_minute, left + (now - seen) * per_minute / 60) - taken
        self._known[name] = left, now
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return left


class SharedBuckets(Buckets):
    """The same in a store, by its own clock.

    Args:
        url: of the store, such as `redis://127.0.0.1:6379/0`.
        fails_open: whether there are tokens while the store is away.

    Raises:
        ConfigError: the URL is none.
    """

    def __init__(self, url: str, *, fails_open: bool) -> None:
        try:
            client = redis.Redis.from_url(
                url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
            )
        except ValueError as error:
            raise ConfigError(f"shared: expected redis://HOST:PORT/DB: {error}") from None
        script = Path(__file__).with_name("bucket.lua").read_text()
        self._script = client.register_script(script)
        self._fails_open, self._not_before = fails_open, 0.0

    def take(self, name: str, per_minute: float, taken: int = 1) -> float:
        """See `Buckets.take`; by assumption while the store is away."""
        if time.monotonic() >= self._not_before:
            try:
                left = float(self._script(keys=[f"allot:{name}"], args=[per_minute, taken]))
            except (redis.RedisError, OSError) as error:
                self._not_before = time.monotonic() + _PAUSE_S
                self._tell(type(error).__name__)
            else:
                self._tell(None)
                return left
        return per_minute if self._fails_open else 0.0

    def _tell(self, why: str | None) -> None:
        if bool(self.notes) == bool(why):
            return
        event = "shared_limits_away" if why else "shared_limits_back"
        _log.warning(event, extra={"fields": {"why": why}})
        then = "are not kept" if self._fails_open else "let nothing through"
        self.notes = (f"shared limits {then}, as their store is away",) if why else ()
