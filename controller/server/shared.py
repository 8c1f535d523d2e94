"""Limits that several processes and machines keep together, in Redis or Valkey."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import redis

from controller.errors import ConfigError

_log = logging.getLogger("allot.service")

_TIMEOUT_S, _PAUSE_S = 0.1, 1.0
"""The event loop waits for the store, so not for long, and after a failure not at once again."""

_BUCKET = """
local rate, taken = tonumber(ARGV[1]), tonumber(ARGV[2])
local now = redis.call('TIME')
local at = now[1] + now[2] / 1e6
local known = redis.call('HMGET', KEYS[1], 'left', 'seen')
local left, seen = tonumber(known[1]) or rate, tonumber(known[2]) or at
left = math.min(rate, left + math.max(0, at - seen) * rate / 60) - taken
redis.call('HSET', KEYS[1], 'left', tostring(left), 'seen', tostring(at))
redis.call('EXPIRE', KEYS[1], 120)
return tostring(left)
"""


class SharedBuckets:
    """Token buckets under one roof, by the store's own clock.

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
        self._script = client.register_script(_BUCKET)
        self._fails_open, self._not_before, self.away = fails_open, 0.0, False

    def change(self, name: str, per_minute: float, taken: int = 0) -> float:
        """Take tokens from a bucket; how many are left then, by assumption where it is away."""
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
        if self.away != (why is not None):
            self.away = why is not None
            event = "shared_limits_away" if why else "shared_limits_back"
            _log.warning(event, extra={"fields": {"why": why}})

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know."""
        then = "are not kept" if self._fails_open else "let nothing through"
        return (f"shared limits {then}, as their store is away",) if self.away else ()


@dataclass(frozen=True)
class SharedBucket:
    """One of them; see `controller.server.limits.Bucket`."""

    buckets: SharedBuckets
    name: str
    per_minute: float

    @property
    def left(self) -> float:
        """Tokens now."""
        return self.buckets.change(self.name, self.per_minute)

    def take(self) -> None:
        """Take one token."""
        self.buckets.change(self.name, self.per_minute, 1)
