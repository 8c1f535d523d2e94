"""A bandit learns which arm is worth its cost from the arms that it asked, within a budget."""

import numpy as np
import pytest

from training.compare.learned import NUM_BUDGETS, features_of, learn_paced

RNG = np.random.default_rng(0)
HARD = RNG.random(3000) < 0.5
RIGHT = np.where(HARD[:, None], [0.1, 0.9], [0.9, 0.95])  # (Q, R)
COST = np.broadcast_to([1.0, 20.0], RIGHT.shape)


@pytest.fixture(scope="module")
def bandit():
    return learn_paced(features_of(np.where(HARD[:, None], [-2.0, 1.0], [2.0, 1.0])), RIGHT, COST)


def test_a_budget_decides_how_much_goes_to_the_dear_arm_and_hard_questions_do_first(bandit):
    new = np.array([[-2.0, 1.0], [2.0, 1.0]])  # a hard one and an easy one
    choices = bandit.choose(features_of(new)).tolist()  # by budget
    assert choices[0][0] == -1, "a small budget has no use for hard questions"
    assert [1, 0] in choices, "in between, hard ones alone are worth the dear arm"
    assert choices[-1] == [1, 1], "with enough for all of them it is always asked"
    assert len(choices) == NUM_BUDGETS


def test_what_it_thinks_of_the_arms_is_what_they_are(bandit):
    middle = next(
        b
        for b, pair in enumerate(bandit.choose(features_of(np.array([[-2.0, 1.0], [2.0, 1.0]]))))
        if pair.tolist() == [1, 0]
    )
    chance = features_of(np.array([[-2.0, 1.0], [2.0, 1.0]])) @ bandit.weights[middle].T
    assert chance[0, 1] == pytest.approx(0.9, abs=0.03)
    assert chance[1, 0] == pytest.approx(0.9, abs=0.03)


def test_prices_fall_as_budgets_rise(bandit):
    assert bandit.prices[0] > bandit.prices[NUM_BUDGETS // 2] >= bandit.prices[-1]


@pytest.mark.parametrize("cost", [[0.0, 20.0], [0.0, 0.0]])
def test_arms_may_be_free(cost):
    free = learn_paced(
        features_of(np.where(HARD[:, None], [-2.0, 1.0], [2.0, 1.0])),
        RIGHT,
        np.broadcast_to(cost, RIGHT.shape),
    )
    assert np.isfinite(free.weights).all()
    assert np.isfinite(free.prices).all()
    assert (free.choose(features_of(np.array([[2.0, 1.0]]))) >= 0).all(), "one costs nothing"
