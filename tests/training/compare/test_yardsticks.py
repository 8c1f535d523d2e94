"""Yardsticks: rules have kinds, and nobody beats who sees what is right."""

import numpy as np

from controller.policy.rules import CASCADES, RulePolicy, SelfConsistency
from envs.reward import price_range
from training.compare.simulate import play
from training.compare.yardsticks import best_rule_utilities, clairvoyant, kind_of


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
