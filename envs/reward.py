"""Reward and prices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PriceRange:
    """Prices that episodes are drawn with, log-uniformly.

    Attributes:
        low: least accuracy per unit cost.
        high: greatest accuracy per unit cost.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < float("inf"):
            raise ConfigError(
                f"price range: expected 0 < low <= high, found low={self.low}, high={self.high}"
            )

    @classmethod
    def for_unit(cls, cost_unit: float) -> PriceRange:
        """Three decades: one small attempt costs 0.03% to 30% of a right answer."""
        return cls(low=3e-4 / cost_unit, high=0.3 / cost_unit)

    def at(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """Prices for numbers in [0, 1], same shape."""
        return np.asarray(self.low * (self.high / self.low) ** uniform)

    def grid(self, num_prices: int) -> NDArray[np.float64]:
        """Evenly spaced on a log scale, both ends included, (num_prices,)."""
        return np.geomspace(self.low, self.high, num_prices)


ROUND_PRICES = PriceRange(low=1e-3, high=3e-2)
"""Prices of a serial round that controllers are trained for, accuracy per round."""


def reward(
    right: NDArray[np.bool_], compute: NDArray[np.float64], rounds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """1 for a right final answer, less what this step's compute and rounds are worth; all (N,)."""
    return right - compute - rounds
