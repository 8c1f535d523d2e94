"""A contextual bandit with a budget: which arm to ask, learnt from the arms that it asked.

Source: ParetoBandit (arXiv 2604.00136), a LinUCB (Li et al. 2010, arXiv 1003.0146) over models
whose costs count at a price that a pacer moves until they come to a budget. Left out is what it has
for models that change: forgetting, and models that come and go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.process.lockstep import Floats, chance

NUM_BUDGETS = 16
_TRIALS = 6_000
"""Questions that it learns from, over again where there are fewer."""
_OPTIMISM = 0.1
"""Standard errors by which the chance of an arm that is little known is raised."""
_PACE = 0.05
"""Step of the pacer: share of what a question costs too much that goes into the price."""


@dataclass(frozen=True, kw_only=True)
class PacedBandit:
    """What was learnt, for each of B budgets.

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

    Arms may be free.

    Args:
        features: (Q, F).
        right: (Q, R) chance that an attempt by each arm is right, of which a draw is seen.
        cost: (Q, R) of such an attempt.
        seed: of the order of the questions and of the draws.
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
