"""Requests at a fixed rate, whether or not the earlier ones have been answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

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
    parts, request, count = urlsplit(url), request_of(url, body, key), int(load.rate * load.seconds)
    seconds = np.full(count, np.nan)
    start = time.perf_counter() + 0.5

    async def client(first: int) -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        for i in range(first, count, load.clients):
            due = start + i / load.rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            try:
                if await _exchange(reader, writer, request) == 200:
                    seconds[i] = time.perf_counter() - due
            except (OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.close()

    await asyncio.gather(*(client(i) for i in range(load.clients)))
    return seconds


def request_of(url: str, body: Mapping[str, object], key: str = "any") -> bytes:
    """A whole request of HTTP."""
    parts, data = urlsplit(url), json.dumps(body).encode()
    head = (
        f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def ask(url: str, request: bytes) -> int:
    """Status of a request on a connection of its own, read to its end."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        return await _exchange(reader, writer, request)
    finally:
        writer.close()


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> int:
    """Send a request, read its response; its status."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status, _, fields = head.partition(b"\r\n")
    lines = [line.split(b":", 1) for line in fields.strip().split(b"\r\n")]
    lengths = [int(value) for name, value in lines if name == b"content-length"]
    if lengths:
        await reader.readexactly(lengths[0])
    else:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readuntil(b"\r\n")
    return int(status.split()[1])
