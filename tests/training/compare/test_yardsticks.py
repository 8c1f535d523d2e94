"""Yardsticks: rules have kinds, nobody beats who sees what is right, selectors pick by price.

A bandit keeps to budgets, and learns which arm is worth its cost from the arms that it asked.
"""

from dataclasses import replace

import numpy as np
import pytest

from controller.policy.rules import CASCADES, RulePolicy, SelfConsistency
from envs.reward import price_range
from training.compare.simulate import Played, play
from training.compare.yardsticks import (
    NUM_BUDGETS,
    best_rule_utilities,
    clairvoyant,
    features_of,
    kind_of,
    learn_paced,
    pick_plans,
    select_plans,
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


def test_a_selector_picks_the_dear_plan_where_the_price_is_worth_it():
    plans = [
        Played(right=right, cost=cost, tokens=cost, rounds=cost, actions=np.zeros((3000, 4)))
        for right, cost in zip(RIGHT.T, COST.T, strict=True)
    ]
    known = np.column_stack([HARD, RNG.random(3000)]).astype(np.float32)
    new = np.array([[0, 0.5], [1, 0.5]], np.float32)  # an easy question and a hard one
    prices = np.array([1e-4, 1e-2, 1.0])  # 19 more units bring the easy one 0.05, the hard one 0.8
    choice, expected = select_plans(known, plans, new, prices)
    assert choice.tolist() == [[1, 1], [0, 1], [0, 0]]
    best = np.where(HARD[:, None], [1, 1, 0], [1, 0, 0])  # (Q, P)
    utility = RIGHT[:, None] - prices[:, None] * COST[:, None]  # (Q, P, plans)
    assert expected == pytest.approx(np.take_along_axis(utility, best[..., None], 2).mean((0, 2)))


def test_plans_that_are_all_the_same_are_picked_from_nevertheless():
    same = np.ones(40)
    plan = Played(right=same, cost=same, tokens=same, rounds=same, actions=np.zeros((40, 4)))
    known = RNG.random((40, 2)).astype(np.float32)
    choice, expected = select_plans(known, [plan, plan], known[:3], np.array([0.1]))
    assert choice.shape == (1, 3)
    assert expected == pytest.approx([0.9])


def test_few_plans_do_for_a_selector_the_best_one_first():
    """An arm that solves the hard ones is worth adding to one that solves the easy ones, once."""
    plans = [
        Played(right=right, cost=cost, tokens=cost, rounds=cost, actions=np.zeros((3000, 4)))
        for right, cost in zip(RIGHT.T, COST.T, strict=True)
    ]
    known = np.column_stack([HARD, RNG.random(3000)]).astype(np.float32)
    never = replace(plans[0], right=0 * plans[0].right)
    assert pick_plans(known, [never, plans[1], *plans], np.array([1e-2]), 8) in ([1, 2], [3, 2])
    assert pick_plans(known, plans, np.array([1e-2]), 1) == [1]
    assert pick_plans(known, plans, np.array([10.0]), 8) == []


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
