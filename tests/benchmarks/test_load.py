"""The open loop measures what it says."""

import asyncio

import numpy as np
from aiohttp.test_utils import TestServer

from benchmarks.load import Load, run
from benchmarks.upstream import slow_model


def measured(load, delay_s=0.1, faults=0):
    async def main():
        async with TestServer(slow_model(delay_s, faults)) as server:
            return await run(str(server.make_url("/v1/chat/completions")), {"model": "small"}, load)

    return asyncio.run(main())


def test_a_model_with_time_to_spare_takes_its_own_time():
    seconds = measured(Load(clients=8, rate=20, seconds=1))
    assert len(seconds) == 20
    assert seconds.min() >= 0.1


def test_waiting_for_a_busy_client_counts():
    """Twice as many requests as can be answered: the last one waits for half of the others."""
    seconds = measured(Load(clients=1, rate=20, seconds=1))
    assert seconds[-1] > 0.9 > 0.3 > seconds[0]


def test_failures_are_no_latencies():
    seconds = measured(Load(clients=4, rate=20, seconds=0.5), faults=1)
    assert np.isnan(seconds).all()
