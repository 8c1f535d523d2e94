"""What upstream servers answer, read with suspicion."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import httpx2
from openai import AsyncStream, OpenAIError

from controller.answers.thoughts import parted
from controller.backends.base import Request, Watcher
from controller.backends.openai.resilience import FILTERED, UpstreamError, told_error
from controller.backends.openai.tokens import (
    Counted,
    clean,
    counted,
    logprobs_entries,
    natural,
    part_of,
    plausible_logprobs,
    timings_of,
    told_logprobs,
    told_usage,
)
from controller.process.cost import Usage
from controller.process.types import CUT

SILENT, STALLED, FAILED = "silent", "stalled", "error"
_ENDS = {
    CUT: "length|max.*tokens|limit|context_window|truncat|incomplete|repetition",
    FILTERED: "(?<!call_)filter|safety|recitation|block|prohibited|spii|toxic|sensitive|guard"
    "|moderat|refus",
    FAILED: "error|abort|cancel|insufficient|malformed|unexpected|unavailable|timeout",
    "tool_calls": "tool|function",
    "stop": "stop|eos|end_turn|complete|eot|^(end|done|finished)$",
}
"""OpenAI's reasons to end, and the words by which all servers' are known; the first that fits."""
_AFTER_END_S = 5.0
"""Time for what comes after the reason to end: usage, and the end of the stream."""
_LONGEST_REASON, _MOST_CALLS = 32, 128
LONGEST_ID = 2**16
"""Of a call: LiteLLM puts Gemini's signatures of thoughts there, which no character may lack."""
_TEXTS = ("text", "thinking", "summary", "refusal")
_THOUGHTS = (
    *("reasoning_content", "reasoning", "reasoning_text", "reasoning_details"),
    *("thinking", "thinking_blocks"),
)
_ERROR = ("code", "status", "message", "msg", "detail", "errors", "base_resp")
_BOM = "\ufeff"
_WORD = re.compile(r"[\w .:-]*")
_ERROR_FIELD = re.compile(r"error: ?(\{.*\})")  # llama.cpp's
_AROUND_A_WORD = " \t\r\n*_\"'.,:!\u2581"


@dataclass(frozen=True, kw_only=True)
class Written:
    """One choice of a completion; calls of tools and logprobs' entries are as OpenAI has them.

    Attributes:
        thoughts: as far as they are told apart from the text.
        refused: whether the text is a refusal.
        logprobs: of its tokens, in nats; empty if unknown or implausible.
        tokens: that it has, thinking included; None if unknown.
        thinking: share of them that is thinking.
    """

    text: str
    thoughts: str = ""
    refused: bool = False
    calls: tuple[dict[str, Any], ...] = ()
    entries: tuple[Any, ...] = ()
    logprobs: tuple[float, ...] = ()
    tokens: int | None = None
    thinking: float = 0.0
    finish_reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A completion, what it took to get it, and the name that the server answers under."""

    written: tuple[Written, ...]
    prompt_tokens: int | None
    cached_tokens: int = 0
    model: str | None = None
    wasted: Usage = field(default_factory=Usage)
    seconds: float = 0.0


def read_reply(text: str, reader: StreamReader) -> Answered:
    """A reply that came in one piece, under any content type: JSON, or events all the same.

    Raises:
        UpstreamError: bad_type, or see `StreamReader`.
    """
    text, events = text.strip(_BOM + " \r\n"), Events()
    try:
        told = [json.loads(text, strict=False)]
        reader.in_one = events.done = True
    except ValueError:
        told = [*events.told(text.split("\n"))]
        if not told and text[:1] in "[{":
            raise
    if not told or told == [None]:
        raise UpstreamError("bad_type")
    for chunk in told:
        reader.add(chunk)
    reader.done = events.done
    return reader.result()


def _check(found: object, wasted: Usage | None = None) -> None:
    """Raises an UpstreamError of what a server tells, in a list or in place of choices as well."""
    found = found[0] if isinstance(found, list) and found else found
    if told := part_of(found, "error") or part_of(part_of(found, "x_groq"), "error"):
        raise told_error(told, wasted)
    if isinstance(found, dict) and found.get("choices") is None:
        error = told_error({name: found[name] for name in _ERROR if name in found}, wasted)
        if error.kind != "bad_response":
            raise error


def _name(response: object) -> str | None:
    """Of the model that answers, where a server tells one."""
    name = part_of(response, "model")
    return name if isinstance(name, str) and name else None


def _listed(found: object, name: str) -> list[Any]:
    """What is listed under a name; nothing if that is no list."""
    listed = part_of(found, name)
    return [*listed] if isinstance(listed, list) else []


def _message(choice: Any) -> Any:
    text = part_of(choice, "text")
    return part_of(choice, "message") or ({"content": text} if text else None)


def _said(message: Any) -> str:
    """Content of a message or a delta, or else its refusal; parts of text as one."""
    for said in (part_of(message, "content"), part_of(message, "refusal")):
        number = isinstance(said, int | float)
        if number or (isinstance(said, dict) and not said.keys() & {"type", *_TEXTS}):
            said = json.dumps(said)  # an answer in JSON that is no text, as of Workers AI
        parts = said if isinstance(said, list) else [said]
        if text := _joined([part for part in parts if not _thinks(part)]):
            return text
    return ""


def _refuses(message: Any) -> bool:
    """Whether a message or a delta says nothing but a refusal."""
    return bool(part_of(message, "refusal")) and not part_of(message, "content")


def _lengths(thoughts: str, text: str) -> tuple[int, int]:
    """Characters that are thoughts, those between tags of a text among them, and all others."""
    within, said = parted(text)
    return len(thoughts) + len(within), len(said)


def _joined(part: object) -> str:
    """The text of a part of a content, or of a list of such."""
    if isinstance(part, list):
        return "".join(map(_joined, part))
    if isinstance(part, dict):
        return next((_joined(part[name]) for name in _TEXTS if part.get(name)), "")
    return part if isinstance(part, str) else ""


def _thinks(part: object) -> bool:
    """Whether a part of a content is reasoning, under any name that servers give its type."""
    return re.search("reason|think", str(part_of(part, "type"))) is not None


def _called(message: Any) -> list[Any]:
    """Calls of a message or a delta, or the one that older servers tell in their place."""
    old, alone = part_of(message, "function_call"), part_of(message, "tool_calls")  # TGI's
    told = [{"function": old}] if isinstance(old, dict) and old else []
    return _listed(message, "tool_calls") or ([alone] if isinstance(alone, dict) else told)


def _thought(message: Any) -> str:
    """Reasoning before the answer, under any name that servers give it."""
    beside = (_joined(part_of(message, name)) for name in _THOUGHTS)
    within = filter(_thinks, _listed(message, "content"))
    return next(filter(None, beside), "") or _joined([*within])


def _reason(choice: Any) -> str | None:
    """Why a choice ended, in OpenAI's words where one of them is meant."""
    reason = FAILED if part_of(choice, "error") else part_of(choice, "finish_reason")
    if not isinstance(reason, str) or reason in ("", "null", "None"):
        return None
    meant = (ours for ours, words in _ENDS.items() if re.search(words, reason, re.IGNORECASE))
    return next(meant, reason[:_LONGEST_REASON])


class Events:
    """Reads JSON from lines: of events, however they are cut into lines, or without events."""

    done = False
    """Whether the server has said that it is."""
    _open = ""

    def told(self, lines: Iterable[str]) -> Iterator[object]:
        """What the lines complete; an event that breaks off raises a JSONDecodeError at its end.

        Lines without data, or of words alone, keep a stream alive.
        """
        for line in (line.strip(_BOM + " \t\r") for line in lines):
            error = _ERROR_FIELD.fullmatch(line)
            said = line.removeprefix("data:").strip() if line.startswith(("data:", "{")) else ""
            said = f'{{"error": {error[1]}}}' if error else said
            self.done = self.done or said.startswith("[DONE]")
            if self.done:
                return
            if not line and self._open:
                json.loads(self._open)
            if not self._open and _WORD.fullmatch(said):
                continue
            self._open += said
            try:
                told = json.loads(self._open)
            except json.JSONDecodeError:
                continue  # so far
            self._open = ""
            yield told


class Chunks(AsyncStream[object]):
    """The chunks of a stream, and whether it has said that it is done."""

    done = False
    heard: Callable[[], None] = staticmethod(lambda: None)
    """Called with everything that comes, signs of life without a word among it."""

    @property
    def is_whole(self) -> bool:
        """Whether the server sends a completion as it would without streaming."""
        kind = self.response.headers.get("content-type", "")
        return re.search(r"\bjson\b(?!-)", kind) is not None

    async def __stream__(self) -> AsyncIterator[object]:
        events, last = Events(), b""
        async for piece in self.response.aiter_bytes():
            self.heard()
            *lines, last = (last + piece).split(b"\n")
            for told in events.told(map(bytes.decode, lines)):
                yield told
        for told in events.told([last.decode()]):
            yield told
        self.done = events.done


@dataclass
class _Call:
    """A call as far as a stream has told it."""

    index: object
    name: object = None
    function: object = None
    arguments: str = ""
    extra: object = None

    def is_over(self, name: object) -> bool:
        """Whether a function's name begins another call, by that one's id or what this one has."""
        if name or self.name:
            return bool(name and self.name and name != self.name)
        with suppress(json.JSONDecodeError):
            json.loads(self.arguments)
            return True
        return False

    def add(self, told: Any) -> None:
        """Take what is told of it."""
        said = part_of(told, "function")
        self.name = self.name or part_of(told, "id")
        self.function = self.function or part_of(said, "name")
        self.extra = self.extra or part_of(told, "extra_content")
        more = part_of(said, "arguments")
        more = json.dumps(more) if isinstance(more, dict) else more  # the object itself
        self.arguments += more if isinstance(more, str) else ""

    @property
    def whole(self) -> dict[str, Any]:
        """Itself, by OpenAI's names for its parts, and without gpt-oss's marks behind its own."""
        shown = self.name if isinstance(self.name, str) and self.name else f"call_{uuid4().hex}"
        arguments: object = self.arguments
        if self.arguments.startswith('"'):  # JSON in JSON
            with suppress(ValueError):
                arguments = json.loads(self.arguments)
        said = {"name": str(self.function or "").partition("<|")[0], "arguments": arguments or "{}"}
        called = {key: clean(part) if isinstance(part, str) else "" for key, part in said.items()}
        told = {"id": shown[:LONGEST_ID], "type": "function", "function": called}
        # Gemini's servers want it back with the call.
        return {**told, "extra_content": self.extra} if isinstance(self.extra, dict) else told


@dataclass
class _Choice:
    """A choice as far as a stream has told it."""

    on_text: Callable[[str], None] | None = None
    on_thought: Callable[[str], None] | None = None
    watcher: Watcher | None = None
    texts: list[str] = field(default_factory=list)
    refused: bool = False
    calls: list[_Call] = field(default_factory=list)
    unseen: int = 0  # pieces of thoughts and calls
    thoughts: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    finish_reason: str | None = None
    error: object = None

    @property
    def pieces(self) -> int:
        """Pieces written so far, each about a token."""
        return len(self.texts) + self.unseen

    def add(self, told: Any, message: Any, *, in_one: bool) -> None:
        """Take what a chunk tells of it by a delta, or a reply by a message `in_one` piece."""
        said, thought = _said(message), _thought(message)
        if said:
            self.refused |= not self.texts and _refuses(message)
            self.texts.append(said)
            if self.on_text is not None and not self.refused:
                self.on_text(said)
        if thought:
            self.thoughts.append(thought)
            self.unseen += 1
            if self.on_thought is not None:
                self.on_thought(thought)
        for place, call in enumerate(_called(message)):
            self._add_call(call, place if in_one else part_of(call, "index"))
        entries = logprobs_entries(told)
        self.logprobs.extend(entries)
        if self.watcher is not None:
            for place, logprob in enumerate(plausible_logprobs(entries)):
                self.watcher.wrote("" if place else said, logprob)
        self.finish_reason = _reason(told) or self.finish_reason
        self.error = part_of(told, "error")

    def _add_call(self, call: Any, index: object) -> None:
        """Take a piece of a call: of the last one of its index, unless it names the next one.

        Gemini's servers tell no index, or the same one for all calls; some an id for each piece.
        """
        same = (known for known in reversed(self.calls) if index in (known.index, None))
        known, begins = next(same, None), part_of(part_of(call, "function"), "name")
        if known is None or (begins and known.is_over(part_of(call, "id"))):
            if len(self.calls) == _MOST_CALLS:
                return
            known = _Call(index)
            self.calls.append(known)
        known.add(call)
        self.unseen += 1

    def written(self, usage: Counted, *, alone: bool, in_one: bool) -> Written:
        """The whole choice; the server's count is of it where it is alone."""
        text, thoughts = (clean("".join(pieces)) for pieces in (self.texts, self.thoughts))
        tokens = usage.completion if alone or in_one else None
        if in_one:
            thinking = usage.thinking(*_lengths(thoughts, text))
        else:
            within, said = _lengths("", text)
            in_tags = round(len(self.texts) * within / max(within + said, 1))
            thought = len(self.thoughts) + in_tags
            counts = usage._replace(completion=tokens)
            thinking = counts.thinking(thought, self.pieces - thought)
            tokens = self.pieces if tokens is None else tokens
        return Written(
            text=text,
            thoughts=thoughts,
            refused=self.refused,
            calls=tuple(call.whole for call in self.calls if call.function or call.arguments),
            entries=tuple(self.logprobs),
            logprobs=plausible_logprobs(self.logprobs),
            tokens=tokens,
            thinking=thinking,
            finish_reason=self.finish_reason,
        )


@dataclass
class StreamReader:
    """Puts the chunks of a stream together, or reads a whole reply, of a choice for each request.

    Raises:
        UpstreamError: `bad_type` of a chunk; `truncated_stream` of chunks, `empty_choices` or
            `null_content` of a whole reply, `finish_error`, or as `told_error` says.
    """

    requests: Sequence[Request]
    prompt_tokens: int = 0
    choices: dict[int | None, _Choice] = field(default_factory=dict)
    first: Any = None  # chunk that tells usage, and the last one
    last: Any = None
    model: str | None = None
    heard_at: float = -math.inf
    done: bool = False  # said so, with or without a reason
    summed: bool = False  # told usage after the last piece
    in_one: bool = False  # a reply is whole, be it in an event

    @property
    def pieces(self) -> int:
        """Pieces written so far, each about a token."""
        return sum(choice.pieces for choice in self.choices.values())

    @property
    def ended(self) -> bool:
        """Whether all choices have a reason to end."""
        reasons = [choice.finish_reason for choice in self.choices.values()]
        return len(reasons) == len(self.requests) and all(reasons)

    @property
    def wasted(self) -> Usage:
        """What is known to have been processed so far."""
        return self.abandoned if self.pieces else Usage()

    @property
    def abandoned(self) -> Usage:
        """The same of a request that is given up, whose prompt is being read if not more."""
        return Usage(prefill_tokens=self.prompt_tokens, cancelled_tokens=self.pieces)

    def add(self, chunk: object) -> None:
        """Take one chunk, or raise an UpstreamError `bad_type`; null says nothing."""
        if chunk is None:
            return
        _check(chunk, self.wasted)
        if not isinstance(chunk, dict):
            raise UpstreamError("bad_type", wasted=self.wasted)
        self.model = _name(chunk) or self.model
        choices = _listed(chunk, "choices")
        choices.sort(key=lambda choice: natural(part_of(choice, "index")) or 0)
        if told_usage(chunk) or timings_of(chunk):
            self.first, self.last = self.first or chunk, chunk
            # Some tell it with every chunk; after the end it comes without a choice.
            self.summed |= not choices
        for place, told in enumerate(choices):
            message = part_of(told, "delta")
            if message is None and (self.in_one or not self.pieces):
                message = _message(told)
                self.in_one |= bool(message)
            choice = self._choice(place if self.in_one else natural(part_of(told, "index")))
            if choice is not None:
                choice.add(told, message, in_one=self.in_one)

    def _choice(self, index: int | None) -> _Choice | None:
        """The choice of an index; None for those that nobody asked for.

        A server that tells no index writes one choice.
        """
        if self.choices and (index is None or None in self.choices):
            return next(iter(self.choices.values()))
        if index not in self.choices and self.in_one:
            self.choices[index] = _Choice()
        elif index not in self.choices and len(self.choices) < len(self.requests):
            request = self.requests[len(self.choices)]
            self.choices[index] = _Choice(request.on_text, request.on_thought, request.watcher)
        return self.choices.get(index)

    async def read(self, stream: Chunks) -> None:
        """Take all chunks; what comes after the reasons to end is not waited for for long."""
        chunks, over = aiter(stream), object()
        while True:
            try:
                async with within(_AFTER_END_S, STALLED, self) if self.ended else nullcontext():
                    chunk = await anext(chunks, over)
                self.add(None if chunk is over else chunk)
            except (UpstreamError, OpenAIError, httpx2.HTTPError):
                if not any(choice.finish_reason for choice in self.choices.values()):
                    raise
                return  # what is whole has come
            if chunk is over:
                self.done = stream.done
                return

    def result(self) -> Answered:
        """The whole choices."""
        usage, ends = counted(self.last), self.done or self.summed or self.in_one
        if usage.prompt is None:  # Anthropic's way, which has it at the beginning
            begun = counted(self.first)
            usage = usage._replace(prompt=begun.prompt, cached=begun.cached)
        choices, in_one = [*self.choices.values()], self.in_one
        # Some give no reason.
        some = in_one and usage.completion
        whole = [c for c in choices if c.finish_reason or (ends and (c.pieces or some))]
        good = [choice for choice in whole if choice.finish_reason != FAILED]
        if not good:
            raise self._failure(usage, "finish_error" if whole else "truncated_stream")
        alone = len(choices) == 1
        written = [choice.written(usage, alone=alone, in_one=in_one) for choice in good]
        shares = len(good) > 1 and (in_one or len(good) == len(choices))
        if shares and usage.completion is not None:
            written = _shared(written, usage.completion, alone=timings_of(self.last) is not None)
        return Answered(
            written=tuple(written),
            prompt_tokens=usage.prompt,
            cached_tokens=usage.cached,
            model=self.model,
            wasted=Usage(
                cancelled_tokens=0 if in_one else self.pieces - sum(c.pieces for c in good)
            ),
        )

    def _failure(self, usage: Counted, kind: str) -> UpstreamError:
        """Of an answer without a good choice; whole replies are read for why."""
        if not self.in_one:
            return UpstreamError(kind, wasted=self.wasted)
        wasted = Usage(prefill_tokens=usage.fresh, cancelled_tokens=usage.completion or 0)
        if told := next(filter(None, (c.error for c in self.choices.values())), None):
            return told_error(told, wasted)
        empty = "null_content" if self.choices else "empty_choices"
        return UpstreamError(empty if kind == "truncated_stream" else kind, wasted=wasted)


@dataclass
class Pulse:
    """When a server was last heard of, by any of those who stream from it."""

    at: float = -math.inf


@asynccontextmanager
async def while_heard(
    reader: StreamReader, pulse: Pulse, silence_s: float | None, idle_s: float
) -> AsyncIterator[None]:
    """Raises an UpstreamError `silent` or `stalled` once a server has not been heard for so long.

    Before the first piece, others that it writes to tell that it lives: a request may be queued.
    """
    now, limit = asyncio.get_running_loop().time, asyncio.timeout(None)
    begun = now()

    def due() -> float:
        if reader.pieces:
            return math.inf if reader.ended else reader.heard_at + idle_s
        heard_at = max(begun, reader.heard_at, pulse.at)
        return math.inf if silence_s is None else heard_at + silence_s

    async def watch() -> None:
        while (left_s := due() - now()) > 0:
            await asyncio.sleep(min(left_s, idle_s))
        limit.reschedule(now())

    watching = asyncio.create_task(watch())
    try:
        async with _given_up(limit, lambda: STALLED if reader.pieces else SILENT, reader):
            yield
    finally:
        watching.cancel()


def within(
    seconds: float | None, kind: str, reader: StreamReader
) -> AbstractAsyncContextManager[None]:
    """Waits no longer than that; then raises an UpstreamError with what has been written."""
    return _given_up(asyncio.timeout(seconds), lambda: kind, reader)


@asynccontextmanager
async def _given_up(
    limit: asyncio.Timeout, kind: Callable[[], str], reader: StreamReader
) -> AsyncIterator[None]:
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise UpstreamError(kind(), retryable=False, wasted=reader.abandoned) from None


def verdict(written: Written) -> float:
    """Chance of a yes against a no, by the first token; by the text where a server tells of none.

    Where neither is said it is 1/2.

    >>> verdict(Written(text="Yes.")), verdict(Written(text="No")), verdict(Written(text="Well"))
    (1.0, 0.0, 0.5)
    """
    yes = no = 0.0
    for first in told_logprobs(written.entries)[:1]:
        for told in first["top_logprobs"] or [first]:
            word, chance = told["token"].strip(_AROUND_A_WORD).lower(), math.exp(told["logprob"])
            # A token that is told alone leaves the rest to the other word.
            rest = 0.0 if first["top_logprobs"] else 1 - chance
            yes += {"yes": chance, "no": rest}.get(word, 0.0)
            no += {"no": chance, "yes": rest}.get(word, 0.0)
    if yes + no > 0:
        return yes / (yes + no)
    said = written.text.split(maxsplit=1)[:1]
    word = said[0].strip(_AROUND_A_WORD).lower() if said else ""
    return {"yes": 1.0, "no": 0.0}.get(word, 0.5)


def _shared(written: Sequence[Written], completion: int, *, alone: bool) -> list[Written]:
    """Choices with tokens of their own, from one count for all of them or for the first alone."""
    characters = [max(1, len(choice.text)) for choice in written]
    whole = characters[0] if alone else sum(characters)
    return [
        replace(choice, tokens=len(choice.logprobs) or max(1, round(completion * n / whole)))
        for choice, n in zip(written, characters, strict=True)
    ]
