"""What went wrong with an upstream server; when to ask again, otherwise, or not for a while."""

from __future__ import annotations

import json
import logging
import random
import re
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import httpx2
import openai

from controller.backends.base import HINTS
from controller.errors import BackendError
from controller.process.cost import Usage

_log = logging.getLogger("allot.upstream")

_NEEDED = frozenset({"model", "messages", "stream"})
OPTIONAL = frozenset(
    {
        *("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "logprobs"),
        *HINTS,
    }
)
"""Fields of clients that servers take or refuse whatever their values, and answer without."""
_SUCCESSORS = {"max_tokens": "max_completion_tokens"}
"""Names under which some servers take a field that they refuse."""

_BAD_REQUEST = (400, 422)
_LATER = (408, 409, 424, 498)
"""Statuses below 500 of servers that may answer later: 424 is TGI's, 498 is Groq's."""
_STATUSES = {401: "unauthorized", 402: "no_credit", 403: "unauthorized", 404: "no_such_model"}
_TOO_LONG = re.compile(
    r"context.?(length|window|size)|too long|token count.+exceeds|max_new_tokens.+must be <",
    re.IGNORECASE,
)
_FILTERED = re.compile(r"content_(filter|policy_violation)")
_BAD_KEY = re.compile(r"API key (not valid|expired)|API_KEY_INVALID")
"""Said by Gemini's servers with a 400."""
_SAID = {r"insufficient_quota": 402, r"rate_?limit": 429, r"overloaded": 529}
"""Errors in words that come where no status tells."""

REJECTED, TOO_LONG, FILTERED = "rejected", "context_length_exceeded", "content_filter"
"""Kinds of errors of a server that does not take a request as it is."""
PERMANENT = frozenset({REJECTED, TOO_LONG, FILTERED, "unauthorized", "no_such_model", "no_credit"})
"""Kinds of errors that the same request would meet again."""
MAX_RETRY_AFTER_S = 30.0
"""Servers that want longer pauses are not asked again."""


class UpstreamError(BackendError):
    """One try at an upstream server failed.

    Attributes:
        kind: what went wrong, one word; safe to show to anyone.
        retryable: whether the same request may go through later.
        blames_server: whether it speaks against the server, not against the request.
        wasted: what the try consumed all the same, as far as is known.
    """

    def __init__(
        self,
        kind: str,
        *,
        retryable: bool = True,
        blames_server: bool = True,
        retry_after_s: float | None = None,
        wasted: Usage | None = None,
    ) -> None:
        super().__init__(kind)
        self.kind, self.retryable, self.blames_server = kind, retryable, blames_server
        self.retry_after_s, self.wasted = retry_after_s, wasted or Usage()


class TooLargeError(httpx2.ReadError):
    """A response is longer than it may be."""


class CompressedError(httpx2.ReadError):
    """A response is compressed, against what its request says: who knows what it unpacks to."""


def upstream_error(error: Exception, wasted: Usage | None = None) -> UpstreamError:
    """What an error of the client says about the server.

    Its kind is all that is kept: messages of servers may quote keys and prompts.
    """
    if isinstance(error, openai.APIStatusError):
        pause = retry_after_s(error.response.headers)
        return _status_error(error.status_code, f"{error.message} {error.body}", pause, wasted)
    if isinstance(error, openai.APIError) and error.body:
        return told_error(error.body, wasted)
    causes = list(_chain(error))
    kinds = (kind for cls, kind in _KINDS if any(isinstance(cause, cls) for cause in causes))
    kind = next(kinds, "bad_response")
    return UpstreamError(kind, retryable=kind not in _GENERATED, wasted=wasted)


def unsent(error: Exception) -> bool:
    """Whether the server had closed a kept connection, as llama.cpp does after each stream."""
    return any(isinstance(cause, aiohttp.ClientConnectionResetError) for cause in _chain(error))


def told_error(found: object, wasted: Usage | None = None) -> UpstreamError:
    """What an error in the body of a response means whose status says that all is well."""
    code, said = found.get("code") if isinstance(found, Mapping) else None, str(found)
    # Some put codes of their own there, such as "1301".
    if re.fullmatch("[45][0-9]{2}", str(code)[:4]):
        return _status_error(int(str(code)), said, None, wasted)
    if _TOO_LONG.search(said) or _FILTERED.search(said):
        return _status_error(400, said, None, wasted)
    for words, status in _SAID.items():
        if re.search(words, said, re.IGNORECASE):
            return _status_error(status, said, None, wasted)
    return UpstreamError("bad_response", wasted=wasted)


def _status_error(
    status: int, said: str, pause: float | None, wasted: Usage | None
) -> UpstreamError:
    if status == 429 and "insufficient_quota" in said:
        status = 402
    if status == 429:
        return UpstreamError("rate_limited", retry_after_s=pause, wasted=wasted)
    if status >= 500 or status in _LATER:
        return UpstreamError("server_error", retry_after_s=pause, wasted=wasted)
    if _BAD_KEY.search(said):
        status = 401
    blamed = status in _STATUSES
    found = {FILTERED: _FILTERED.search(said), TOO_LONG: status == 413 or _TOO_LONG.search(said)}
    kind = _STATUSES.get(status) or next((kind for kind in found if found[kind]), REJECTED)
    return UpstreamError(kind, retryable=False, blames_server=blamed, wasted=wasted)


_KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (TooLargeError, "too_large"),
    (CompressedError, "compressed"),
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

_GENERATED = frozenset({"too_large", "compressed", "truncated", "bad_json"})
"""Of a response that had begun: the server has done its work, and would do all of it again."""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def named_fields(error: Exception, fields: Iterable[str]) -> list[str]:
    """Those fields of a request that a server's refusal names; its own words may quote prompts."""
    if not isinstance(error, openai.APIStatusError) or error.status_code not in _BAD_REQUEST:
        return []
    said = f"{error.message} {error.body}"
    if _TOO_LONG.search(said):
        return []
    return sorted(f for f in fields if f not in _NEEDED and re.search(rf"\b{re.escape(f)}\b", said))


class CircuitBreaker:
    """Leaves a server alone that fails so often in a row, and tries it once per cool-down."""

    def __init__(
        self,
        failures: int = 5,
        cooldown_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failures, self.cooldown_s, self._clock = failures, cooldown_s, clock
        self._in_a_row, self._not_before = 0, 0.0

    @property
    def allows(self) -> bool:
        """Whether a request may go out."""
        return self._in_a_row < self.failures or self._clock() >= self._not_before

    def admit(self) -> bool:
        """Whether a request goes out now; where it probes, no other one does for a while."""
        admitted = self.allows
        if admitted:
            self._wait()
        return admitted

    def succeeded(self) -> None:
        """A request was answered."""
        self._in_a_row = 0

    def failed(self) -> None:
        """A request failed, and the server is to blame."""
        self._in_a_row += 1
        self._wait()

    def _wait(self) -> None:
        if self._in_a_row >= self.failures:
            self._not_before = self._clock() + self.cooldown_s


@dataclass
class RetryBudget:
    """Retries as a share of requests, so that they cannot multiply an overload."""

    share: float = 0.2
    most: float = 10.0
    saved: float = 10.0

    def earn(self) -> None:
        """A first try goes out."""
        self.saved = min(self.most, self.saved + self.share)

    def spend(self) -> bool:
        """Take one retry, if there is one."""
        if self.saved < 1:
            return False
        self.saved -= 1
        return True


def pause_s(retry: int, wanted_s: float | None, rng: random.Random, base_s: float = 0.1) -> float:
    """Pause before retry number `retry`, from 0: what the server wants, or exponential.

    Source: "full jitter", Brooker 2015, Exponential Backoff And Jitter (AWS).
    """
    longest = base_s if wanted_s is not None else min(base_s * 2**retry, 5.0)
    return (wanted_s or 0.0) + rng.uniform(0, longest)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Pause that a response asks for, in seconds; None if it asks for none that makes sense.

    A date is compared with the response's own `Date`, as clocks differ.

    >>> retry_after_s({"retry-after": "2"})
    2.0
    """
    value, ms = headers.get("retry-after", "").strip(), headers.get("retry-after-ms")
    try:
        seconds = float(value) if ms is None else float(ms) / 1000
    except ValueError:
        try:
            until, now = map(parsedate_to_datetime, (value, headers.get("date", "")))
            seconds = (until - now).total_seconds()
        except (ValueError, TypeError):  # no date, or one without its zone
            return None
    return seconds if 0 <= seconds < float("inf") else None


@dataclass
class Quirks:
    """A server's own ways, each told once and then respected.

    Attributes:
        name: of the model, as people know it; `names` are those that it may answer under.
        refused: fields of requests that it does not take.
        answered_as: other names under which it has answered.
    """

    name: str
    names: frozenset[str]
    refused: set[str] = field(default_factory=set)
    answered_as: set[str] = field(default_factory=set)

    def suited(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A request without refused fields, under their successors' names where there are any."""
        renamed = {
            _SUCCESSORS.get(name, name) if name in self.refused else name: value
            for name, value in body.items()
        }
        return {name: value for name, value in renamed.items() if name not in self.refused}

    def learn(self, error: Exception, fields: Iterable[str]) -> bool:
        """Whether an error is about fields of a request that can be left off from now on."""
        found = set(named_fields(error, fields)) - self.refused
        self.refused |= found
        for name in sorted(found):
            self._tell("field_refused", field=name)
        return bool(found)

    def answered(self, model: object) -> None:
        """Take note of the name that an answer came under."""
        known = self.names | self.answered_as
        if isinstance(model, str) and model and model not in known and len(self.answered_as) < 8:
            self.answered_as.add(model[:100])
            self._tell("answered_as", answered_as=model[:100])

    def _tell(self, event: str, **fields: str) -> None:
        _log.warning(event, extra={"fields": {"model": self.name, **fields}})

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know."""
        refused = [f"{self.name}: the server refuses {name}" for name in sorted(self.refused)]
        others = ", ".join(sorted(self.answered_as))
        return (*refused, *([f"{self.name}: the server answers as {others}"] if others else ()))
