"""Hand-made rules at states that are known by hand."""

from dataclasses import replace

import pytest

from controller.policy.rules import (
    AdaptiveConsistency,
    AlwaysLarge,
    LogprobCascade,
    RulePolicy,
    SelfConsistency,
    VoteCascade,
    rule_families,
)
from controller.process.actions import Tier
from controller.process.cost import CostModel
from controller.process.menu import Arm
from tests.controller.process.test_episodes import attempt, begun


def chosen(rule, episodes):
    position = int(RulePolicy(rule).act(episodes, episodes.mask())[0])
    return episodes.config.actions.names[position]


@pytest.mark.parametrize(
    ("rule", "answers", "action"),
    [
        (SelfConsistency(0), (), "STOP"),
        (SelfConsistency(2), (0,), "SAMPLE"),
        (SelfConsistency(2), (0, 1), "STOP"),
        (AlwaysLarge(), (), "ESCALATE"),
        (AdaptiveConsistency(0.9, 4), (0, 0), "SAMPLE"),
        (AdaptiveConsistency(0.9, 4), (0, 0, 0), "STOP"),
        (VoteCascade(2, 0.6), (0, 1), "ESCALATE"),
        (VoteCascade(2, 0.6), (0, 0), "STOP"),
        (LogprobCascade(-0.4), (0,), "ESCALATE"),
        (LogprobCascade(-0.6), (0,), "STOP"),
    ],
)
def test_a_rule_does_what_its_name_says(process, rule, answers, action):
    episodes = begun(process)
    for answer in answers:
        attempt(episodes, answer)
    assert chosen(rule, episodes) == action


def test_a_rule_stops_where_its_wish_is_not_allowed(process):
    assert chosen(AlwaysLarge(), begun(process, budget=50)) == "STOP"


def test_a_rule_that_may_not_stop_takes_the_first_allowed_action(process):
    episodes = begun(process)
    mask = episodes.mask()
    mask[:, 0] = False
    assert process.actions.names[RulePolicy(SelfConsistency(0)).act(episodes, mask)[0]] == "SAMPLE"


def test_families_need_what_they_use(process):
    few = replace(process, max_samples=4)
    plain = rule_families(replace(few, max_revisions=0, verifies=False))
    all_of_them = rule_families(replace(few, max_revisions=1, verifies=True))
    assert set(all_of_them) - set(plain) == {
        "revise-n",
        "verified best of 4",
        "verified best of n",
        "verifier stop",
        "verifier cascade",
    }
    assert all(plain.values())


@pytest.mark.parametrize(("arms", "pairs"), [(5, 10), (16, 120), (40, 112)])
def test_rules_of_a_large_menu_are_spread_over_it(process, arms, pairs):
    menu = replace(
        process,
        cost=CostModel(weights=tuple(map(float, range(1, arms + 1)))),
        vote_weights=(1,) * arms,
        mean_completion_tokens=(10.0,) * arms,
        max_completion_tokens=(32,) * arms,
        arms=tuple(Arm(name=f"arm{i:02d}", tier=Tier.SMALL, family=str(i)) for i in range(arms)),
    )
    rules = rule_families(menu)["logprob cascade"]
    played = {rule.arms for rule in rules}
    assert len(played) == pairs
    assert len({arm for pair in played for arm in pair}) >= 0.9 * arms
