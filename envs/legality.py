"""What people may ask of an environment, and what becomes of actions that its mask forbids."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from controller.errors import ConfigError, IllegalActionError
from envs.reward import LogUniform

Illegal = Literal["raise", "stop", "penalty"]
"""What an action that the mask forbids does: raise an error; count as STOP, for algorithms without
masks; or count as STOP and cost `PENALTY`."""

PENALTY = 1.0
"""As much as a right answer is worth."""


def check_settings(illegal: str, **ranges: LogUniform | None) -> None:
    """Check how an environment treats illegal actions, and what it draws from.

    Raises:
        ConfigError: an unknown way, or a range of another type.
    """
    if illegal not in get_args(Illegal):
        raise ConfigError(f"illegal: expected one of {list(get_args(Illegal))}, found {illegal!r}")
    for name, values in ranges.items():
        if not isinstance(values, LogUniform | None):
            raise ConfigError(f"{name}: expected LogUniform(low=, high=) or None, found {values!r}")


def whole_option(options: Mapping[str, Any], name: str, drawn: int, count: int) -> int:
    """A position that `reset` is told, or the one that was drawn.

    Raises:
        ConfigError: it is no whole number, or none of 0 to count - 1.
    """
    value = options.get(name, drawn)
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not 0 <= value < count:
        raise ConfigError(f"{name}: expected a whole number from 0 to {count - 1}, found {value!r}")
    return int(value)


def number_option(options: Mapping[str, Any], name: str, drawn: float) -> float:
    """A number that `reset` is told, or the one that was drawn; `Terms` knows its range.

    Raises:
        ConfigError: it is no number.
    """
    value = options.get(name, drawn)
    if not isinstance(value, Real) or isinstance(value, bool) or math.isnan(value):
        raise ConfigError(f"{name}: expected a number, found {value!r}")
    return float(value)


def check_actions(actions: NDArray[Any], ignored: NDArray[np.bool_], count: int) -> None:
    """Check that actions are positions in an action set, whether legal now or not.

    Args:
        actions: of N environments.
        ignored: (N,) environments whose action does not matter.
        count: A.

    Raises:
        IllegalActionError: another shape or type, or a number that stands for no action.
    """
    expected = f"whole numbers from 0 to {count - 1}"
    if actions.shape != ignored.shape or actions.dtype.kind not in "iu":
        raise IllegalActionError(
            f"actions: expected {expected} of shape {ignored.shape}, found {actions.dtype} "
            f"of shape {actions.shape}"
        )
    outside = np.flatnonzero(((actions < 0) | (actions >= count)) & ~ignored)
    if len(outside):
        first = int(outside[0])
        raise IllegalActionError(
            f"environment {first}: expected {expected}, found {int(actions[first])}"
        )
