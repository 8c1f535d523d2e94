"""Rules stand in for a policy that held-out questions do not show to be ahead."""

import numpy as np

from controller.policy.rules import AlwaysLarge, RulePolicy, SelfConsistency
from training.learn.difficulty import fold_of
from training.learn.floor import HeldOut, fit_floor, play_at

PRICES = np.array([1e-7, 1e-2])


def halves(validation, policy, config):
    fold = fold_of(len(validation.table), 2)
    tables = [validation.table.take(np.flatnonzero(fold == part)) for part in (0, 1)]
    return [
        HeldOut(table=table, known=None, played=play_at(policy, table, config, None, PRICES))
        for table in tables
    ]


def test_a_policy_that_spends_nothing_is_replaced_where_compute_is_cheap(validation, config):
    floor = fit_floor(halves(validation, RulePolicy(SelfConsistency(0)), config), config, PRICES)
    assert floor.rules[0] is not None
    assert floor.leads[0] < -0.3


def test_a_policy_that_always_asks_the_large_model_is_replaced_where_compute_is_dear(
    validation, config
):
    floor = fit_floor(halves(validation, RulePolicy(AlwaysLarge()), config), config, PRICES)
    assert floor.rules[1] is not None
    assert floor.leads[1] < 0


def test_a_policy_that_knows_the_answers_decides(validation, config):
    held = halves(validation, RulePolicy(AlwaysLarge()), config)
    free = [
        [
            type(p)(**{**vars(p), "right": np.ones_like(p.right), "cost": p.cost * 0})
            for p in e.played
        ]
        for e in held
    ]
    held = [HeldOut(table=e.table, known=None, played=f) for e, f in zip(held, free, strict=True)]
    floor = fit_floor(held, config, PRICES)
    assert floor.rules == (None, None)
    assert min(floor.leads) > 0
    assert floor.share == 0
