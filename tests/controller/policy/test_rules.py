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
