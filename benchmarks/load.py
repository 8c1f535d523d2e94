"""Requests at a fixed rate, whether or not the earlier ones have been answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import aiohttp
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Load:
    """An open loop.

    Attributes:
        clients: connections, each with one request at a time.
        rate: requests per second, of all clients together.
        seconds: how long.
    """

    clients: int = 64
    rate: float = 64.0
    seconds: float = 10.0


async def run(
    url: str, body: Mapping[str, object], load: Load, key: str = "any"
) -> NDArray[np.float64]:
    """Seconds from when each request was due to its answer, (n,); NaN where there was none.

    Time that a request waits because its client is still busy counts.
    """
    count, headers = int(load.rate * load.seconds), {"authorization": f"Bearer {key}"}
    seconds = np.full(count, np.nan)
    start = time.perf_counter() + 0.5

    async def client(first: int, session: aiohttp.ClientSession) -> None:
        for i in range(first, count, load.clients):
            due = start + i / load.rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            with suppress(aiohttp.ClientError):
                async with session.post(url, json=body, headers=headers) as reply:
                    await reply.read()
                    if reply.status == 200:
                        seconds[i] = time.perf_counter() - due

    connector = aiohttp.TCPConnector(limit=load.clients)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(client(i, session) for i in range(load.clients)))
    return seconds
