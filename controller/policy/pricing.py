"""What compute is worth to those who ask a controller."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from controller.policy.targets import Pace, Tally
from controller.process.cost import CostModel
from controller.process.terms import Terms

if TYPE_CHECKING:
    from controller.checkpoint import AnyCheckpoint


class Pricing:
    """Finds the price that terms amount to.

    Args:
        checkpoint: knows its range of prices and its calibration.
        standing: of whoever runs the controller, for questions whose terms do not say; a mean
            cost is then kept from question to question, see `controller.policy.targets.Pace`. The
            middle of the range of prices if they do not say either.
        tally: of questions whose mean cost is kept; a new one when None.

    Raises:
        ConfigError: standing terms that are out of reach.
        CheckpointError: the checkpoint was saved without the calibration that these need.
    """

    def __init__(
        self,
        checkpoint: AnyCheckpoint,
        standing: Terms | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._checkpoint, self._pace = checkpoint, None
        self._price = math.sqrt(math.prod(checkpoint.price_range))
        if standing is not None and standing.mean_cost is not None:
            self._pace = Pace(checkpoint.known_calibration, standing.mean_cost, tally)
        elif standing is not None:
            self._price = self.price_for(standing)

    def price_for(self, terms: Terms) -> float:
        """The price that terms amount to.

        Raises:
            ConfigError: an accuracy or a mean cost that is out of reach.
            CheckpointError: the checkpoint was saved without the calibration that these need.
        """
        if terms.price is not None:
            return terms.price
        if terms.worth is not None:
            cost: CostModel = self._checkpoint.config.cost
            return cost.price_of_worth(terms.worth)
        if terms.accuracy is not None:
            calibration = self._checkpoint.known_calibration
            return calibration.price_for_accuracy(terms.accuracy, terms.confidence)
        if terms.mean_cost is not None:
            return self._checkpoint.known_calibration.price_for_cost(terms.mean_cost)
        return self._price if self._pace is None else self._pace.price()

    def count(self, terms: Terms, cost: float) -> None:
        """Take note of what a question has cost whose terms these were."""
        if self._pace is not None and not terms.says_price:
            self._pace.count(cost)
