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
from email.utils import formatdate, parsedate_to_datetime
from typing import Any

import aiohttp
import httpx2
import openai

from controller.backends.base import HINTS
from controller.errors import BackendError
from controller.process.cost import Usage

_log = logging.getLogger("allot.upstream")

_NEEDED = frozenset({"model", "messages"})
OPTIONAL = frozenset(
    {
        *("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "logprobs"),
        *HINTS,
    }
)
"""Fields of clients that servers take or refuse whatever their values, and answer without."""
_LENGTHS = {"max_tokens", "max_completion_tokens"}
_SUCCESSORS = {"max_tokens": "max_completion_tokens"}
"""Names under which some servers take a field that they refuse."""

_BAD_REQUEST, _UNCLEAR = (400, 422), (400, 403, 422)
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[hms])")
_UNITS_S = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3}
_PAUSE = re.compile(
    r"(?:(?:retry|try again) in |retryDelay\W{1,6})((?:[0-9]+(?:\.[0-9]+)?(?:ms|[hms]))+)"
)
_LIMITS = ("requests", "tokens")
_LATER = (408, 409, 424, 425, 498)
"""Statuses below 500 of servers that may answer later: 424 is TGI's, 498 is Groq's."""
REJECTED, TOO_LONG, FILTERED = "rejected", "context_length_exceeded", "content_filter"
"""Kinds of errors of a server that does not take a request as it is."""
_LIMITED, _NO_CREDIT = "rate_limited", "no_credit"
_NO_KEY, NO_MODEL = "unauthorized", "no_such_model"
_STATUSES = {
    401: _NO_KEY,
    402: _NO_CREDIT,
    403: _NO_KEY,
    404: NO_MODEL,
    410: NO_MODEL,
    413: TOO_LONG,
}
_MEANT = {_NO_CREDIT: 402, _NO_KEY: 401, _LIMITED: 429, NO_MODEL: 404}
"""Kinds of errors that everybody would meet, and their statuses where a server tells none."""
_LONGEST_WORDS = 4096
_CONTEXT = r"context.?(length|window|size|limit)"
_NO_MONEY = r"insufficient.(quota|balance|credit|fund)|arrear"
_WORDS = {
    kind: re.compile(words, re.IGNORECASE)
    for kind, words in {
        TOO_LONG: rf"{_CONTEXT}|too long|token count.+exceeds|max_new_tokens.+must be <"
        r"|too many tokens:|reduce the length|model token limit|maximum prompt length"
        r"|input length should|exceeds? max(imum)? length"
        r"|input( tokens)? exceeds? the (max|configured)",
        FILTERED: r"content.?(filter|policy|management)|moderation|flagged|guardrail"
        r"|data_inspection|ResponsibleAI",
        _NO_CREDIT: rf"{_NO_MONEY}|\bcredits?\b|billing|budget.+exceeded",
        _NO_KEY: r"API.?key.{0,20}(not valid|expired|invalid|incorrect)"
        r"|(invalid|incorrect|expired).{0,9}API.?key",
        _LIMITED: r"rate.?(limit|exceeded)|throttling",
        NO_MODEL: r"model.{0,60}(not found|not exist|not_found)|not a valid model",
    }.items()
}
"""What servers mean whose status does not say it: Gemini's tells of keys with a 400, LiteLLM's and
Anthropic's of money, Bedrock's of haste, OpenRouter's of filters with a 403."""
_NO_SYSTEM = re.compile(
    r"(system|developer)\W{0,3}(role|instruction|message|prompt).{0,40}not (support|enabl|allow)"
    r"|not support\W{0,3}(system|developer)\b",
    re.IGNORECASE,
)
_NO_STREAM = r"support.{0,9}streaming|streaming.{0,9}(not |un)support"
_LOCATION = re.compile(r"""['"]loc['"]:\s*[\[(](?:['"]body['"],?\s*)?(?:['"](\w+)['"])?""")
_TOO_MANY = re.compile(r"at most|less than|<=|range|maximum|too large|exceed", re.IGNORECASE)
PERMANENT = frozenset({REJECTED, TOO_LONG, FILTERED, _NO_KEY, NO_MODEL, _NO_CREDIT})
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
    said = str(found)
    told: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    # Some put codes of their own there, such as "1301".
    codes = [str(told.get(name)) for name in ("code", "status", "http_code", "status_code")]
    for code in codes:
        if re.fullmatch("[45][0-9]{2}", code):
            return _status_error(int(code), said, None, wasted)
    if re.search(r"rate_?limit", codes[0], re.IGNORECASE):
        return _status_error(429, said, None, wasted)
    if kind := _meant(said):
        return _status_error(_MEANT.get(kind, 400), said, None, wasted)
    if re.search("overloaded", said, re.IGNORECASE):
        return _status_error(529, said, None, wasted)
    if told.get("type") == "invalid_request_error":
        return _status_error(400, said, None, wasted)
    return UpstreamError("bad_response", wasted=wasted)


def _meant(said: str) -> str | None:
    """The kind of error that a server's words tell of."""
    said = said[:_LONGEST_WORDS]
    return next((kind for kind, words in _WORDS.items() if words.search(said)), None)


def _status_error(
    status: int, said: str, pause: float | None, wasted: Usage | None
) -> UpstreamError:
    if status >= 500 and re.search(_CONTEXT, said[:_LONGEST_WORDS], re.IGNORECASE):  # llama.cpp's
        return UpstreamError(TOO_LONG, retryable=False, blames_server=False, wasted=wasted)
    if status >= 500 or status in _LATER:
        return UpstreamError("server_error", retry_after_s=pause, wasted=wasted)
    kind = _STATUSES.get(status)
    if status == 429:
        # Gemini tells of billing where a minute is what it takes.
        kind = _NO_CREDIT if re.search(_NO_MONEY, said, re.IGNORECASE) else _LIMITED
    elif status in _UNCLEAR:
        kind = _meant(said) or kind
    # Words may be those of a prompt that a server repeats: they close it to nobody else.
    echoed = status in _BAD_REQUEST
    if kind == _LIMITED:
        told = pause or (None if echoed else _pause_told(said))
        return UpstreamError(kind, blames_server=not echoed, retry_after_s=told, wasted=wasted)
    blamed = kind == _NO_KEY or (kind in _MEANT and not echoed)
    return UpstreamError(kind or REJECTED, retryable=False, blames_server=blamed, wasted=wasted)


def _pause_told(said: str) -> float | None:
    """Seconds that the words of a server ask for, as those of Gemini and Groq do.

    >>> _pause_told("Please try again in 1m2.5s."), _pause_told('"retryDelay": "34s"')
    (62.5, 34.0)
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


def named_fields(error: Exception, fields: Iterable[str]) -> list[str]:
    """Those fields of a request that a server's refusal names; its own words may quote prompts."""
    if not isinstance(error, openai.APIStatusError) or error.status_code not in _BAD_REQUEST:
        return []
    said, wanted = f"{error.message} {error.body}", {*fields} - _NEEDED
    if _WORDS[TOO_LONG].search(said):
        return []
    # Who says where the fault lies may repeat the whole request beside.
    if told := _LOCATION.findall(said):
        return sorted(wanted & {*told})
    param = re.match(r"\w*", str(error.param or ""))
    if param and param[0] in wanted | _NEEDED:
        return sorted(wanted & {param[0]})
    # The word "stream" alone is said in many ways.
    patterns = {f: rf"\b{re.escape(f)}\b" for f in wanted} | {"stream": _NO_STREAM}
    return sorted(f for f in wanted if re.search(patterns[f], said, re.IGNORECASE))


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

    A date is compared with the response's own `Date`, if it has one, as clocks differ.

    >>> retry_after_s({"retry-after": "2"})
    2.0
    """
    value, ms = headers.get("retry-after", "").strip(), headers.get("retry-after-ms")
    if not value and ms is None:
        # Of what is used up, as OpenAI's servers tell it.
        spent = (f for f in _LIMITS if headers.get(f"x-ratelimit-remaining-{f}") == "0")
        told = (_seconds(headers.get(f"x-ratelimit-reset-{f}", "")) for f in spent)
        return max(filter(None, told), default=None)
    try:
        seconds = float(value) if ms is None else float(ms) / 1000
    except ValueError:
        try:
            here = headers.get("date") or formatdate(usegmt=True)
            until, now = map(parsedate_to_datetime, (value, here))
            seconds = (until - now).total_seconds()
        except (ValueError, TypeError):  # no date, or one without its zone
            return None
    return seconds if 0 <= seconds < float("inf") else None


@dataclass
class Quirks:
    """A server's own ways, each told once and then respected.

    Attributes:
        name: of the model, as people know it; `names` are those that it may answer under.
        refused: fields of requests that it does not take, and `system` messages.
        answered_as: other names under which it has answered.
        most: tokens of an attempt that may be asked for, where it says so.
    """

    name: str
    names: frozenset[str]
    refused: set[str] = field(default_factory=set)
    answered_as: set[str] = field(default_factory=set)
    most: int | None = None

    def suited(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A request without what is refused, under successors' names where there are any."""
        if "system" in self.refused and body["messages"][0]["role"] == "system":
            chat, said = body["messages"], ""
            while chat[0]["role"] == "system":  # where all of them stand
                said, chat = f"{said}{chat[0]['content']}\n\n", chat[1:]
            if chat[0]["role"] == "user" and isinstance(chat[0]["content"], str):
                said, chat = f"{said}{chat[0]['content']}", chat[1:]
            body = {**body, "messages": [{"role": "user", "content": said}, *chat]}
        if self.most:
            body = {**body, **{name: min(body[name], self.most) for name in _LENGTHS & {*body}}}
        renamed = {
            _SUCCESSORS.get(name, name) if name in self.refused else name: value
            for name, value in body.items()
        }
        return {name: value for name, value in renamed.items() if name not in self.refused}

    def learn(self, error: Exception, body: Mapping[str, Any], fields: Iterable[str]) -> bool:
        """Whether an error is about what a request can do without, or with less of, from now on."""
        found = set(named_fields(error, fields)) - self.refused
        status = getattr(error, "status_code", None)
        said = str(getattr(error, "body", "")) if status in _BAD_REQUEST else ""
        for name in found & _LENGTHS:
            numbers = [int(n) for n in re.findall(r"\d+", said) if 1 < int(n) < body[name]]
            if numbers and _TOO_MANY.search(said):
                self.most = max(numbers)
                self._tell("length_refused", most=str(self.most))
                return True
        if _NO_SYSTEM.search(said) and body["messages"][0]["role"] == "system":
            found = {"system"}
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
        found = [f"refuses {name}" for name in sorted(self.refused)]
        found += [f"writes at most {self.most} tokens"] if self.most else []
        found += [f"answers as {', '.join(sorted(self.answered_as))}"] if self.answered_as else []
        return tuple(f"{self.name}: the server {note}" for note in found)
