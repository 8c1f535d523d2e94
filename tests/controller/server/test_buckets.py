"""Limits of several services in one store, a real one."""

import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest

from controller.errors import ConfigError
from controller.server.buckets import SharedBuckets
from controller.server.config import Limits
from controller.server.limits import EscalationBudget
from tests.controller.server.upstream import completion

needs_store = pytest.mark.skipif(not shutil.which("redis-server"), reason="needs redis-server")


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


def buckets(port, *, fails_open=False):
    return SharedBuckets(f"redis://127.0.0.1:{port}", fails_open=fails_open)


@needs_store
def test_services_spend_one_budget_together(serve, small, large):
    async def fail(exchange):
        await exchange.reply({}, status=500)

    small.script(fail)
    large.script(completion(model="large"))
    port, limits = free_port(), Limits(escalations_per_minute=3)
    with store(port):
        services = [
            serve(small, large, max_retries=0, limits=limits, buckets=buckets(port))
            for _ in range(2)
        ]
        found = [services[n % 2].ask().status_code for n in range(6)]
    assert found == [200, 200, 200, 503, 503, 503]


@needs_store
def test_processes_take_no_more_than_there_is_and_what_is_under_way():
    port, taken = free_port(), []
    limits = Limits(caller_escalations_per_minute=20)
    with store(port):
        budgets = [EscalationBudget(limits, buckets(port)) for _ in range(4)]

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
    budget = EscalationBudget(limits, buckets(port, fails_open=fails_open))
    with store(port):
        budget.take("ann")
        assert budget.exhausted("ann") is None
        assert budget.notes == ()
    started = time.monotonic()
    for _ in range(50):
        assert budget.exhausted("ann") == (None if fails_open else "global_budget")
    assert time.monotonic() - started < 1
    assert "away" in budget.notes[0]
    with store(port):
        time.sleep(1.1)
        assert budget.exhausted("ann") is None
        assert budget.notes == ()


def test_an_address_that_is_none_is_told():
    with pytest.raises(ConfigError, match="redis://HOST:PORT"):
        SharedBuckets("nowhere", fails_open=False)
