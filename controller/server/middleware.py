"""What every request goes through before anything reads it."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.server.config import LOOPBACK
from controller.server.keys import Keys
from controller.server.ops import Metrics
from controller.server.replies import error_json

MAX_BODY_BYTES, MAX_HEADER_BYTES = 2**20, 32 * 2**10
BODY_TIMEOUT_S = 30.0


class LimitSize:
    """Turns away headers and bodies that are too large, and bodies that do not arrive.

    The body is read here, so that everything behind finds it complete.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if sum(len(n) + len(v) for n, v in scope["headers"]) > MAX_HEADER_BYTES:
            await _refuse(431, "headers: too large")(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await _read(receive, MAX_BODY_BYTES)
        except TimeoutError:
            await _refuse(408, "body: did not arrive in time")(scope, receive, send)
            return
        if body is None:
            message = f"body: expected at most {MAX_BODY_BYTES} bytes"
            await _refuse(413, message)(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)


async def _read(receive: Receive, most: int) -> bytes | None:
    """The whole body; None if it is too long."""
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > most:
            return None
        chunks.append(chunk)
        more = message.get("more_body", False)
    return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body once and then what the server has to say."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


class LoopbackOnly:
    """Turns away what web pages of others send to a service that asks nobody for a key.

    A page of any site can have its visitors' browsers send requests to loopback; their `Origin`
    tells, or their `Host` if the site's name has been made to mean this machine.
    """

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        foreign = scope["type"] == "http" and not self._keys.required and _foreign(scope)
        if foreign:
            message = f"{foreign}: expected this machine's, as no key is needed here"
            await _refuse(403, message)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _foreign(scope: Scope) -> str | None:
    """The header that names another machine; None if there is none."""
    for name, value in scope["headers"]:
        if name in (b"host", b"origin"):
            prefix = "//" if name == b"host" else ""
            try:
                host = urlsplit(prefix + value.decode("latin-1")).hostname
            except ValueError:
                host = None
            if host not in LOOPBACK:
                return str(name.decode())
    return None


class Observe:
    """Counts requests by path and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        started, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._metrics.requests.labels(path, str(status or "gone")).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)


def _refuse(status: int, message: str) -> JSONResponse:
    return JSONResponse(error_json(message, "invalid_request_error"), status)
