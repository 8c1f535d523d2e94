"""The HTTP client of upstream servers, and what its errors mean."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Iterator

import aiohttp
import httpx2
import openai

from controller.backends.openai.resilience import UpstreamError, retry_after_s
from controller.process.cost import Usage

MAX_RESPONSE_BYTES = 8 * 2**20

_KEEPALIVE_S = 30.0

REJECTED = "rejected"
"""Kind of error of a server that does not take a request as it is."""


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


def http_client(
    *,
    connect_timeout_s: float,
    max_connections: int,
    max_response_bytes: int,
) -> httpx2.AsyncClient:
    """A client that follows no redirects, reads no proxy settings and takes no huge responses.

    It speaks HTTP through aiohttp, in half the time. Once it is connected, it waits for bytes as
    long as its caller does.
    """

    async def limit(response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Limited(response.stream, max_response_bytes)

    return openai.DefaultAioHttpClient(
        timeout=httpx2.Timeout(None, connect=connect_timeout_s),
        limits=httpx2.Limits(max_connections=max_connections, keepalive_expiry=_KEEPALIVE_S),
        follow_redirects=False,
        trust_env=False,
        # A small compressed body may be a huge one.
        headers={"accept-encoding": "identity"},
        event_hooks={"response": [limit]},
    )


def upstream_error(error: Exception, wasted: Usage | None = None) -> UpstreamError:
    """What an error of the client says about the server.

    Its kind is all that is kept: messages of servers may quote keys and prompts.
    """
    if isinstance(error, openai.APIStatusError):
        return _status_error(error, wasted)
    causes = list(_chain(error))
    kinds = (kind for cls, kind in _KINDS if any(isinstance(cause, cls) for cause in causes))
    kind = next(kinds, "bad_response")
    return UpstreamError(kind, retryable=kind not in _GENERATED, wasted=wasted)


def unsent(error: Exception) -> bool:
    """Whether a request was never sent, as the server had closed a connection that was kept.

    llama.cpp does so after each stream.
    """
    return any(isinstance(cause, aiohttp.ClientConnectionResetError) for cause in _chain(error))


def _status_error(error: openai.APIStatusError, wasted: Usage | None) -> UpstreamError:
    status = error.status_code
    pause = retry_after_s(error.response.headers)
    if status == 429:
        return UpstreamError("rate_limited", retry_after_s=pause, wasted=wasted)
    if status >= 500 or status in (408, 409):
        return UpstreamError("server_error", retry_after_s=pause, wasted=wasted)
    ours = status in (401, 403, 404)
    kind = {401: "unauthorized", 403: "unauthorized", 404: "no_such_model"}.get(status, REJECTED)
    return UpstreamError(kind, retryable=False, blames_server=ours, wasted=wasted)


_KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (TooLargeError, "too_large"),
    (aiohttp.ClientConnectorDNSError, "dns"),
    (ssl.SSLError, "tls"),
    (aiohttp.ConnectionTimeoutError, "connect_timeout"),
    (aiohttp.ClientConnectorError, "refused"),
    (ConnectionResetError, "reset"),
    (aiohttp.ClientPayloadError, "truncated"),
    (aiohttp.ServerDisconnectedError, "reset"),
    (aiohttp.ClientError, "reset"),
    (json.JSONDecodeError, "bad_json"),
    (UnicodeDecodeError, "bad_json"),
    (openai.APIResponseValidationError, "bad_json"),
)
"""What an error means that is among the causes; the most telling first."""

_GENERATED = frozenset({"too_large", "truncated", "bad_json"})
"""Of a response that had begun: the server has done its work, and would do all of it again."""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
