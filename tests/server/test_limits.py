"""Budgets, breakers and where a key's owner stands."""

import pytest

from controller.backends.openai.resilience import BreakerState, CircuitBreaker
from controller.errors import ConfigError
from controller.server.config import Limits
from controller.server.limits import EscalationBudget


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_escalations_come_back_evenly():
    clock = Clock()
    budget = EscalationBudget(Limits(escalations_per_minute=6), clock)
    for _ in range(6):
        assert budget.exhausted("ann") is None
        budget.take("ann")
    assert budget.exhausted("bob") == "global_budget"
    clock.now = 10.1
    assert budget.exhausted("bob") is None
    budget.take("bob")
    assert budget.exhausted("bob") == "global_budget"


def test_callers_do_not_share_their_own_budget():
    budget = EscalationBudget(Limits(caller_escalations_per_minute=1), Clock())
    budget.take("ann")
    assert budget.exhausted("ann") == "caller_budget"
    assert budget.exhausted("bob") is None


def test_a_breaker_lets_one_probe_through():
    clock = Clock()
    breaker = CircuitBreaker(failures=2, cooldown_s=5, clock=clock)
    breaker.failed()
    assert breaker.allows
    breaker.failed()
    assert (breaker.allows, breaker.state) == (False, BreakerState.OPEN)
    clock.now = 5
    assert breaker.allows
    breaker.sent()
    assert not breaker.allows, "one probe at a time"
    breaker.failed()
    assert breaker.state is BreakerState.OPEN
    clock.now = 10
    breaker.sent()
    breaker.succeeded()
    assert (breaker.allows, breaker.state) == (True, BreakerState.CLOSED)


@pytest.mark.parametrize(
    "wrong", [{"max_in_flight": -1}, {"max_budget": float("nan")}, {"deadline_s": 0}]
)
def test_limits_are_checked(wrong):
    with pytest.raises(ConfigError):
        Limits(**wrong)
