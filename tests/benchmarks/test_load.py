"""The open loop measures what it says."""

import asyncio

import numpy as np

from benchmarks.load import Load, run
from benchmarks.upstream import SlowModel

HEAD = b"HTTP/1.1 %s\r\ncontent-length: 2\r\n\r\n{}"


def measured(load, delay_s=0.1, response=HEAD % b"200 OK"):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: SlowModel(delay_s, response), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            return await run(f"http://127.0.0.1:{port}/v1/chat/completions", {"n": 1}, load)
        finally:
            server.close()

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
    seconds = measured(Load(clients=4, rate=20, seconds=0.5), response=HEAD % b"500 No")
    assert np.isnan(seconds).all()
