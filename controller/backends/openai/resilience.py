"""What went wrong with an upstream server; when to ask again, otherwise, or not for a while."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
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
        *("parallel_tool_calls", *HINTS),
    }
)
"""Fields of clients that servers take or refuse whatever their values, and answer without."""
_LENGTHS = {"max_tokens", "max_completion_tokens"}
_SUCCESSORS = {"max_tokens": "max_completion_tokens"}
"""Names under which some servers take a field that they refuse."""
_RANGED = {"temperature", "top_p", "presence_penalty", "frequency_penalty"}
"""Fields of clients that servers refuse for their value where they tell of a range."""

_BAD_REQUEST, _UNCLEAR = (400, 422), (400, 403, 412, 422)
_NAMING = (*_UNCLEAR, 404)
"""Statuses whose words may be about a field: OpenAI's 403, OpenRouter's 404."""
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
REJECTED, TOO_LONG, FILTERED = "rejected", "context_length_exceeded", "content_filter"
"""Kinds of errors of a server that does not take a request as it is."""
UNREADABLE = "unreadable"
"""Of one that cannot read what its model wrote, and so returns none of it."""
LIMITED, _NO_CREDIT = "rate_limited", "no_credit"
_NO_KEY, NO_MODEL, _MOVED = "unauthorized", "no_such_model", "redirected"
_STATUSES = {
    401: _NO_KEY,
    402: _NO_CREDIT,
    403: _NO_KEY,
    404: NO_MODEL,
    410: NO_MODEL,
    413: TOO_LONG,
}
_MEANT = {_NO_CREDIT: 402, _NO_KEY: 401, LIMITED: 429, NO_MODEL: 404}
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
_CONTEXT = r"context.?(length|window|size|limit)"
_NO_MONEY = (
    r"insufficient.(quota|balance|credit|fund)|balance is insufficient|余额不足|arrear"
    r"|spending.limit|account.{0,60}(suspended|not active)|(exceeded|crossed).budget"
    r"|budget.{0,20}exceeded"
)
_WORDS = {
    kind: re.compile(words, re.IGNORECASE)
    for kind, words in {
        TOO_LONG: rf"{_CONTEXT}|too long|token count.+exceeds|max_new_tokens.+must be <"
        r"|too many tokens:|reduce the length|model token limit|maximum prompt length"
        r"|input length should|exceeds? max(imum)? length|too many (input|prompt) tokens"
        r"|input( tokens)?.{0,20} exceeds? the (max|configured|total)"
        r"|must have less than \d+ tokens",
        FILTERED: r"content.?(filter|policy|management|exists risk)|moderation|flagged|guardrail"
        r"|data_inspection|ResponsibleAI|violates.{0,20}(guideline|polic)"
        r"|sensitive.{0,3}(content|information|words)",
        _NO_CREDIT: rf"{_NO_MONEY}|\bcredits?\b|billing",
        _NO_KEY: r"API.?key.{0,20}(not valid|expired|invalid|incorrect)"
        r"|(invalid|incorrect|expired).{0,9}API.?key",
        LIMITED: r"rate.?(limit|exceeded)|throttling",
        NO_MODEL: r"model.{0,60}(not found|not exist|not_found|decommissioned|no longer available)"
        r"|not a valid model|(invalid|unknown).model\b",
    }.items()
}
"""What servers mean whose status does not say it: Gemini's tells of keys with a 400, LiteLLM's and
Anthropic's of money, Bedrock's of haste, OpenRouter's of filters with a 403."""
_NO_SYSTEM = re.compile(
    r"(system|developer)\W{0,3}(role|instruction|message|prompt).{0,40}not (support|enabl|allow)"
    r"|not support\W{0,3}(system|developer)\b",
    re.IGNORECASE,
)
_OTHER_WORDS = {
    "stream": r"support.{0,9}streaming|streaming.{0,9}(not |un)support",
    "tools": r"\btool[_ -](use|choice)|\b(tool|function)[_ -]calling\b",
    "response_format": r"\bjson[_ ](mode|schema|object)\b|structured.outputs?\b",
    "reasoning_effort": r"support.{0,9}(thinking|reasoning)\b",
    **{f"{kind}_penalty": rf"\b({kind}_?)?penalty\b" for kind in ("presence", "frequency")},
}
"""By which servers name a field beside its name; Gemini's mean both penalties by one word."""
_NOT_TAKEN = re.compile(r"(not |un)supported|param\w* requires", re.IGNORECASE)
"""Of llama.cpp's, which answers 500 where it does not take a field."""
_BROKEN = re.compile("model has crashed|model unloaded", re.IGNORECASE)  # LM Studio's, with a 400
_MUST_STREAM = re.compile(r"only supports? stream|must.{0,9}stream ?= ?true", re.IGNORECASE)
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
_TOGETHER = re.compile(r"both|\btogether\b|same time|only one|mutually", re.IGNORECASE)
_EXTRA, _UNSIGNED = "extra_content", "calls without a thought_signature"
_THOUGHTLESS, _IDS = "turns without reasoning_content", "ids of other models' calls"
_ROWS, _THINKING = "turns of one role in a row", "thinking beside tools"
_THOUGHTS = "turns with reasoning_content"
_WITHIN, WHOLE = "thoughts within max_tokens", "whole replies"
"""What servers have against turns that another model wrote, or that lost something on the way."""
_SIGNED = {"google": {"thought_signature": "skip_thought_signature_validator"}}
_SHORT_ID = re.compile("[a-zA-Z0-9]{9}")  # all that Mistral's servers take
_BAD_ID = re.compile(r"tool.?calls?\W*\d*\W*_?id\b.{0,200}(length|too long)", re.IGNORECASE)
_LOCATION = re.compile(r"""['"]loc['"]:\s*[\[(](?:['"]body['"],?\s*)?(?:['"](\w+)['"])?""")
_IN_A_ROW = re.compile(
    r"\b(must|should) (be )?alternat|roles? in a row|successive|consecutive"
    r"|system message must be (at the beginning|first)",
    re.IGNORECASE,
)
_TOO_MANY = re.compile(r"at most|less than|<=|range|max(imum)?\b|too large|exceed", re.IGNORECASE)
_TOO_FEW = re.compile(
    r"at least|greater than|>=|range|minimum|too small|between|positive", re.IGNORECASE
)
_RANGE = re.compile(rf"{_TOO_MANY.pattern}|{_TOO_FEW.pattern}", re.IGNORECASE)
_WINDOW = re.compile(
    r"context (?:length|window|limit)\D{1,12}(\d{1,9}) tokens|[<>]=? (\d{1,9})[.,]"
)
_PROMPT = re.compile(
    r"(\d{1,9}) (?:input tokens|in the (?:messages|prompt)|tokens from the input|`inputs` tokens"
    r"|of text input|\+ \d+ >)"
)
"""Tokens that there is room for, and those of a prompt, where servers tell both."""
PERMANENT = frozenset({REJECTED, TOO_LONG, FILTERED, _NO_KEY, NO_MODEL, _NO_CREDIT, _MOVED})
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
    return next((kind for kind, words in _WORDS.items() if words.search(said)), None)


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
        # Gemini tells of billing where a minute is what it takes.
        kind = _NO_CREDIT if re.search(_NO_MONEY, said, re.IGNORECASE) else LIMITED
    elif status in _UNCLEAR:
        kind = _meant(said) or kind
    elif status == 404 and _NO_ENDPOINT.search(said):  # OpenRouter's, of tools and other fields
        kind = REJECTED
    # Words may be those of a prompt that a server repeats: they close it to nobody else.
    echoed = status in _BAD_REQUEST
    if kind == LIMITED:
        told = pause or (None if echoed else _pause_told(said))
        return UpstreamError(kind, blames_server=not echoed, retry_after_s=told, wasted=wasted)
    blamed = kind == _NO_KEY or (kind in _MEANT and not echoed)
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


def named_fields(failure: UpstreamError, fields: Iterable[str]) -> list[str]:
    """Those fields of a request that a server's refusal names; its own words may quote prompts."""
    said, wanted = failure.said, {*fields}
    refuses = failure.status in _NAMING or (failure.status == 500 and _NOT_TAKEN.search(said))
    if not refuses or _WORDS[TOO_LONG].search(said):
        return []
    # Who says where the fault lies may repeat the whole request beside.
    if told := _LOCATION.findall(said):
        return sorted(wanted & {*told})
    param = re.match(r"\w*", failure.param)
    if param and param[0] in wanted | _NEEDED:
        return sorted(wanted & {param[0]})
    return sorted(_mentioned(wanted, said))


def room_told(failure: UpstreamError, body: Mapping[str, Any]) -> int | None:
    """Tokens of an attempt that a prompt leaves room for, where a refusal says that it does."""
    asked, said = next((body[name] for name in _LENGTHS if name in body), None), failure.said
    window, prompt = _WINDOW.search(said), _PROMPT.search(said)
    if asked is None or window is None or prompt is None:
        return None
    # vLLM reads no more of a prompt than what leaves no room for so many tokens.
    most = asked // 2 if f"at least {prompt[1]}" in said else asked - 1
    room = min(int(next(filter(None, window.groups()))) - int(prompt[1]), most)
    return room if room > 0 else None


def _mentioned(fields: Iterable[str], said: str) -> set[str]:
    """Fields that words name; xAI's say presencePenalty, and some are said in other ways."""
    patterns = {f: rf"\b{re.escape(f).replace('_', '[_ ]?')}\b" for f in fields}
    patterns |= {f: f"{patterns[f]}|{_OTHER_WORDS[f]}" for f in _OTHER_WORDS.keys() & patterns}
    return {f for f, pattern in patterns.items() if re.search(pattern, said, re.IGNORECASE)}


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


def _about_turns(said: str, chat: Sequence[Mapping[str, Any]]) -> str | None:
    """What a server has against earlier turns, if that can be mended."""
    turns = [turn for turn in chat if turn["role"] == "assistant"]
    called = [turn["tool_calls"] for turn in turns if "tool_calls" in turn]
    calls = [call for found in called for call in found]
    faults = {
        _UNSIGNED: "thought_signature" in said and any(_EXTRA not in found[0] for found in called),
        _EXTRA: _EXTRA in said and any(_EXTRA in call for call in calls),
        _THOUGHTLESS: "reasoning_content" in said
        and any("reasoning_content" not in turn for turn in turns),
        _THOUGHTS: "reasoning_content" in said and bool(turns),
        _IDS: _BAD_ID.search(said) and not all(_SHORT_ID.fullmatch(call["id"]) for call in calls),
        _ROWS: _IN_A_ROW.search(said) and len(_merged(chat)) < len(chat),
    }
    return next((name for name, found in faults.items() if found), None)


def _merged(chat: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A chat whose plain turns of one role in a row are one."""
    turns: list[Mapping[str, Any]] = []
    for turn in chat:
        last = turns[-1] if turns else {}
        if turn.keys() == last.keys() == {"role", "content"} and turn["role"] == last["role"]:
            turns[-1] = {**turn, "content": f"{last['content']}\n\n{turn['content']}"}
        else:
            turns.append(turn)
    return turns


def _other(
    found: set[str], said: str, body: Mapping[str, Any], asked: Mapping[str, Any]
) -> str | None:
    """The field beside which those that were found are refused; None where they always are."""
    own = [name for name in asked if name in body and name not in OPTIONAL]
    if mentioned := found and sorted(_mentioned(own, said)):
        return mentioned[0]
    if len(found) > 1 and _TOGETHER.search(said):
        return max(found, key=[*body].index)
    # OpenAI's models that can think take a temperature only where they are not to.
    return "reasoning_effort" if found and "reasoning_effort" in own else None


def _budget(body: Mapping[str, Any]) -> int:
    """Tokens of thoughts that a request grants, as Anthropic's have it."""
    thinking = body.get("thinking")
    found = thinking.get("budget_tokens") if isinstance(thinking, Mapping) else None
    return found if isinstance(found, int) else 0


@dataclass
class Quirks:
    """A server's own ways, each told once and then respected.

    Attributes:
        name: of the model, as people know it; `names` are those that it may answer under.
        refused: fields of requests that it does not take, `system` messages, and what else it has
            against turns.
        beside: fields that it does not take together with another one, and the value of that where
            it matters; beside themselves, for their value.
        answered_as: other names under which it has answered.
        least, most: tokens of an attempt that may be asked for, where it says so.
    """

    name: str
    names: frozenset[str]
    refused: set[str] = field(default_factory=set)
    beside: set[tuple[str, str, Any]] = field(default_factory=set)
    answered_as: set[str] = field(default_factory=set)
    least: int = 1
    most: int | None = None

    def suited(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A request without what is refused, under successors' names where there are any."""
        chat = body["messages"]
        if "system" in self.refused:
            chat = [{**t, "role": "user"} if t["role"] == "system" else t for t in chat]
        if self.refused & {"system", _ROWS}:
            body = {**body, "messages": _merged(chat)}
        if _THINKING in self.refused and "tools" in body:
            body = {**body, "reasoning_effort": "none"}
        if self.refused & {_EXTRA, _UNSIGNED, _THOUGHTLESS, _THOUGHTS, _IDS}:
            body = {**body, "messages": [*map(self._turn, body["messages"])]}
        for name in _LENGTHS & body.keys():
            thoughts = _budget(body) if _WITHIN in self.refused else 0
            asked = max(body[name] + thoughts, self.least)
            body = {**body, name: min(asked, self.most or asked)}
        gone = self.refused | {
            name
            for name, other, value in self.beside
            if other in body and value in (None, body[other])
        }
        renamed = {
            _SUCCESSORS.get(name, name) if name in gone else name: value
            for name, value in body.items()
        }
        kept = {name: value for name, value in renamed.items() if name not in gone}
        if "logprobs" not in kept:
            kept.pop("top_logprobs", None)
        return kept

    def _turn(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """A turn as the server takes it."""
        turn, calls = {**told}, [{**call} for call in told.get("tool_calls", ())]
        if _THOUGHTS in self.refused:
            turn.pop("reasoning_content", None)
        elif _THOUGHTLESS in self.refused and turn["role"] == "assistant":
            turn.setdefault("reasoning_content", " ")  # Kimi's servers take no empty one
        if _EXTRA in self.refused:
            calls = [{k: v for k, v in call.items() if k != _EXTRA} for call in calls]
        elif _UNSIGNED in self.refused and calls:
            calls[0].setdefault(_EXTRA, _SIGNED)
        for part, name in (*((call, "id") for call in calls), (turn, "tool_call_id")):
            if _IDS in self.refused and not _SHORT_ID.fullmatch(part.get(name, "x" * 9)):
                part[name] = hashlib.blake2b(part[name].encode()).hexdigest()[:9]
        return {**turn, "tool_calls": calls} if calls else turn

    def learn(
        self, failure: UpstreamError, body: Mapping[str, Any], asked: Mapping[str, Any]
    ) -> bool:
        """Whether an error is about what a request can do without, or with less of, from now on.

        What a client asked for is not left off where its value is what the server minds. Where it
        goes with something else that the client asked for, it is left off with that alone.
        """
        # llama.cpp answers 500 where a chat's template does not take its turns.
        said = failure.said
        if failure.status not in (*_NAMING, 500):
            return False
        optional = {name for name in body if name in OPTIONAL or name not in asked} - _NEEDED
        if _RANGE.search(said):
            optional -= _RANGED & asked.keys()
        found = set(named_fields(failure, optional))
        if found and found <= self.refused:
            return True  # learnt while this request was under way
        if found & _LENGTHS and "budget_tokens" in said and _budget(body):
            found = {_WITHIN}
        for name in found & _LENGTHS:
            if _RANGE.search(said):
                return self._learn_length(body[name], said)
        many = {"top_logprobs"} & (body.keys() - asked.keys())  # of a VERIFY
        if many and _TOO_MANY.search(said) and named_fields(failure, {"logprobs", *many}):
            self.beside |= {(name, name, body[name]) for name in many}
            return True
        thinks = "reasoning_effort" in said and "tools" in _mentioned(asked, said)
        if thinks and "reasoning_effort" not in asked and _THINKING not in self.refused:
            found = {_THINKING}  # unasked as well
        elif _NO_SYSTEM.search(said) and body["messages"][0]["role"] == "system":
            found = {"system"}
        elif _MUST_STREAM.search(said) and "stream" not in body:
            found = {WHOLE}
        elif about := _about_turns(said, body["messages"]):
            found = {about}
        elif other := _other(found, said, body, asked):
            value = body[other] if other == "reasoning_effort" else None
            first = min(found - {other}, key=[*body].index)
            if (first, other, value) not in self.beside:
                self.beside.add((first, other, value))
                self._tell("field_refused", field=first, beside=other)
            return True
        for name in sorted(found - self.refused):
            self._tell("field_refused", field=name)
        self.refused |= found
        return bool(found)

    def _learn_length(self, asked: int, words: str) -> bool:
        """Whether words tell of a longest or a shortest attempt that may be asked for."""
        numbers = [int(n) for n in re.findall(r"\d{1,9}", words)]
        fewer = [n for n in numbers if 1 < n < asked]
        more = [n for n in numbers if n > asked]
        if fewer and _TOO_MANY.search(words):
            self.most = max(fewer)
        elif more and _TOO_FEW.search(words):
            self.least = min(more)
        else:
            return False
        self._tell("length_refused", least=str(self.least), most=str(self.most))
        return True

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
        for name, other, value in sorted(self.beside, key=str):
            near = f" beside {other}" if other != name else ""
            found.append(f"refuses {name}{near}{f' {value}' if value else ''}")
        found += [f"writes at most {self.most} tokens"] if self.most else []
        found += [f"is asked for at least {self.least} tokens"] if self.least > 1 else []
        found += [f"answers as {', '.join(sorted(self.answered_as))}"] if self.answered_as else []
        return tuple(f"{self.name}: the server {note}" for note in found)
