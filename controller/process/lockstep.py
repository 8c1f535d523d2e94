"""State of many episodes side by side, whatever a step of them is.

The scalar environment, the vector environment and the deployed controller all keep their state
like this, with N = 1 or N in the thousands, so that they cannot disagree. Everything that depends
on the history is updated step by step, never summed afresh, which keeps the floats equal bit for
bit whatever N is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Singles = NDArray[np.float32]
Rows = Ints | None
"""Positions of some episodes, (n,); None for all of them."""


def chance(log_odds: Array) -> Floats:
    """Probabilities of log-odds, same shape; of what is below -700 as of that."""
    return np.asarray(1 / (1 + np.exp(-np.maximum(log_odds, -700))))


# Of a number these are five times as quick as NumPy's.


def at_least(values: Any, least: float) -> Any:
    """Each value, or `least` where that is more."""
    return np.maximum(values, least) if isinstance(values, np.ndarray) else max(values, least)


def at_most(values: Any, most: float) -> Any:
    """Each value, or `most` where that is less."""
    return np.minimum(values, most) if isinstance(values, np.ndarray) else min(values, most)


def integers(values: Any) -> Any:
    """The same as integers."""
    return values.astype(np.int64) if isinstance(values, np.ndarray) else int(values)


def where(flags: Any, values: Any, other: Any) -> Any:
    """Each value whose flag is set, else `other`."""
    if isinstance(flags, np.ndarray):
        return np.where(flags, values, other)
    return values if flags else other


def stacked(rows: Sequence[Array], dtype: Any = None) -> Array:
    """Arrays (n,) as (k, n), quicker than `np.array`, which looks at every entry first.

    Numbers, as `Lockstep.looked_at` gives them, come as (k,).
    """
    if not rows[0].ndim:
        return np.fromiter(rows, dtype or np.float64, len(rows))
    return np.concatenate(rows, dtype=dtype).reshape(len(rows), -1)


class Lockstep:
    """N episodes side by side.

    Attributes (arrays over N unless a shape is given):
        at: 0 to N-1.
        price: accuracy per unit cost.
        round_price: accuracy per serial round.
        budget: hard cap on cost; inf when there is none.
        spent: cost so far.
        tokens: tokens processed so far, all models.
        rounds: serial rounds so far.
        prompt_tokens: (N, R).
        difficulty: log-odds that a rung's attempt is right, (N, R); NaN if unknown.
    """

    config: Any

    def __init__(self, config: Any, num_episodes: int) -> None:
        n, r = num_episodes, config.num_rungs
        self.config, self.num_episodes, self.at = config, n, np.arange(n)
        self.price, self.round_price = np.zeros(n), np.zeros(n)
        self.budget = np.full(n, np.inf)
        self.spent, self.tokens = np.zeros(n), np.zeros(n)
        self.rounds = np.zeros(n, np.int64)
        self.prompt_tokens = np.zeros((n, r), np.int64)
        self.difficulty = np.full((n, r), np.nan)

    def begin(
        self,
        rows: Ints,
        *,
        price: Floats,
        budget: Floats,
        prompt_tokens: Ints,
        difficulty: Floats,
        round_price: Floats | float = 0.0,
    ) -> None:
        """Begin new episodes in `rows`, (n,), nothing spent yet; see the attributes."""
        self.price[rows], self.budget[rows] = price, budget
        self.round_price[rows] = round_price
        self.prompt_tokens[rows], self.difficulty[rows] = prompt_tokens, difficulty
        self.spent[rows] = self.tokens[rows] = self.rounds[rows] = 0

    def part(self, rows: Rows) -> Self:
        """The episodes of `rows`, to be looked at under the same names."""
        if rows is None:
            return self
        whole, own = self.place
        rows = own[rows]
        part = object.__new__(type(self))
        # Whatever else is wanted of it is looked up below, since most of it never is.
        part.__dict__.update(
            config=self.config, num_episodes=len(rows), at=np.arange(len(rows)), _of=(whole, rows)
        )
        return part

    def looked_at(self, rows: Rows) -> Self:
        """The same, for what is only computed from them: features, costs and masks."""
        return self.part(rows)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if "_of" not in self.__dict__:
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
            whole, rows = self._of
            value = self.__dict__[name] = getattr(whole, name)[rows]
            return value

    @property
    def place(self) -> tuple[Self, Ints]:
        """All episodes that these are a part of, and the positions there, (n,)."""
        return self.__dict__.get("_of", (self, self.at))

    @property
    def expected_lengths(self) -> Any:
        """What the cost of an action follows from."""
        return self.config.mean_lengths

    @property
    def worst_lengths(self) -> Any:
        """The same at the most."""
        return self.config.worst_lengths

    def at_worst(self) -> Self:
        """The same where nothing is cheaper than it has to be."""
        return self

    def charge(self, rows: Ints, cost: Array, tokens: Array) -> None:
        """Put cost and tokens processed on the bill of `rows`, all (n,)."""
        self.spent[rows] += cost
        self.tokens[rows] += tokens

    def expected_cost(self) -> Floats:
        """Expected cost of the actions whose cost a policy sees, one row for each, (P, n)."""
        lengths = self.expected_lengths
        return stacked([spec.cost(self, lengths) for spec in self.config.priced.values()])

    def mask(self, rows: Rows = None) -> Bools:
        """Allowed actions, (n, A), in `rows` or everywhere; STOP always is."""
        e, choices = self.looked_at(rows), self.config.choices
        allowed = [spec.legal(e, width) for spec, width in choices]
        bounded = e.budget < np.inf
        if bounded.any() if isinstance(bounded, np.ndarray) else bounded:
            left, worst, e = e.budget - e.spent, e.worst_lengths, e.at_worst()
            for place, (spec, width) in enumerate(choices[1:], 1):
                cost = spec.cost(e, worst)
                if width > 1:
                    cost = cost + (width - 1) * e.config.token_cost[spec.rung] * worst[spec.rung]
                allowed[place] = allowed[place] & (cost <= left)
        return stacked(allowed, np.bool_).reshape(len(choices), -1).T
