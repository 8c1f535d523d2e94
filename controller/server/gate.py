"""What every request goes through before a route reads it."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.server.config import LOOPBACK
from controller.server.keys import Keys
from controller.server.ops import Metrics
from controller.server.replies import error_json

MAX_BODY_BYTES, MAX_HEADER_BYTES = 2**20, 32 * 2**10
BODY_TIMEOUT_S = 30.0


class Gate:
    """Counts requests, and turns away those that no route should see.

    Without keys these include requests of other sites' pages: any page can have its visitors'
    browsers send requests to loopback. Their `Origin` tells, or their `Host` if the site's name
    has been made to mean this machine.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, keys: Keys, paths: frozenset[str]) -> None:
        self._app, self._metrics, self._keys, self._paths = app, metrics, keys, paths

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
            await (self._refusal(scope) or self._app)(scope, receive, watched)
        finally:
            self._metrics.requests.labels(path, str(status or "gone")).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            return _refuse(431, "headers: too large")
        foreign = None if self._keys.required else _foreign(scope)
        if foreign is None:
            return None
        return _refuse(403, f"{foreign}: expected this machine's, as no key is needed here")


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


def _refuse(status: int, message: str) -> JSONResponse:
    return JSONResponse(error_json(message, "invalid_request_error"), status)


async def body_of(request: Request) -> bytes:
    """The whole body.

    Raises:
        HTTPException: it is too large, or does not arrive.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise HTTPException(413, f"body: expected at most {MAX_BODY_BYTES} bytes")
    except (TimeoutError, ClientDisconnect):
        raise HTTPException(408, "body: did not arrive in time") from None
    return bytes(body)
