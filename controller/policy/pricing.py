"""What compute is worth to those who ask a controller."""

from __future__ import annotations

import math

import numpy as np

from controller.checkpoint import AnyCheckpoint
from controller.process.terms import Terms

PACE_QUESTIONS = 100
"""Questions over which a debt or a surplus is made up for."""


class Tally:
    """How many questions there were and what they have cost."""

    def __init__(self) -> None:
        self._questions, self._spent = 0, 0.0

    def add(self, questions: int, spent: float) -> None:
        """Take note of questions and their cost."""
        self._questions += questions
        self._spent += spent

    def sums(self) -> tuple[int, float]:
        """Questions and cost so far."""
        return self._questions, self._spent


class Pricing:
    """Finds the price that terms amount to.

    A mean cost that standing terms ask for is kept over a stream of questions: what these have cost
    too much or too little is spread over those to come, so that it is kept also where they are
    harder or easier than those of the calibration.

    Args:
        checkpoint: knows its range of prices and its calibration.
        standing: of whoever runs the controller, for questions whose terms do not say. The middle
            of the range of prices if they do not say either.
        tally: of the questions whose mean cost is kept; a new one when None.

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
        self._checkpoint, self._tally = checkpoint, tally or Tally()
        self._mean_cost: float | None = None
        self._price = math.sqrt(math.prod(checkpoint.price_range))
        if standing is not None:
            self._price = self.price_for(standing)
            self._mean_cost = standing.mean_cost

    def price_for(self, terms: Terms) -> float:
        """The price that terms amount to.

        Raises:
            ConfigError: an accuracy or a mean cost that is out of reach.
            CheckpointError: the checkpoint was saved without the calibration that these need.
        """
        if terms.price is not None:
            return terms.price
        if terms.worth is not None:
            return float(self._checkpoint.config.cost.price_of_worth(terms.worth))
        if terms.accuracy is not None:
            calibration = self._checkpoint.known_calibration
            return calibration.price_for_accuracy(terms.accuracy, terms.confidence)
        if terms.mean_cost is not None:
            return self._checkpoint.known_calibration.price_for_cost(terms.mean_cost)
        if self._mean_cost is None:
            return self._price
        questions, spent = self._tally.sums()
        owed = self._mean_cost * questions - spent
        wanted = self._mean_cost + owed / PACE_QUESTIONS
        calibration = self._checkpoint.known_calibration
        return calibration.price_for_cost(float(np.clip(wanted, *calibration.cost_range())))

    def count(self, terms: Terms, cost: float) -> None:
        """Take note of what a question has cost whose terms these were."""
        if self._mean_cost is not None and not terms.says_price:
            self._tally.add(1, cost)
