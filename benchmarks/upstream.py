"""A model server that takes a fixed time and next to no CPU."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import uvloop


def completion(model: str) -> dict[str, Any]:
    """What it always answers."""
    logprobs = [{"token": "x", "logprob": -0.1, "bytes": None, "top_logprobs": []}] * 4
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Answer: 7"},
                "finish_reason": "stop",
                "logprobs": {"content": logprobs},
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
    }


class SlowModel(asyncio.Protocol):
    """One connection; requests of a length that is told, one after the other.

    Args:
        delay_s: from the end of a request to its response.
        response: bytes of it.
    """

    def __init__(self, delay_s: float, response: bytes) -> None:
        self._delay_s, self._response, self._buffer = delay_s, response, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport: Any = transport  # uvloop's is no asyncio.Transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields.get(b"content-length", b"0"))
        if len(rest) >= length:
            self._buffer = rest[length:]
            asyncio.get_running_loop().call_later(self._delay_s, self._reply)

    def _reply(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._response)


async def serve(port: int, delay_s: float) -> None:
    """Serve for ever."""
    # Every model name is a part of this one, so that all who check it are content.
    body = json.dumps(completion("small-large")).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    response = head.encode() + b"\r\n" + body
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SlowModel(delay_s, response), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2])))
