"""Rules that are learnt: the plan selector, and a bandit with a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.process.lockstep import Floats, chance
from training.compare.simulate import Played
from training.learn.forests import NUM_TREES, grow

_LEAVES = (3, 10, 30, 100)
"""Least questions in a leaf, to choose from."""


def select_plans(
    known: NDArray[np.float32], plans: Sequence[Played], new: NDArray[np.float32], prices: Floats
) -> tuple[NDArray[np.int64], Floats]:
    """For each price and new question the plan of the highest expected utility.

    Of Q known questions, features (Q, F), there is how each plan did; new ones are (Q', F).

    A forest of extremely randomised trees (Geurts et al. 2006) predicts the utility of every
    plan; how large its leaves are is chosen by the utility of what it picks out of bag.

    Returns:
        (P, Q') positions in `plans`, and (P,) the utility of what is picked out of bag.
    """
    right, cost = (np.array([getattr(p, name) for p in plans]).T for name in ("right", "cost"))
    known, new = (np.ascontiguousarray(x, np.float32) for x in (known, new))

    def chosen(price: float, leaf: int) -> tuple[NDArray[np.int64], float]:
        """The best plan of each new question, and the utility of what is picked out of bag."""
        utility = right - price * cost  # (Q, plans)
        told, held = np.zeros((len(new), len(plans))), np.zeros(utility.shape)
        times = np.zeros(len(known))
        for tree, shown in grow(known, utility, min_samples_leaf=leaf, max_features=0.5):
            told += tree.predict(new, check_input=False)
            held[shown == 0] += tree.predict(known[shown == 0], check_input=False)
            times += shown == 0
        best = (held / np.maximum(times, 1)[:, None]).argmax(1)
        return (told / NUM_TREES).argmax(1), float(utility[np.arange(len(utility)), best].mean())

    middle = prices[len(prices) // 2]
    leaf = max(_LEAVES, key=lambda leaf: chosen(middle, leaf)[1])
    choice, expected = zip(*(chosen(price, leaf) for price in prices), strict=True)
    return np.array(choice), np.array(expected)


NUM_BUDGETS = 16
_TRIALS = 6_000
"""Questions that it learns from, over again where there are fewer."""
_OPTIMISM = 0.1
"""Standard errors by which the chance of an arm that is little known is raised."""
_PACE = 0.05
"""Step of the pacer: share of what a question costs too much that goes into the price."""


@dataclass(frozen=True, kw_only=True)
class PacedBandit:
    """What was learnt about which arm to ask, for each of B budgets, from arms that were asked.

    Source: ParetoBandit (arXiv 2604.00136), a LinUCB (Li et al. 2010, arXiv 1003.0146) over models
    whose costs count at a price that a pacer moves until they come to a budget. Left out is what it
    has for models that change.

    Attributes:
        weights: (B, R, F) from a question's features to the chance that an arm is right.
        prices: (B,) of a unit of cost, as the pacer left them.
        costs: (R,) mean cost of each arm.
    """

    weights: Floats
    prices: Floats
    costs: Floats

    def choose(self, features: Floats) -> NDArray[np.int64]:
        """The arm of highest worth for each budget and question, -1 where none has any, (B, n)."""
        chance = np.einsum("brf,nf->bnr", self.weights, features)
        worth = chance - (self.prices[:, None] * self.costs)[:, None]  # (B, n, R)
        return np.where(worth.max(-1) > 0, worth.argmax(-1), -1)


def features_of(difficulty: Floats) -> Floats:
    """Chances of the arms as the prompt tells them, and 1, (n, R + 1), of log-odds (n, R)."""
    chances = chance(np.nan_to_num(difficulty))
    return np.column_stack([chances, np.ones(len(chances))])


def learn_paced(features: Floats, right: Floats, cost: Floats, seed: int = 0) -> PacedBandit:
    """Learn by asking one arm about each question, under budgets from a part of the cheapest up.

    Features are (Q, F), chances that an attempt by each arm is `right` and its `cost` (Q, R); a
    draw of the former is seen. From the seed follow the order of the questions and the draws.

    Arms may be free.
    """
    rng, means = np.random.default_rng(seed), cost.mean(0)
    dearest = means.max() or 1.0
    cheapest = means.min(initial=dearest, where=means > 0)
    budgets = np.geomspace(cheapest / 8, dearest, NUM_BUDGETS)  # (B,)
    b, (num, width), arms = len(budgets), features.shape, cost.shape[1]
    inverse = np.broadcast_to(np.eye(width), (b, arms, width, width)).copy()
    earned, prices, rows = np.zeros((b, arms, width)), np.zeros(b), np.arange(b)
    kept: list[Floats] = []
    for trial in range(_TRIALS):
        if trial % num == 0:
            order = rng.permutation(num)
        q = order[trial % num]
        x = features[q]
        known = inverse @ x  # (B, R, F)
        chance = np.einsum("brf,brf->br", known, earned)
        bonus = _OPTIMISM * np.sqrt(np.einsum("brf,f->br", known, x))
        worth = chance + bonus - prices[:, None] * means
        arm = worth.argmax(1)  # (B,)
        asks = worth[rows, arm] > 0
        reward = rng.random() < right[q, arm]
        spent = np.where(asks, cost[q, arm], 0.0)
        towards = known[rows, arm]  # (B, F)
        # Sherman and Morrison: the inverse with one more question.
        step = towards[:, :, None] * towards[:, None] / (1 + towards @ x)[:, None, None]
        inverse[rows, arm] -= step * asks[:, None, None]
        earned[rows, arm] += (reward & asks)[:, None] * x
        prices = np.maximum(prices + _PACE * (spent / budgets - 1) / dearest, 0.0)
        if trial >= _TRIALS // 2:
            kept.append(prices)
    weights = np.einsum("brfg,brg->brf", inverse, earned)
    return PacedBandit(weights=weights, prices=np.mean(kept, 0), costs=means)
