"""From a mean cost or an accuracy to the price that brings it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controller.errors import CheckpointError, ConfigError


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How a controller did at P prices on questions that it was not chosen by.

    Attributes:
        prices: ascending.
        cost: mean cost per question at each price.
        right: questions answered right at each price, one episode each.
        questions: how many were asked for `right`.
    """

    prices: tuple[float, ...]
    cost: tuple[float, ...]
    right: tuple[int, ...]
    questions: int

    def __post_init__(self) -> None:
        sizes = {len(self.prices), len(self.cost), len(self.right)}
        if len(sizes) != 1 or len(self.prices) < 2 or not np.all(np.diff(self.prices) > 0):
            raise CheckpointError(
                "calibration: expected ascending prices with a cost and a count each, found "
                f"{len(self.prices)} prices, {len(self.cost)} costs and {len(self.right)} counts"
            )
        if not all(0 <= r <= self.questions for r in self.right) or min(self.cost) < 0:
            raise CheckpointError(
                f"calibration: expected counts of 0..{self.questions} and costs of 0 or more"
            )

    def price_for_cost(self, mean_cost: float) -> float:
        """Price at which a question costs so much on average.

        Raises:
            ConfigError: no price in range brings that cost.
        """
        cost = np.minimum.accumulate(np.array(self.cost))  # (P,), never rising
        if not cost[-1] <= mean_cost <= cost[0]:
            raise ConfigError(
                f"mean_cost: expected {cost[-1]:.4g} to {cost[0]:.4g} small-model tokens, which "
                f"is what this controller spends, found {mean_cost:.4g}"
            )
        log_price = np.log(np.array(self.prices))
        return float(np.exp(np.interp(mean_cost, cost[::-1], log_price[::-1])))

    def cost_at(self, price: float) -> float:
        """Mean cost of a question at a price; that of the nearest price in range."""
        return float(np.interp(np.log(price), np.log(self.prices), self.cost))

    def cost_range(self) -> tuple[float, float]:
        """Least and greatest mean cost that a price in range brings."""
        return min(self.cost), self.cost[0]

    def price_for_accuracy(self, accuracy: float, confidence: float = 0.9) -> float:
        """Highest price whose accuracy is at least so high, with a guarantee.

        With probability `confidence` over the questions of the calibration, accuracy on
        further questions of the same kind is not below `accuracy`. Prices are tested from
        the lowest up, each by an exact binomial test, until one fails.

        Source: Angelopoulos et al. 2021, "Learn then Test" (arXiv 2110.01052), fixed
        sequence testing.

        Raises:
            ConfigError: not even the lowest price can be relied on for that.
        """
        if not (0 < accuracy < 1 and 0 < confidence < 1):
            raise ConfigError(
                f"accuracy, confidence: expected 0..1, found {accuracy} and {confidence}"
            )
        from scipy.special import bdtrc

        found = None
        for price, right in zip(self.prices, self.right, strict=True):
            if right == 0 or bdtrc(right - 1, self.questions, accuracy) > 1 - confidence:
                break
            found = price
        if found is None:
            best = max(self.right) / self.questions
            raise ConfigError(
                f"accuracy: {accuracy:.1%} cannot be relied on with confidence {confidence:.0%}; "
                f"this controller was right on {best:.1%} of {self.questions} questions at most"
            )
        return found
