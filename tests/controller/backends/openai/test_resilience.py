"""When a server is left alone."""

from controller.backends.openai.resilience import CircuitBreaker


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_breaker_lets_one_probe_through():
    clock = Clock()
    breaker = CircuitBreaker(failures=2, cooldown_s=5, clock=clock)
    breaker.failed()
    assert breaker.allows
    breaker.failed()
    assert not breaker.allows
    clock.now = 5
    assert breaker.allows
    breaker.admit()
    assert not breaker.allows, "one probe at a time"
    breaker.failed()
    assert not breaker.allows
    clock.now = 10
    breaker.admit()
    breaker.succeeded()
    assert breaker.allows
    breaker.admit()
    assert breaker.allows, "closed again"
