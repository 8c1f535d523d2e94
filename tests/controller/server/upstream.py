"""A server of completions on a real socket that misbehaves as told."""

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress

from controller.backends.openai.endpoint import Endpoint
from controller.process.types import ModelSpec

OF_A_MODEL = ("name", "parameters", "max_new_tokens", "temperature", "prompt", "prompt_length")


def endpoint(url, model="small", **settings):
    """Where a model is asked, from its settings and those of the model itself."""
    known = {"name": model, "temperature": settings.get("body", {}).get("temperature")}
    known |= {name: settings.pop(name) for name in OF_A_MODEL if name in settings}
    return Endpoint(base_url=url, model=model, spec=ModelSpec(rung=0, **known), **settings)


def completion(
    text="Answer: 7", *, model="small", logprob=-0.1, n=1, finish="stop", message=None, **changes
):
    """The body of a chat completion."""
    tokens = max(1, len(text) // 2)
    choice = {
        "message": message or {"role": "assistant", "content": text},
        "finish_reason": finish,
        "logprobs": {"content": [{"token": "x", "logprob": logprob}] * tokens},
    }
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": i, **choice} for i in range(n)],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": tokens * n,
            "total_tokens": 10 + tokens * n,
        },
        **changes,
    }


REFUSAL = completion("", message={"content": None, "refusal": "No."})
CUT = completion(finish="length")


def replying(status, body=None, **how):
    """Answers every request with the same status and body."""

    async def reply(exchange):
        await exchange.reply(body or {}, status=status, **how)

    return reply


def script(upstreams, *behaviours):
    """Have several servers behave alike."""
    for upstream in upstreams:
        upstream.script(*behaviours)


class Exchange:
    """One request as the upstream sees it, and the means to answer it."""

    def __init__(self, path, headers, body, reader, writer):
        self.path, self.headers, self.body = path, headers, body
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes):
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, body, *, status=200, kind="application/json", headers=None, length=None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = {
            "content-type": kind,
            "content-length": str(len(data) if length is None else length),
            "connection": "close",
            **(headers or {}),
        }
        lines = [f"HTTP/1.1 {status} X", *(f"{k}: {v}" for k, v in head.items()), "", ""]
        await self.send("\r\n".join(lines).encode() + data)

    async def begin_stream(self):
        await self.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        )

    async def event(self, content=None, *, finish=None, model="small", **more):
        await self.delta(finish, model, more, **({} if content is None else {"content": content}))

    async def delta(self, finish=None, model="small", more=None, **delta):
        chunk = {
            "id": "c",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
            **(more or {}),
        }
        await self.send(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def reset(self):
        """Close with RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Upstream:
    """Answers each request by the next behaviour, the last one over and over.

    Args:
        behaviours: coroutine functions of an `Exchange`, or bodies to reply with.
    """

    def __init__(self, *behaviours):
        self.behaviours = list(behaviours) or [completion()]
        self.requests: list[Exchange] = []
        self.paths: dict[str, object] = {}
        """Bodies to reply with beside `/v1`."""
        self.models: object = []
        """What it lists of them, its whole reply, or its status; a 404 where that is None."""
        self.open, self.abandoned = 0, 0
        self._ready = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def calls(self):
        return len(self.requests)

    def script(self, *behaviours):
        self.behaviours = list(behaviours)
        self.requests.clear()
        self.abandoned = 0

    async def _serve(self, reader, writer):
        # One request per connection: waiting for the client to leave eats a byte.
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._serve_one(reader, writer)
        writer.close()

    async def _serve_one(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        exchange = Exchange(first.split()[1], headers, json.loads(raw or b"{}"), reader, writer)
        if exchange.path == "/v1/models":
            listed = {"object": "list", "data": self.models}
            body = listed if isinstance(self.models, list) else self.models
            refused = body if isinstance(body, int) else 404 if body is None else None
            await exchange.reply({} if refused else body, status=refused or 200)
            return
        if not exchange.path.startswith(("/v1/", "http://")):
            found = self.paths.get(exchange.path)
            await exchange.reply(found or {}, status=200 if found else 404)
            return
        self.requests.append(exchange)
        behaviour = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
        self.open += 1
        work = asyncio.create_task(
            behaviour(exchange) if isinstance(behaviour, Callable) else exchange.reply(behaviour)
        )
        gone = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.abandoned += 1
            else:
                work.result()
        finally:
            self.open -= 1
            work.cancel()
            gone.cancel()

    def _run(self, port):
        async def main():
            self._stop = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            server = await asyncio.start_server(self._serve, "127.0.0.1", port)
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._stop.wait()
            server.close()

        asyncio.run(main())

    @contextmanager
    def running(self, port=0):
        self._ready.clear()
        thread = threading.Thread(target=self._run, args=(port,), daemon=True)
        thread.start()
        self._ready.wait()
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()
