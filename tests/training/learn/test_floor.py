"""Rules stand in for a policy that held-out questions do not show to be ahead."""

from dataclasses import replace

import numpy as np
import pytest

from controller.policy.rules import AlwaysLarge, RulePolicy, SelfConsistency
from controller.process.episodes import Plan
from envs.granularity import replay_of
from training.compare.simulate import utilities
from training.learn.difficulty import fold_of
from training.learn.floor import PlanFollower, Rulebook

PRICES = np.array([1e-7, 1e-2])


@pytest.fixture(scope="module")
def rulebook(validation, config):
    return Rulebook.screened(config, PRICES, validation.table, None)


@pytest.fixture(scope="module")
def halves(validation):
    fold = fold_of(len(validation.table), 2)
    return [validation.table.take(np.flatnonzero(fold == part)) for part in (0, 1)]


def floor(rulebook, halves, rule, policy=lambda judged: judged):
    """What a policy that does as a rule is worth, by halves of the questions."""
    tuned, held = (rulebook.utilities(table, None) for table in halves)
    judged = utilities(RulePolicy(rule), halves[1], rulebook.process, PRICES, None)
    return rulebook.floor(tuned, held, policy(judged))


def test_few_rules_go_on_and_the_best_ones_are_among_them(rulebook, validation):
    utilities = rulebook.utilities(validation.table, None)
    assert utilities.shape == (2, len(rulebook.rules), len(validation.table))
    assert 2 <= len(rulebook.rules) <= 16
    assert rulebook.best(utilities).rules[1] == SelfConsistency(0)


def test_a_policy_that_spends_nothing_is_replaced_where_compute_is_cheap(rulebook, halves):
    found = floor(rulebook, halves, SelfConsistency(0))
    assert found.rules[0] is not None
    assert found.leads[0] < -0.3


def test_a_policy_that_always_asks_the_large_model_is_replaced_where_compute_is_dear(
    rulebook, halves
):
    found = floor(rulebook, halves, AlwaysLarge())
    assert found.rules[1] is not None
    assert found.leads[1] < 0


def test_a_policy_that_knows_the_answers_decides(rulebook, halves):
    found = floor(rulebook, halves, AlwaysLarge(), np.ones_like)
    assert found.rules == (None, None)
    assert min(found.leads) > 0
    assert found.share == 0


def test_a_policy_that_is_behind_by_chance_alone_decides(rulebook, halves):
    """By 0.01 on the mean of questions whose leads vary by 1, or vary by nothing."""
    tuned, held = (rulebook.utilities(table, None) for table in halves)
    best = held[np.arange(2), tuned.sum(2).argmax(1)]
    swings = np.resize([1.0, -1.0], best.shape[1] // 2 * 2)
    best, held = best[:, : len(swings)], held[..., : len(swings)]
    assert rulebook.floor(tuned, held, best - 0.01 + swings).share == 0
    assert rulebook.floor(tuned, held, best - 0.01).share == 1


def test_the_plan_of_the_highest_worth_is_followed_if_any_has_worth(validation, config):
    small, large = SelfConsistency(1), AlwaysLarge()
    process = replace(config, plans=(Plan(str(small), 1.0), Plan(str(large), 1.0)))
    replay = replay_of(validation.table, process, 4)
    replay.begin(np.arange(4), np.arange(4), 1e-3)
    episodes = replay.episodes
    episodes.plan_worths[:] = [[0.2, 0.1], [0.1, 0.2], [-0.1, -0.2], [np.nan, np.nan]]
    follower = PlanFollower([small, large], otherwise=RulePolicy(large))
    taken = [process.actions[action].kind for action in follower.act(episodes, episodes.mask())]
    assert taken == ["sample", "escalate", "stop", "escalate"]
