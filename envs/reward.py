"""Reward, and what prices and budgets are drawn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import numpy as np

from controller.errors import ConfigError
from controller.process.lockstep import Bools, Floats


@dataclass(frozen=True, kw_only=True)
class LogUniform:
    """A range that prices or budgets are drawn from, evenly on a log scale."""

    low: float
    high: float

    def __post_init__(self) -> None:
        numbers = all(isinstance(end, Real) for end in (self.low, self.high))
        if not numbers or not 0 < self.low <= self.high < float("inf"):
            raise ConfigError(
                f"range: expected 0 < low <= high, found low={self.low!r}, high={self.high!r}"
            )

    def at(self, uniform: Floats) -> Floats:
        """Values for numbers in [0, 1], same shape."""
        return np.asarray(self.low * (self.high / self.low) ** uniform)

    def grid(self, count: int) -> Floats:
        """Evenly spaced on a log scale, both ends included, (count,)."""
        return np.geomspace(self.low, self.high, count)


def price_range(cost_unit: float) -> LogUniform:
    """Three decades: one small attempt costs 0.03% to 30% of a right answer."""
    return LogUniform(low=3e-4 / cost_unit, high=0.3 / cost_unit)


def budget_range(cost_unit: float) -> LogUniform:
    """From one small attempt to a hundred."""
    return LogUniform(low=cost_unit, high=100 * cost_unit)


ROUND_PRICES = LogUniform(low=1e-3, high=3e-2)
"""Prices of a serial round that controllers are trained for, accuracy per round."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step came to in each of N episodes, (N,) each.

    Attributes:
        right, wrong: whether it ended so; to end without an answer is neither.
        compute: price x cost of the step.
        rounds: round price x its serial rounds.
    """

    right: Bools
    wrong: Bools
    compute: Floats
    rounds: Floats


Reward = Callable[[Step], Floats]
"""From a step of N episodes to N rewards."""


def utility(step: Step) -> Floats:
    """1 for a right final answer, less what the step's compute and rounds are worth; (N,)."""
    return step.right - step.compute - step.rounds
