"""The HTTP client of upstream servers, and what its errors mean."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator

import httpx2
import openai

from controller.backends.resilience import UpstreamError, retry_after_s
from controller.cost import Usage

MAX_RESPONSE_BYTES = 8 * 2**20

_KEEPALIVE_S = 30.0


class TooLargeError(httpx2.ReadError):
    """A response is longer than it may be."""


class _Limited(httpx2.AsyncByteStream):
    """A response's bytes, up to a limit."""

    def __init__(self, stream: httpx2.AsyncByteStream, most: int) -> None:
        self._stream, self._left = stream, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._left -= len(chunk)
            if self._left < 0:
                raise TooLargeError("response longer than allowed")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class _LimitedTransport(httpx2.AsyncHTTPTransport):
    def __init__(self, max_response_bytes: int, limits: httpx2.Limits) -> None:
        super().__init__(limits=limits)
        self._most = max_response_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        # A small compressed body may be a huge one.
        request.headers["accept-encoding"] = "identity"
        response = await super().handle_async_request(request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Limited(response.stream, self._most)
        return response


def http_client(
    *,
    connect_timeout_s: float,
    read_timeout_s: float,
    max_connections: int,
    max_response_bytes: int,
) -> httpx2.AsyncClient:
    """A client that follows no redirects, reads no proxy settings and takes no huge responses."""
    limits = httpx2.Limits(
        max_connections=max_connections,
        max_keepalive_connections=max_connections,
        keepalive_expiry=_KEEPALIVE_S,
    )
    return httpx2.AsyncClient(
        transport=_LimitedTransport(max_response_bytes, limits),
        timeout=httpx2.Timeout(read_timeout_s, connect=connect_timeout_s),
        follow_redirects=False,
        trust_env=False,
    )


def upstream_error(error: Exception, wasted: Usage | None = None) -> UpstreamError:
    """What an error of the client says about the server.

    Its kind is all that is kept: messages of servers may quote keys and prompts.
    """
    if isinstance(error, openai.APIStatusError):
        return _status_error(error, wasted)
    causes = list(_chain(error))
    kind = next((kind for kind in map(_kind, causes) if kind), "bad_response")
    return UpstreamError(kind, wasted=wasted)


def _status_error(error: openai.APIStatusError, wasted: Usage | None) -> UpstreamError:
    status = error.status_code
    pause = retry_after_s(error.response.headers)
    if status == 429:
        return UpstreamError("rate_limited", retry_after_s=pause, wasted=wasted)
    if status >= 500 or status in (408, 409):
        return UpstreamError("server_error", retry_after_s=pause, wasted=wasted)
    ours = status in (401, 403, 404)
    kind = {401: "unauthorized", 403: "unauthorized", 404: "no_such_model"}.get(status, "rejected")
    return UpstreamError(kind, retryable=False, blames_server=ours, wasted=wasted)


def _kind(error: BaseException) -> str | None:
    # The most telling first: causes come from the outermost to the innermost.
    kinds: tuple[tuple[type[BaseException], str], ...] = (
        (TooLargeError, "too_large"),
        (httpx2.ConnectTimeout, "connect_timeout"),
        (httpx2.PoolTimeout, "busy"),
        (httpx2.TimeoutException, "read_timeout"),
        (httpx2.ConnectError, _connect_kind(error)),
        (httpx2.RemoteProtocolError, "truncated"),
        (httpx2.TransportError, "reset"),
        (json.JSONDecodeError, "bad_json"),
        (UnicodeDecodeError, "bad_json"),
        (openai.APIResponseValidationError, "bad_json"),
    )
    return next((kind for cls, kind in kinds if isinstance(error, cls)), None)


def _connect_kind(error: BaseException) -> str:
    causes = list(_chain(error))
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return "dns"
    return "tls" if any(isinstance(cause, ssl.SSLError) for cause in causes) else "refused"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
