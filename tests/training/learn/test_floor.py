"""Rules stand in for a policy that held-out questions do not show to be ahead."""

import numpy as np
import pytest

from controller.policy.rules import AlwaysLarge, RulePolicy, SelfConsistency
from training.compare.simulate import utilities
from training.learn.difficulty import fold_of
from training.learn.floor import Judged, Rulebook

PRICES = np.array([1e-7, 1e-2])


@pytest.fixture(scope="module")
def rulebook(validation, config):
    return Rulebook.screened(config, PRICES, validation.table, None)


@pytest.fixture(scope="module")
def halves(validation):
    fold = fold_of(len(validation.table), 2)
    return [validation.table.take(np.flatnonzero(fold == part)) for part in (0, 1)]


def held(rulebook, halves, policy):
    return [
        Judged(
            rules=rulebook.utilities(table, None),
            policy=utilities(RulePolicy(policy), table, rulebook.process, PRICES, None),
        )
        for table in halves
    ]


def test_few_rules_go_on_and_the_best_ones_are_among_them(rulebook, validation):
    utilities = rulebook.utilities(validation.table, None)
    assert utilities.shape == (2, len(rulebook.rules), len(validation.table))
    assert 2 <= len(rulebook.rules) <= 16
    assert rulebook.best(utilities).rules[1] == SelfConsistency(0)


def test_a_policy_that_spends_nothing_is_replaced_where_compute_is_cheap(rulebook, halves):
    floor = rulebook.floor(held(rulebook, halves, SelfConsistency(0)))
    assert floor.rules[0] is not None
    assert floor.leads[0] < -0.3


def test_a_policy_that_always_asks_the_large_model_is_replaced_where_compute_is_dear(
    rulebook, halves
):
    floor = rulebook.floor(held(rulebook, halves, AlwaysLarge()))
    assert floor.rules[1] is not None
    assert floor.leads[1] < 0


def test_a_policy_that_knows_the_answers_decides(rulebook, halves):
    omniscient = [
        Judged(rules=part.rules, policy=np.ones_like(part.policy))
        for part in held(rulebook, halves, AlwaysLarge())
    ]
    floor = rulebook.floor(omniscient)
    assert floor.rules == (None, None)
    assert min(floor.leads) > 0
    assert floor.share == 0
