"""The ledger: what was consumed (`Usage`) and what that amounts to (`CostModel`)."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from controller.errors import ConfigError, check_range


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Counts of one attempt, or sums over several attempts of one model.

    Attributes:
        prefill_tokens: prompt tokens that went through the model.
        cached_tokens: prompt tokens whose keys and values were already there.
        decoded_tokens: tokens written, thinking included.
        reasoning_tokens: those of them that were thinking.
        verifier_tokens: tokens that a verifier read.
        cancelled_tokens: tokens written by attempts that were cancelled.
        serial_rounds: generation rounds that had to wait for one another.
        wall_s: seconds on the wall clock.
    """

    prefill_tokens: int = 0
    cached_tokens: int = 0
    decoded_tokens: int = 0
    reasoning_tokens: int = 0
    verifier_tokens: int = 0
    cancelled_tokens: int = 0
    serial_rounds: int = 0
    wall_s: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        theirs = vars(other)
        return Usage(**{name: count + theirs[name] for name, count in vars(self).items()})

    def __sub__(self, other: Usage) -> Usage:
        theirs = vars(other)
        return Usage(**{name: count - theirs[name] for name, count in vars(self).items()})

    @property
    def processed_tokens(self) -> int:
        """Tokens that went through the model, whoever needed them."""
        return (
            self.prefill_tokens + self.decoded_tokens + self.verifier_tokens + self.cancelled_tokens
        )


class Currency(NamedTuple):
    """What people are told costs in: dollars or seconds, so many a unit, or else the units.

    >>> TOKENS.text(231.4), Currency("dollars", 2e-7).text(231.4), Currency("seconds", 0.05).text(9)
    ('231', '$0.000046', '0.45 s')
    """

    name: str
    size: float

    def text(self, cost: float) -> str:
        """A cost, to two digits unless it is whole units."""
        if self == TOKENS:
            return f"{cost:.0f}"
        told = f"{Decimal(f'{cost * self.size:.2g}'):f}"
        return f"${told}" if self.name == "dollars" else f"{told} s"


TOKENS = Currency("small-model tokens", 1.0)


@dataclass(frozen=True, kw_only=True)
class InCurrency:
    """What is counted in units that may be worth dollars, or take seconds.

    Attributes:
        dollars, seconds: that a unit of cost is; None where costs are something else.
    """

    dollars: float | None = None
    seconds: float | None = None

    @property
    def currency(self) -> Currency:
        """What people are told costs in."""
        known = (("dollars", self.dollars), ("seconds", self.seconds))
        return next((Currency(name, size) for name, size in known if size), TOKENS)


@dataclass(frozen=True, kw_only=True)
class CostModel(InCurrency):
    """Usage -> cost, in units of one token that the first arm writes.

    In FLOPs a token that goes through a model costs 2 x parameters; a cached one nothing. Source:
    Kaplan et al. 2020 (arXiv 2001.08361), section 2.1. In dollars it costs what the list says,
    prompts less than what is written; in seconds what the machine takes, without those side by
    side.

    Attributes:
        weights: cost of one written token per rung, relative to the first arm's.
        reviser_weight: cost of one token that goes through the small model and its reviser.
        verifier_weight: of one that goes through the small model and its verifier.
        prompt_shares: cost of a prompt token per rung, relative to a written one's; empty for 1.
    """

    weights: tuple[float, ...]
    reviser_weight: float = 1.0
    verifier_weight: float = 1.0
    prompt_shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        shares = self.prompt_shares
        if shares and (len(shares) != len(self.weights) or min(shares) < 0):
            raise ConfigError(
                f"prompt_shares: expected {len(self.weights)} numbers from 0 up, one per rung, "
                f"found {shares}"
            )
        check_range(self, ("dollars", "seconds", "reviser_weight", "verifier_weight"), above=0)
        if len(self.weights) < 1 or self.weights[0] != 1.0 or min(self.weights) <= 0:
            raise ConfigError(
                "weights: expected 1.0 for the small model, then a positive number per rung, "
                f"found {self.weights}"
            )

    def price_of_worth(self, worth: float) -> float:
        """Accuracy per unit, where a right answer is worth so much of the currency."""
        return self.currency.size / worth
