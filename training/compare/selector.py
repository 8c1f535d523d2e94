"""The plan selector: the wording picks, for each question and price, one of the tuned rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.process.lockstep import Floats
from training.compare.simulate import Played

_TREES = 100
_LEAVES = (3, 10, 30, 100)
"""Least questions in a leaf, to choose from."""


def select_plans(
    known: NDArray[np.float32], plans: Sequence[Played], new: NDArray[np.float32], prices: Floats
) -> tuple[NDArray[np.int64], Floats]:
    """For each price and new question the plan of the highest expected utility.

    A forest of extremely randomised trees (Geurts et al. 2006) predicts the utility of every
    plan; how large its leaves are is chosen by the utility of what it picks out of bag.

    Args:
        known: (Q, F) features of questions that the plans were played on.
        plans: how each plan did on these.
        new: (Q', F) features of other questions.
        prices: (P,) accuracy per unit cost.

    Returns:
        (P, Q') positions in `plans`, and (P,) the utility of what is picked out of bag.
    """
    from sklearn.ensemble import ExtraTreesRegressor

    right, cost = (np.array([getattr(p, name) for p in plans]).T for name in ("right", "cost"))

    def forest(utility: Floats, leaf: int) -> Any:
        trees = ExtraTreesRegressor(
            _TREES,
            min_samples_leaf=leaf,
            max_features=0.5,
            bootstrap=True,
            oob_score=True,
            random_state=0,
        )
        return trees.fit(known, utility)

    def out_of_bag(utility: Floats, trees: Any) -> float:
        choice = trees.oob_prediction_.argmax(1)
        return float(utility[np.arange(len(utility)), choice].mean())

    middle = right - prices[len(prices) // 2] * cost  # (Q, plans)
    leaf = max(_LEAVES, key=lambda leaf: out_of_bag(middle, forest(middle, leaf)))
    choice, expected = [], []
    for price in prices:
        utility = right - price * cost
        trees = forest(utility, leaf)
        choice.append(trees.predict(new).argmax(1))
        expected.append(out_of_bag(utility, trees))
    return np.array(choice), np.array(expected)
