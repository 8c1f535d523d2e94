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


def reward(
    price: NDArray[np.float64], cost: NDArray[np.float64], right: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """1 for a right final answer, less price x the cost of this step; all (N,)."""
    return right - price * cost
