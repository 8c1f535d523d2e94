"""What several services share in one store, a real one."""

import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest

from controller.errors import ConfigError
from controller.policy.pricing import Pricing
from controller.process.terms import Terms
from controller.server.config import Limits
from controller.server.limits import Budgets
from controller.server.shared import Shared, Store
from tests.controller.server.upstream import completion, replying

needs_store = pytest.mark.skipif(not shutil.which("redis-server"), reason="needs redis-server")


COOLDOWN_S, HEARD_S = 4.0, 0.3


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def store(port):
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


def together(port, *, fails_open=False, workers=1):
    return Shared(workers, Store(f"redis://127.0.0.1:{port}", fails_open=fails_open))


@needs_store
def test_services_spend_one_budget_together(serve, small, large):
    small.script(replying(500))
    large.script(completion(model="large"))
    port, limits = free_port(), Limits(escalations_per_minute=3)
    with store(port):
        services = [
            serve(small, large, max_retries=0, limits=limits, shared=together(port))
            for _ in range(2)
        ]
        found = [services[n % 2].ask().status_code for n in range(6)]
    assert found == [200, 200, 200, 503, 503, 503]


@needs_store
def test_processes_take_no_more_than_there_is_and_what_is_under_way():
    port, taken = free_port(), []
    limits = Limits(caller_escalations_per_minute=20)
    with store(port):
        budgets = [Budgets(limits, together(port).buckets()) for _ in range(4)]

        def spend(budget):
            while budget.exhausted("ann") is None:
                budget.take("ann")
                taken.append(1)

        threads = [threading.Thread(target=spend, args=(budget,)) for budget in budgets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert budgets[0].exhausted("bob") is None
    assert 20 <= len(taken) <= 20 + len(budgets)


@needs_store
@pytest.mark.parametrize("fails_open", [False, True])
def test_a_store_that_goes_away_opens_or_closes_as_chosen(fails_open):
    port, limits = free_port(), Limits(escalations_per_minute=2)
    shared = together(port, fails_open=fails_open)
    budget = Budgets(limits, shared.buckets())
    with store(port):
        budget.take("ann")
        assert budget.exhausted("ann") is None
        assert shared.notes == ()
    started = time.monotonic()
    for _ in range(50):
        assert budget.exhausted("ann") == (None if fails_open else "global_budget")
    assert time.monotonic() - started < 1
    assert "away" in shared.notes[0]
    with store(port):
        time.sleep(1.1)
        assert budget.exhausted("ann") is None
        assert shared.notes == ()


def test_an_address_that_is_none_is_told():
    with pytest.raises(ConfigError, match="redis://HOST:PORT"):
        Store("nowhere", fails_open=False)


@needs_store
def test_a_server_that_fails_is_left_alone_by_all_services(serve, small, large):
    """Failures of all count together; one probes, and closes it for all."""

    port = free_port()
    with store(port):
        shared = [together(port) for _ in range(3)]
        services = [
            serve(
                small,
                large,
                max_retries=0,
                breaker=map(impatient, map(one.breaker, ("a", "b"), ("small", "large"))).__next__,
            )
            for one in shared
        ]
        small.script(replying(500))
        for n in range(6):
            assert services[n % 3].ask(price=1e-5).json()["allot"]["unavailable"] == ["small"]
        assert 5 <= small.calls <= 6, "one may not have heard yet"
        time.sleep(HEARD_S)
        small.script(replying(500))
        for service in services:
            assert service.ask(price=1e-5).json()["allot"]["unavailable"] == ["small"]
        assert small.calls == 0
        for service in services:
            assert 'allot_model_available{model="small"} 0.0' in service.http.get("/metrics").text
        small.script(completion(model="small"))
        time.sleep(COOLDOWN_S)
        assert services[0].ask(price=2e-3).json()["allot"]["model"] == "small"
        time.sleep(HEARD_S)
        for service in services:
            assert service.ask(price=2e-3).json()["allot"]["model"] == "small"


def impatient(breaker):
    breaker.cooldown_s = COOLDOWN_S
    return breaker


@needs_store
def test_one_process_probes_for_all():
    port = free_port()
    with store(port):
        breakers = [impatient(together(port).breaker("url small", "small")) for _ in range(4)]
        for breaker in [*breakers, breakers[0]]:
            breaker.failed()
        time.sleep(HEARD_S)
        assert [breaker.admit() for breaker in breakers] == [False] * 4
        time.sleep(COOLDOWN_S)
        assert sum(breaker.admit() for breaker in breakers) == 1


@needs_store
def test_a_breaker_goes_on_alone_while_the_store_is_away():
    port = free_port()
    with store(port):
        one, other = (impatient(together(port).breaker("url small", "small")) for _ in range(2))
        for _ in range(5):
            one.failed()
        assert not one.allows
        assert not other.allows
    assert not one.admit()
    for _ in range(5):
        other.failed()
    time.sleep(COOLDOWN_S)
    assert one.admit()
    one.succeeded()
    assert one.admit()
    assert other.allows


@needs_store
def test_the_pace_is_kept_together(checkpoint):
    """What one has spent makes the other's price."""
    port, terms = free_port(), Terms(mean_cost=300)
    with store(port):
        one, other = (Pricing(checkpoint, terms, together(port).tally("m")) for _ in range(2))
        begins = other.price_for(Terms())
        for _ in range(5):
            one.count(Terms(), 2000.0)
        time.sleep(HEARD_S)
        assert other.price_for(Terms()) == one.price_for(Terms()) > begins
    # What is counted meanwhile is added once there is a store again.
    other.count(Terms(), 7.0)
    assert other.price_for(Terms()) == pytest.approx(one.price_for(Terms()), rel=0.05)
    with store(port):
        time.sleep(1.1)
        other.count(Terms(), 5.0)
        time.sleep(HEARD_S)
        found = together(port).tally("m").sums()
    assert found == (2, 12.0)


@needs_store
def test_what_is_told_again_since_the_reply_was_late_counts_once():
    port = free_port()

    class Late(Store):
        def ask(self, *asked):
            found, self.late = super().ask(*asked), not getattr(self, "late", False)
            return None if self.late else found

    with store(port):
        tally = Shared(1, Late(f"redis://127.0.0.1:{port}", fails_open=False)).tally("m")
        for spent in (7.0, 0.1, 5.0):
            tally.add(1, spent)
        other = together(port).tally("m")
        other.add(2, 3.0)
        assert other.sums() == (5, pytest.approx(15.1))


@needs_store
def test_room_is_for_all_and_of_those_that_live(monkeypatch):
    monkeypatch.setattr("controller.server.shared.ROOM_LASTS_S", 1.0)
    port = free_port()
    with store(port):
        one, other = (together(port, workers=2).room(6) for _ in range(2))
        assert [one.enter() for _ in range(5)] == [True] * 5
        assert [other.enter() for _ in range(2)] == [True, False]
        one.leave()
        assert other.enter()
        time.sleep(0.7)
        other.tell()
        time.sleep(0.5)
        # One of them died; four were its own.
        assert [other.enter() for _ in range(5)] == [True] * 4 + [False]
    # Without a store each has its half.
    assert not other.enter()
    for _ in range(4):
        other.leave()
    assert other.enter()
    assert not other.enter()


def test_what_a_policys_questions_cost_is_known_when_it_is_read_anew():
    shared = Shared()
    assert shared.tally("main 1") is shared.tally("main 1")
    assert shared.tally("main 1") is not shared.tally("main 2")
