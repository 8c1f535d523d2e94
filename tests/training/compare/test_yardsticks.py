"""Yardsticks: rules have kinds, nobody beats who sees what is right, and a bandit keeps to budgets.

It learns which arm is worth its cost from the arms that it asked.
"""

import numpy as np
import pytest

from controller.policy.rules import CASCADES, RulePolicy, SelfConsistency
from envs.reward import price_range
from training.compare.simulate import play
from training.compare.yardsticks import (
    NUM_BUDGETS,
    best_rule_utilities,
    clairvoyant,
    features_of,
    kind_of,
    learn_paced,
)

RNG = np.random.default_rng(0)
HARD = RNG.random(3000) < 0.5
RIGHT = np.where(HARD[:, None], [0.1, 0.9], [0.9, 0.95])  # (Q, R)
COST = np.broadcast_to([1.0, 20.0], RIGHT.shape)


def test_kinds_are_told_by_name_numbers_aside():
    assert {kind_of(name) for name in CASCADES} == {"cascade"}
    assert kind_of("self-consistency-8") == kind_of("greedy large attempt") == "static"
    assert kind_of("verified best of 16") == kind_of("verified best of n") == "verify"
    assert kind_of("of somebody else") == "other"


def test_rules_in_hindsight_are_at_least_as_good_as_any_and_clairvoyance_is_better(
    validation, config
):
    table = validation.table.take(np.arange(40))
    prices = price_range(config.cost_unit).grid(3)
    best = best_rule_utilities(table, config, prices)
    rule = play(RulePolicy(SelfConsistency(4)), table, config, price=1.0, repeats=1)
    for price, utility in zip(prices, best, strict=True):
        assert utility >= rule.utility(price).mean() - 1e-9
        assert clairvoyant(table, config, price).utility(price).mean() > utility


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
