"""One root for everything that `allot` raises on purpose, and ranges of settings."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from numbers import Real
from typing import Any


class AllotError(Exception):
    """Base class of all errors raised by allot."""


class ConfigError(AllotError, ValueError):
    """A setting is out of range or contradicts another one."""


class BackendError(AllotError, RuntimeError):
    """A language model could not make an attempt."""


class TraceFormatError(AllotError, ValueError):
    """A trace set is incomplete, damaged or of an unknown version."""


class CheckpointError(AllotError, ValueError):
    """A controller checkpoint is missing, damaged, hostile or does not fit."""


class IllegalActionError(AllotError, ValueError):
    """An action was chosen that its mask forbids."""


class EvaluationError(AllotError, ValueError):
    """A saved evaluation is missing, damaged or of an unknown version."""


def check_range(
    config: Any,
    names: Iterable[str],
    *,
    above: float = -inf,
    least: float = -inf,
    most: float = inf,
) -> None:
    """Refuse fields whose number, or a number of whose tuple, is outside a range; None is in any.

    Raises:
        ConfigError: one is outside, or not a number.
    """
    limits = ((above, "more than"), (least, "at least"), (most, "at most"))
    wanted = " and ".join(f"{words} {limit:g}" for limit, words in limits if abs(limit) < inf)
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            is_number = isinstance(number, Real)
            within = is_number and above < number < inf and least <= number <= most
            if number is not None and not within:
                finite = "a finite number " if not is_number or abs(number) == inf else ""
                raise ConfigError(f"{name}: expected {finite}{wanted}, found {number}")
