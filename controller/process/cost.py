"""The ledger: what was consumed (`Usage`) and what that amounts to (`CostModel`)."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

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


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """Usage -> cost, in units of one token that the first arm writes.

    In FLOPs a token that goes through a model costs 2 x parameters; a cached one nothing. Source:
    Kaplan et al. 2020 (arXiv 2001.08361), section 2.1. In dollars it costs what the list says,
    prompts less than what is written.

    Attributes:
        weights: cost of one written token per rung, relative to the first arm's.
        reviser_weight: cost of one token that goes through the small model and its reviser.
        verifier_weight: of one that goes through the small model and its verifier.
        prompt_shares: cost of a prompt token per rung, relative to a written one's; empty for 1.
        dollars: that one unit costs; None where costs are FLOPs.
    """

    weights: tuple[float, ...]
    reviser_weight: float = 1.0
    verifier_weight: float = 1.0
    prompt_shares: tuple[float, ...] = ()
    dollars: float | None = None

    def __post_init__(self) -> None:
        shares = self.prompt_shares
        if shares and (len(shares) != len(self.weights) or min(shares) < 0):
            raise ConfigError(
                f"prompt_shares: expected {len(self.weights)} numbers from 0 up, one per rung, "
                f"found {shares}"
            )
        check_range(self, ("dollars", "reviser_weight", "verifier_weight"), above=0)
        if len(self.weights) < 1 or self.weights[0] != 1.0 or min(self.weights) <= 0:
            raise ConfigError(
                "weights: expected 1.0 for the small model, then a positive number per rung, "
                f"found {self.weights}"
            )

    def price_of_worth(self, worth: float) -> float:
        """Accuracy per unit, where a right answer is worth so many dollars, or else units."""
        return (self.dollars or 1.0) / worth


def cost_text(cost: float, dollars: float | None) -> str:
    """A cost in dollars to two digits where a unit is so many dollars, else in whole units.

    >>> cost_text(231.4, None), cost_text(231.4, 2e-7)
    ('231', '$0.000046')
    """
    return f"{cost:.0f}" if dollars is None else f"${Decimal(f'{cost * dollars:.2g}'):f}"
