"""What went wrong with an upstream server; when to ask again, or not for a while."""

from __future__ import annotations

import errno
import json
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import formatdate, parsedate_to_datetime
from typing import Any

import aiohttp
import httpx2
import openai

from controller.backends.base import TOO_LONG
from controller.errors import BackendError
from controller.process.cost import Usage

_BAD_REQUEST, UNCLEAR = (400, 422), (400, 403, 412, 422)
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(ms|milli|[hms])")
_PERIOD = re.compile(rf"(?:{_DURATION.pattern})+")
_UNITS_S = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "milli": 1e-3}
_PAUSE = re.compile(
    r"(?:(?:retry|try again) (?:in|after) |wait |retryDelay\W{1,6})"
    r"((?:[0-9]+(?:\.[0-9]+)? ?(?:ms|milli|[hms]))+)",
    re.IGNORECASE,
)
_EPOCH, _EPOCH_MS = 1e9, 1e11
"""Numbers from here on are points of time."""
_LATER = (408, 409, 424, 425, 498, 499)
"""Statuses below 500 of servers that may answer later: 424 is TGI's, 498 Groq's, 499 Gemini's."""
REJECTED, FILTERED = "rejected", "content_filter"
"""Kinds of errors of a server that does not take a request as it is."""
UNREADABLE = "unreadable"
"""Of one that cannot read what its model wrote, and so returns none of it."""
LIMITED, _NO_CREDIT = "rate_limited", "no_credit"
NO_KEY, NO_MODEL, _MOVED = "unauthorized", "no_such_model", "redirected"
_STATUSES = {
    401: NO_KEY,
    402: _NO_CREDIT,
    403: NO_KEY,
    404: NO_MODEL,
    410: NO_MODEL,
    413: TOO_LONG,
}
_MEANT = {_NO_CREDIT: 402, NO_KEY: 401, LIMITED: 429, NO_MODEL: 404}
"""Kinds of errors that everybody would meet, and their statuses where a server tells none."""
_TYPES = {
    429: "rate_?limit",
    529: "overloaded",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    400: "invalid_request_error|validation error",
}
"""Words by which bodies tell a status: Anthropic's and OpenAI's types, TGI's beginning."""
_LONGEST_WORDS = 4096
_CONTEXT = r"context.?(length|window|size|limit)|maximum model length"
_NO_MONEY = (
    r"insufficient.(quota|balance|credit|fund)|balance is insufficient|余额不足|arrear"
    r"|spending.limit|account.{0,60}(suspended|not active)|(exceeded|crossed).budget"
    r"|budget.{0,20}exceeded|specified API usage|free.models.per.day|free (tier of|allocation)"
)
WORDS = {
    kind: re.compile(words, re.IGNORECASE)
    for kind, words in {
        # Of OpenAI's arrays and strings that are too long, texts of messages alone are prompts.
        TOO_LONG: rf"{_CONTEXT}|request too large|(?<!array )(?<!string )too long"
        r"|content': string too long|token count.+exceeds|max_new_tokens.+must be <|n_ctx"
        r"|too many tokens:|reduce the (length|input)|model token limit|maximum prompt length"
        r"|input length should|too many (input|prompt) tokens|expected maxLength|max_seq"
        r"|(input( tokens)?|prompt|total tokens).{0,30} exceeds? (the )?(max|configured|total)"
        r"|must have less than \d+ tokens|max_num_tokens",
        FILTERED: r"content.?(filter|policy|management|exists risk)|moderation|flagged|guardrail"
        r"|data_?inspection|inappropriate content|ResponsibleAI|violates.{0,20}(guideline|polic)"
        r"|sensitive.{0,3}(content|information|words)|敏感内容",
        _NO_CREDIT: rf"{_NO_MONEY}|\bcredits?\b|billing",
        NO_KEY: r"API.?key.{0,20}(not valid|expired|invalid|incorrect)"
        r"|(invalid|incorrect|expired).{0,9}API.?key|location is not supported"
        r"|organization has been (disabled|restricted)",
        LIMITED: r"rate.?(limit|exceeded)|throttling",
        NO_MODEL: r"model.{0,60}(not (found|exist)|not_found)|model_not_(available|supported)"
        r"|model.{0,60}(decommissioned|no longer available|on-demand|identifier is invalid)"
        r"|not a valid model|(invalid|unknown|no such).model\b|unexpected endpoint",
    }.items()
}
"""What servers mean whose status does not say it: Gemini's tells of keys with a 400, LiteLLM's and
Anthropic's of money, Bedrock's of haste, OpenRouter's of filters with a 403."""
_BROKEN = re.compile("model has crashed|model unloaded", re.IGNORECASE)  # LM Studio's, with a 400
_UNREAD = re.compile(
    r"tool_use_failed|json_validate_failed|output_parse_failed|error parsing tool call"
    r"|failed to parse (tool call|input at)|model produced output that does not match"
    r"|could not finish the message",
    re.IGNORECASE,
)
"""Groq's words, Ollama's, llama.cpp's, and OpenAI's of thoughts that took all tokens."""
_NO_ENDPOINT = re.compile("endpoints found that (support|can)", re.IGNORECASE)
_ECHO = re.compile(
    r"""['"](?:input|failed_generation)\\?['"]:.*?(?=['"]loc['"]:|\Z)"""
    r"""|https?://[^\s'"\\]+""",
    re.DOTALL,
)
"""What a server repeats of a prompt or an answer, and where its words go on."""
_NO_FILES = (errno.EMFILE, errno.ENFILE)
"""Of this process and this machine: no server is to blame."""
PERMANENT = frozenset({REJECTED, TOO_LONG, FILTERED, NO_KEY, NO_MODEL, _NO_CREDIT, _MOVED})
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
        mended: whether the next request goes without what was refused.
        room: tokens that can be written after so long a prompt; None where that is not told.
        status: that the server answered with, or meant; 0 if none.
        said: its words, which may quote keys and prompts, without what they repeat; `param` is the
            field that they are about, where it says so.
    """

    mended = False
    room: int | None = None
    status, said, param = 0, "", ""

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
    """What an error of the client says about the server."""
    if isinstance(error, UpstreamError):
        return error
    if isinstance(error, openai.APIStatusError):
        headers, status = error.response.headers, error.status_code
        said, pause = str(error.body or error.message), retry_after_s(headers)
        failure = _status_error(status, said, pause, wasted, error.param)
        failure.retryable &= headers.get("x-should-retry") != "false"
        return failure
    causes = list(_chain(error))
    if any(isinstance(cause, OSError) and cause.errno in _NO_FILES for cause in causes):
        return UpstreamError("too_many_open_files", blames_server=False, wasted=wasted)
    kinds = (kind for cls, kind in _KINDS if any(isinstance(cause, cls) for cause in causes))
    kind = next(kinds, "bad_response")
    return UpstreamError(kind, retryable=kind not in _GENERATED, wasted=wasted)


def unsent(error: Exception) -> bool:
    """Whether the server had closed a kept connection, as llama.cpp does after each stream."""
    return any(isinstance(cause, aiohttp.ClientConnectionResetError) for cause in _chain(error))


def told_error(found: object, wasted: Usage | None = None) -> UpstreamError:
    """What an error in the body of a response means whose status says that all is well."""
    said = _ECHO.sub("", str(found))
    told: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    # Some put codes of their own there, such as "1301".
    codes = [str(told.get(name)) for name in ("code", "status", "http_code", "status_code")]
    numbers = [int(code) for code in codes if re.fullmatch("[45][0-9]{2}", code)]
    kind = _meant(said)
    status = (
        next(iter(numbers), 0)
        or _typed(f"{codes[0]} {told.get('type')}")
        or (_MEANT.get(kind, 400) if kind else _typed(said))
    )
    if not status:
        return UpstreamError("bad_response", wasted=wasted)
    return _status_error(status, said, None, wasted, told.get("param"))


def _typed(said: str) -> int:
    """The status that a type of error stands for; 0 for none."""
    found = (s for s, words in _TYPES.items() if re.search(words, said, re.IGNORECASE))
    return next(found, 0)


def _meant(said: str) -> str | None:
    """The kind of error that a server's words tell of."""
    said = said[:_LONGEST_WORDS]
    return next((kind for kind, words in WORDS.items() if words.search(said)), None)


def _status_error(
    status: int, said: str, pause: float | None, wasted: Usage | None, param: object = None
) -> UpstreamError:
    said = _ECHO.sub("", said)
    status = 500 if status in _BAD_REQUEST and _BROKEN.search(said) else status
    failure = _failure(status, said, pause, wasted)
    failure.status, failure.said, failure.param = status, said, str(param or "")
    return failure


def _failure(status: int, said: str, pause: float | None, wasted: Usage | None) -> UpstreamError:
    if status in (*_BAD_REQUEST, 500) and _UNREAD.search(said):
        return UpstreamError(UNREADABLE, retryable=False, blames_server=False, wasted=wasted)
    if status >= 500 and re.search(_CONTEXT, said[:_LONGEST_WORDS], re.IGNORECASE):  # llama.cpp's
        return UpstreamError(TOO_LONG, retryable=False, blames_server=False, wasted=wasted)
    if status >= 500 or status in _LATER:
        return UpstreamError("server_error", retry_after_s=pause, wasted=wasted)
    if status < 400:
        return UpstreamError(_MOVED, retryable=False, wasted=wasted)
    kind = _STATUSES.get(status)
    if status == 429:
        # Gemini tells of billing where a minute is what it takes; no minute holds what is too long.
        kind = _NO_CREDIT if re.search(_NO_MONEY, said, re.IGNORECASE) else LIMITED
        kind = TOO_LONG if WORDS[TOO_LONG].search(said) else kind
    elif status in UNCLEAR:
        kind = _meant(said) or kind
    elif status == 404 and _NO_ENDPOINT.search(said):  # OpenRouter's, of tools and other fields
        kind = REJECTED
    # Words may be those of a prompt that a server repeats: they close it to nobody else.
    echoed = status in _BAD_REQUEST
    if kind == LIMITED:
        told = pause or (None if echoed else _pause_told(said))
        return UpstreamError(kind, blames_server=not echoed, retry_after_s=told, wasted=wasted)
    blamed = kind == NO_KEY or (kind in _MEANT and not echoed)
    return UpstreamError(kind or REJECTED, retryable=False, blames_server=blamed, wasted=wasted)


def _pause_told(said: str) -> float | None:
    """Seconds that the words of a server ask for, as those of Gemini and Groq do.

    >>> _pause_told("Please try again in 1m2.5s."), _pause_told('"retryDelay": "34s"')
    (62.5, 34.0)
    >>> _pause_told("Please retry after 32 seconds."), _pause_told("try again in 80 milliseconds")
    (32.0, 0.08)
    """
    found = _PAUSE.search(said)
    return _seconds(found[1]) if found else None


def _seconds(duration: str) -> float | None:
    parts = _DURATION.findall(duration)
    return sum(float(n) * _UNITS_S[unit] for n, unit in parts) if parts else None


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


class CircuitBreaker:
    """Leaves a server alone that fails so often in a row, and tries it once per cool-down.

    `on_change` is told why where it opens, and None where it closes.
    """

    def __init__(
        self,
        failures: int = 5,
        cooldown_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[str | None], None] = lambda why: None,
    ) -> None:
        self.failures, self.cooldown_s, self._clock = failures, cooldown_s, clock
        self._in_a_row, self._not_before, self._on_change = 0, 0.0, on_change

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
        self._count(0)

    def failed(self, why: str = "") -> None:
        """A request failed, and the server is to blame."""
        self._count(self._in_a_row + 1, why)
        self._wait()

    def _count(self, in_a_row: int, why: str = "") -> None:
        was_open, self._in_a_row = self._in_a_row >= self.failures, in_a_row
        is_open = in_a_row >= self.failures
        if is_open != was_open:
            self._on_change(why if is_open else None)

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

    A date is compared with the response's own `Date`, if it has one, as clocks differ.

    >>> retry_after_s({"retry-after": "2"})
    2.0
    >>> retry_after_s({"retry-after": "1m30s"})
    90.0
    """
    if (ms := headers.get("retry-after-ms")) is not None:
        return _until(f"{ms}ms", headers)
    if value := headers.get("retry-after", "").strip():
        return _until(value, headers)
    # Of what is used up, as OpenAI's, Cerebras's, OpenRouter's and many other servers tell it.
    spent = (name for name, left in headers.items() if "ratelimit" in name and left.strip() == "0")
    told = (
        _until(headers.get(name.replace("remaining", "reset"), ""), headers)
        for name in spent
        if "remaining" in name
    )
    return max(filter(None, told), default=None)


def _until(value: str, headers: Mapping[str, str]) -> float | None:
    """Seconds that a period, a number of seconds or a point of time stands for."""
    if _PERIOD.fullmatch(value):
        return _seconds(value)
    try:
        now = parsedate_to_datetime(headers.get("date") or formatdate(usegmt=True))
        try:
            seconds = float(value)
            if seconds >= _EPOCH:
                seconds = seconds / (1000 if seconds >= _EPOCH_MS else 1) - now.timestamp()
        except ValueError:
            read = datetime.fromisoformat if value[:4].isdecimal() else parsedate_to_datetime
            seconds = (read(value) - now).total_seconds()
    except (ValueError, TypeError):  # no date, or one without its zone
        return None
    return seconds if 0 <= seconds < float("inf") else None
