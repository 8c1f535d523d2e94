"""What callers may spend, whatever the policy would like to."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from controller.errors import ConfigError

_MAX_CALLERS = 10_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on requests and on what they may set off.

    Attributes:
        max_body_bytes: of a request.
        max_header_bytes: of a request, all headers together.
        body_timeout_s: for a request's body to arrive.
        max_in_flight: requests being answered at a time; more are turned away with 429.
        max_new_tokens: longest attempt that a client may ask for.
        default_deadline_s: for an answer, where a client does not say.
        max_deadline_s: longest that a client may wait.
        max_budget: hard cap on any question's cost; None for none.
        max_escalations: per question; None for what the controller was trained with.
        escalations_per_minute: of all callers together; None for no limit.
        caller_escalations_per_minute: of each caller; None for no limit.
    """

    max_body_bytes: int = 2**20
    max_header_bytes: int = 32 * 2**10
    body_timeout_s: float = 30.0
    max_in_flight: int = 1024
    max_new_tokens: int = 4096
    default_deadline_s: float = 120.0
    max_deadline_s: float = 600.0
    max_budget: float | None = None
    max_escalations: int | None = None
    escalations_per_minute: float | None = None
    caller_escalations_per_minute: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and (not 0 <= value < float("inf") or value != value):
                raise ConfigError(f"{name}: expected 0 or more, found {value}")
        if not 0 < self.default_deadline_s <= self.max_deadline_s:
            raise ConfigError(
                f"default_deadline_s: expected more than 0 and at most {self.max_deadline_s}, "
                f"found {self.default_deadline_s}"
            )


class Bucket:
    """A token bucket: up to a minute's worth at once, refilled evenly.

    Args:
        per_minute: rate.
        clock: monotonic seconds.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._left, self._seen = per_minute, clock()

    @property
    def left(self) -> float:
        """Tokens now."""
        now = self._clock()
        self._left += (now - self._seen) * self._per_minute / 60
        self._left, self._seen = min(self._left, self._per_minute), now
        return self._left

    def take(self) -> None:
        """Take one token."""
        self._left -= 1


class EscalationBudget:
    """Escalations that callers may still set off, each and together.

    It lies outside the policy: no question can talk its way past it.

    Args:
        limits: rates.
        clock: monotonic seconds.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = limits.caller_escalations_per_minute, clock
        total = limits.escalations_per_minute
        self._total = None if total is None else Bucket(total, clock)
        self._callers: OrderedDict[str, Bucket] = OrderedDict()

    def exhausted(self, caller: str) -> str | None:
        """Which budget is used up, `global_budget` or `caller_budget`; None if neither is."""
        if self._total is not None and self._total.left < 1:
            return "global_budget"
        bucket = self._bucket(caller)
        return "caller_budget" if bucket is not None and bucket.left < 1 else None

    def take(self, caller: str) -> None:
        """An escalation goes out."""
        for bucket in (self._total, self._bucket(caller)):
            if bucket is not None:
                bucket.take()

    def _bucket(self, caller: str) -> Bucket | None:
        if self._rate is None:
            return None
        bucket = self._callers.pop(caller, None) or Bucket(self._rate, self._clock)
        self._callers[caller] = bucket
        if len(self._callers) > _MAX_CALLERS:
            self._callers.popitem(last=False)
        return bucket
