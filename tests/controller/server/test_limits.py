"""Budgets, and what a choice may not be."""

from dataclasses import replace

import numpy as np
import pytest

from controller.backends.base import run_now
from controller.core import Choice, Episode
from controller.process.actions import ActionKind
from controller.process.menu import PAIR
from controller.process.terms import Terms
from controller.process.types import Question
from controller.server.config import Limits
from controller.server.limits import Budgets, Restricted, unwanted
from controller.server.shared import Buckets
from tests.scripted import MODELS, PROCESS, Scripted


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_escalations_come_back_evenly():
    clock = Clock()
    budget = Budgets(Limits(escalations_per_minute=6), Buckets(clock))
    for _ in range(6):
        assert budget.exhausted("ann") is None
        budget.take("ann")
    assert budget.exhausted("bob") == "global_budget"
    clock.now = 10.1
    assert budget.exhausted("bob") is None
    budget.take("bob")
    assert budget.exhausted("bob") == "global_budget"


def test_callers_do_not_share_their_own_budget():
    budget = Budgets(Limits(caller_escalations_per_minute=1), Buckets(Clock()))
    budget.take("ann")
    assert budget.exhausted("ann") == "caller_budget"
    assert budget.exhausted("bob") is None


class Wishes:
    """Chooses the first action of its wishes that is allowed."""

    def __init__(self, *wishes):
        self.wishes = [ActionKind(wish) for wish in wishes]

    def choose(self, episode, mask):
        allowed = [a for a, ok in zip(episode.config.actions, mask[0], strict=True) if ok]
        kinds = {action.kind: action for action in allowed}
        action = next((kinds[wish] for wish in self.wishes if wish in kinds), allowed[0])
        names = {str(a): float(a == action) for a in episode.config.actions}
        return Choice(
            action=action,
            probabilities=names,
            value=0.0,
            observation={},
            leader=episode.answer,
            cost=episode.cost,
        )


def restricted(*wishes, limits=None, late=False, process=PROCESS, **settings):
    backend = Scripted(MODELS, ["1"], ["2"])
    episode = Episode(Question(question_id="q", text="q"), backend, process, Terms(price=1e-3))
    run_now(episode.begin())
    decider = Restricted(
        inner=Wishes(*wishes),
        backend=backend,
        budget=Budgets(limits or Limits(), Buckets()),
        caller="ann",
        **{"max_escalations": None, "out_of_time": lambda: late, **settings},
    )
    return decider, episode


def kind_chosen(decider, episode):
    return decider.choose(episode, episode.mask()).action.kind


def test_without_limits_the_policy_chooses():
    decider, episode = restricted("escalate")
    assert kind_chosen(decider, episode) is ActionKind.ESCALATE
    assert (decider.limited, decider.degraded) == (set(), set())


def test_a_question_is_not_given_up_unless_its_asker_says_so():
    assert kind_chosen(*restricted("stop", "sample")) is ActionKind.SAMPLE
    assert kind_chosen(*restricted("stop", may_give_up=True)) is ActionKind.STOP


def test_a_model_that_is_down_is_told_only_where_it_was_wanted():
    for wish, told in (("escalate", {"large"}), ("sample", set())):
        decider, episode = restricted(wish, "sample")
        decider.down.add(1)
        assert kind_chosen(decider, episode) is ActionKind.SAMPLE
        assert decider.degraded == told


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"late": True}, "deadline"),
        ({"max_escalations": 0}, "request_budget"),
        ({"limits": Limits(escalations_per_minute=0)}, "global_budget"),
        ({"limits": Limits(caller_escalations_per_minute=0)}, "caller_budget"),
    ],
)
def test_what_is_spent_or_over_is_not_offered_and_named(settings, reason):
    decider, episode = restricted("escalate", "sample", **settings)
    assert kind_chosen(decider, episode) is not ActionKind.ESCALATE
    assert decider.limited == {reason}


def test_a_revision_by_a_large_model_is_an_escalation():
    arms = tuple(replace(arm, revises=arm.name == "large") for arm in PAIR)
    process = replace(PROCESS, arms=arms)
    for settings, reason in (
        ({"max_escalations": 0}, "request_budget"),
        ({"limits": Limits(escalations_per_minute=0)}, "global_budget"),
        ({"unwanted": unwanted(["large"], process, MODELS)}, "without"),
    ):
        decider, episode = restricted("sample", process=process, **settings)
        (attempt,) = run_now(episode.take(decider.choose(episode, episode.mask()).action))
        assert attempt.model == "small"
        assert "REVISE(large)" in np.array(process.actions.names)[episode.mask()[0]]
        decider.inner = Wishes("revise", "stop")
        assert kind_chosen(decider, episode) is ActionKind.STOP
        assert decider.limited == {reason}
    decider, episode = restricted(
        "sample", process=process, limits=Limits(escalations_per_minute=1)
    )
    run_now(episode.take(decider.choose(episode, episode.mask()).action))
    decider.inner = Wishes("revise")
    assert kind_chosen(decider, episode) is ActionKind.REVISE
    assert decider.budget.exhausted("ann") == "global_budget"


@pytest.mark.parametrize(
    ("most", "minute", "reason"),
    [(2, 2, None), (1, 2, "request_budget"), (2, 1, "global_budget")],
)
def test_each_judgement_by_a_large_model_is_an_escalation(most, minute, reason):
    arms = tuple(replace(arm, verifies=arm.name == "large") for arm in PAIR)
    process, limits = (
        replace(PROCESS, arms=arms, verifies=True),
        Limits(escalations_per_minute=minute),
    )
    decider, episode = restricted("sample", process=process, limits=limits, max_escalations=most)
    decider.backend.verifies = True
    for _ in range(2):
        run_now(episode.take(decider.choose(episode, episode.mask()).action))
    decider.inner = Wishes("verify", "stop")
    chosen = kind_chosen(decider, episode)
    assert chosen is (ActionKind.STOP if reason else ActionKind.VERIFY)
    assert decider.limited == ({reason} if reason else set())
    if not reason:
        assert decider.budget.exhausted("ann") == "global_budget"
