"""What an answer may cost: one value from whoever asks to the observation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Self

from controller.errors import ConfigError, check_range

SMALLEST, LARGEST = 1e-12, 1e12
"""Prices and times beyond are mistakes, and too much for float32."""


PRICES = ("price", "worth", "accuracy", "mean_cost")
"""Terms that say what compute is worth, of which there is one at most."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What an asker wants of an answer.

    Attributes:
        price: accuracy per unit cost, the unit being one small-model token; the controller's
            own when None.
        worth: instead of a price: what a right answer is worth, in dollars or seconds where the
            controller counts these, else in small-model tokens.
        round_price: accuracy per serial round of generation; 0 if waiting is free.
        budget: hard cap on cost; None for no cap.
        accuracy: instead of a price: share of questions to be answered right.
        confidence: probability with which `accuracy` is kept; see
            `Calibration.price_for_accuracy`.
        mean_cost: instead of a price: small-model tokens per question on average.
        deadline_s: seconds until there must be an answer, of a service; None for its own.

    Raises:
        ConfigError: a number is out of range, or several of `PRICES`.
    """

    price: float | None = None
    worth: float | None = None
    round_price: float = 0.0
    budget: float | None = None
    accuracy: float | None = None
    confidence: float = 0.9
    mean_cost: float | None = None
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        stated = ("price", "worth", "mean_cost", "deadline_s")
        check_range(self, stated, least=SMALLEST, most=LARGEST)
        if self.round_price and not SMALLEST <= self.round_price <= LARGEST:
            raise ConfigError(
                f"round_price: expected 0, or a number from {SMALLEST:g} to {LARGEST:g}, found "
                f"{self.round_price}"
            )
        if self.budget != inf:
            check_range(self, ("budget",), least=0)
        if sum(getattr(self, name) is not None for name in PRICES) > 1:
            raise ConfigError(f"{', '.join(PRICES)}: expected at most one of them")

    @property
    def says_price(self) -> bool:
        """Whether it says what compute is worth, one way or another."""
        return any(getattr(self, name) is not None for name in PRICES)

    def at(self, price: float) -> Self:
        """The same at a price."""
        return replace(self, price=price, worth=None, accuracy=None, mean_cost=None)

    @property
    def known_price(self) -> float:
        """The price.

        Raises:
            ConfigError: it has yet to be found; see `controller.policy.pricing.Pricing`.
        """
        if self.price is None:
            raise ConfigError("price: expected one, found none here and none in the controller")
        return self.price
