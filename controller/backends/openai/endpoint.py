"""Where a model behind an OpenAI-compatible server is, how it is asked, how long prompts are."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
from openai import AsyncOpenAI, DefaultAioHttpClient

from controller.backends.base import Request
from controller.backends.openai.prompt_lengths import FAR, Line, RunningFit, characters
from controller.backends.openai.replies import Answered
from controller.backends.openai.resilience import CompressedError, TooLargeError, UpstreamError
from controller.backends.places import LOOPBACK
from controller.backends.prompts import Message
from controller.errors import ConfigError, check_range
from controller.process.actions import ActionKind
from controller.process.types import ModelSpec, Question

SHORT = "What is 23 + 48?"
LONG = "Anna has 3 red apples, 12 green ones and a basket of pears that her aunt gave her. " * 8

Post = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
"""Sends JSON to a path beside `/v1`; returns JSON or raises `UpstreamError`."""

_FAR_TOKENS = 16
_SAME_SIZE = 0.01
"""Share by which counts of parameters of one model may differ."""
_PATIENCE_S, _PAUSE_S, _MOST_DOUBLINGS = 0.25, 30.0, 1
_MOST_MISSES, _REMEMBERED = 3, 1024
_SHORT_CHARS = 4096
"""Tokenised within a millisecond, as long as handing over to a thread and back."""
_KEEPALIVE_S = 30.0


def probe(text: str) -> Request:
    """Asks for one token."""
    question = Question(question_id="probe", text=text, max_new_tokens=1)
    return Request(question=question, action=ActionKind.SAMPLE)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A model on an OpenAI-compatible server.

    Attributes:
        base_url: up to and including `/v1`, with a query such as Azure's `?api-version=`.
        model: name that the server knows it by.
        spec: what the ledger knows about it. Its temperature is that of attempts where neither
            request nor `body` says one; None for the server's own.
        api_key: sent as bearer token.
        reviser: name of the model that REVISE asks, such as a LoRA adapter's; the model
            itself when None.
        revises: whether it can be asked to revise.
        verifies: whether it is asked if attempts are right.
        asks_n: ask for several choices in one request; what a server leaves out is asked
            for one by one.
        streams: stream from the server, so that slow is told from dead and the tokens of
            cancelled attempts are known.
        body: further fields of each request, such as decoding settings, in place of those of the
            same name that are sent otherwise; None leaves one off.
        cached: what a prompt token that the server found cached costs, of what another one does;
            None where all cost the same.
        tokenize: counts a chat with the model's tokenizer, if that is at hand.
        trained_for: what a policy in front of it learned with; None without one.
        connect_timeout_s: for a connection.
        attempt_deadline_s: for an attempt from request to end, waiting in the server's queue
            included.
        silence_s: before the first piece of a stream, while the server streams to nobody else;
            None for as long as an attempt may take.
        idle_timeout_s: between two pieces of a stream once the first has come: a server that
            writes slowly is waited for, one that has stopped is not.
        max_retries: further requests per attempt where nothing was generated.
        seed: from which each attempt gets one of its own, for servers that take one; None
            sends none.
    """

    base_url: str
    model: str
    spec: ModelSpec
    api_key: str = field(default="none", repr=False)
    reviser: str | None = None
    revises: bool = True
    verifies: bool = False
    asks_n: bool = False
    streams: bool = False
    wants_logprobs: bool = True
    body: Mapping[str, Any] = field(default_factory=dict)
    cached: float | None = None
    tokenize: Callable[[Sequence[Message]], int] | None = None
    trained_for: ModelSpec | None = None
    connect_timeout_s: float = 2.0
    attempt_deadline_s: float = 600.0
    silence_s: float | None = None
    idle_timeout_s: float = 120.0
    max_retries: int = 3
    max_response_bytes: int = 8 * 2**20
    max_connections: int = 256
    seed: int | None = None

    @property
    def names(self) -> frozenset[str]:
        """Under which it may answer."""
        return frozenset(n for n in (self.spec.name, self.model, self.reviser) if n)

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"base_url: expected http:// or https://, found {self.base_url!r}")
        timeouts = ("connect_timeout_s", "attempt_deadline_s", "silence_s", "idle_timeout_s")
        check_range(self, timeouts, above=0)
        check_range(self, ("max_retries",), least=0)

    def client(self) -> AsyncOpenAI:
        """A client that never tries again, follows no redirects and takes no huge responses.

        It speaks HTTP through aiohttp, in half the time.

        Raises:
            ConfigError: the environment names a proxy of another kind than HTTP's.
        """

        async def limit(response: httpx2.Response) -> None:
            # Some compress although they are asked not to.
            packed = response.headers.pop("content-encoding", "identity").lower()
            if packed in _UNREAD:
                raise CompressedError(f"response packed as {packed} against the request's wish")
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _Limited(
                response.stream, self.max_response_bytes, packed=packed in _PACKED
            )

        http_client = DefaultAioHttpClient(
            timeout=httpx2.Timeout(None, connect=self.connect_timeout_s),
            limits=httpx2.Limits(
                max_connections=self.max_connections, keepalive_expiry=_KEEPALIVE_S
            ),
            follow_redirects=False,
            # Of the environment proxies alone count: a .netrc would take the place of keys.
            trust_env=False,
            proxy=proxy_for(self.base_url),
            headers={"accept-encoding": "identity"},
            event_hooks={"response": [limit]},
        )
        base_url, _, query = self.base_url.partition("?")
        return AsyncOpenAI(
            base_url=base_url,
            default_query=dict(parse_qsl(query)),
            # Files of secrets end with a line's end, which no header may hold.
            api_key=self.api_key.strip() or "none",
            max_retries=0,
            http_client=http_client,
        )

    def differences(
        self, listed: Sequence[Mapping[str, Any]], short: Answered | None
    ) -> tuple[str, ...]:
        """What differs from training, by the server's models and its answer to `SHORT`."""
        name, trained, found = self.spec.name, self.trained_for, []
        listed_names = [str(model.get("id")) for model in listed]
        if listed and self.names.isdisjoint(listed_names):
            found.append(
                f"{name}: the server lists {', '.join(listed_names[:5])}, not {self.model}; "
                "expected one of its names after #"
            )
        if trained is not None:
            if trained.name not in self.names and not self._has_size(listed, trained.parameters):
                found.append(
                    f"{name}: the controller was trained for {trained.name}; if this is that "
                    f"model, call it so: {trained.name}=URL#{self.model}"
                )
            if trained.prompt != self.spec.prompt:
                found.append(f"{name}: training had another prompt")
        if short is None:
            return tuple(found)
        if self.wants_logprobs and not short.written[0].logprobs:
            found.append(f"{name}: the server tells no log-probabilities, which training had")
        line, tokens = self.spec.prompt_length, short.prompt_tokens
        if line is not None and tokens is not None:
            more = tokens - (line[0] + line[1] * len(SHORT))
            if abs(more) > max(_FAR_TOKENS, FAR * tokens):
                found.append(
                    f"{name}: prompts have about {more:+.0f} tokens compared with training; "
                    "another chat template or system prompt?"
                )
        return tuple(found)

    def _has_size(self, listed: Sequence[Mapping[str, Any]], parameters: float | None) -> bool:
        """Whether the server tells, as llama.cpp's does, that its model has so many parameters."""
        metas = [model.get("meta") for model in listed if model.get("id") in self.names]
        told = [meta.get("n_params") for meta in metas if isinstance(meta, dict)]
        return parameters is not None and any(
            isinstance(count, int) and abs(count - parameters) <= _SAME_SIZE * parameters
            for count in told
        )


def proxy_for(url: str) -> str | None:
    """The proxy that `HTTPS_PROXY`, `HTTP_PROXY` or `ALL_PROXY` says; None on this machine.

    Hosts of `NO_PROXY` need none either.

    Raises:
        ConfigError: it is of another kind than HTTP's.
    """
    parts, proxies = urlsplit(url), getproxies()
    host = parts.hostname or ""
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or host in LOOPBACK or proxy_bypass(host):
        return None
    if "://" not in proxy:
        return f"http://{proxy}"
    if not proxy.startswith(("http://", "https://")):
        raise ConfigError(
            f"proxy: expected http://HOST:PORT in {parts.scheme.upper()}_PROXY or ALL_PROXY, found "
            f"the scheme {proxy.partition(':')[0]!r}; name {host} in NO_PROXY to go without"
        )
    return proxy


_PACKED, _UNREAD = {"gzip", "x-gzip", "deflate"}, {"br", "zstd", "compress", "x-compress"}
"""Content encodings that are unpacked, and those that are not; all others, as `none`, are plain."""
_GZIP_OR_ZLIB = 47
"""See `zlib.decompressobj`."""


class _Limited(httpx2.AsyncByteStream):
    """A response's bytes, unpacked, up to a limit."""

    def __init__(self, stream: httpx2.AsyncByteStream, most: int, *, packed: bool) -> None:
        self._stream, self._left = stream, most
        self._unpacker = zlib.decompressobj(_GZIP_OR_ZLIB) if packed else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            plain = self._unpacked(chunk) if self._unpacker else chunk
            self._left -= len(plain)
            if self._left < 0:
                raise TooLargeError("response longer than allowed")
            yield plain

    def _unpacked(self, chunk: bytes) -> bytes:
        assert self._unpacker is not None
        try:
            return self._unpacker.decompress(chunk, self._left + 1)
        except zlib.error as error:
            raise CompressedError(str(error)) from None

    async def aclose(self) -> None:
        await self._stream.aclose()


class PromptLengths:
    """Lengths of the prompts of one model behind a server; see `Endpoint` for its arguments."""

    def __init__(
        self,
        post: Post,
        model: str,
        prior: Line | None = None,
        tokenize: Callable[[Sequence[Message]], int] | None = None,
    ) -> None:
        self.fit = RunningFit(prior)
        self._post, self._model, self._tokenize = post, model, tokenize
        self._ways = [self._by_llama_cpp, self._by_vllm]
        self._not_before, self._misses, self._late = 0.0, 0, 0
        self._expected: OrderedDict[str, int] = OrderedDict()

    async def of(self, question: Question, chat: Sequence[Message]) -> tuple[int, bool]:
        """Tokens of a prompt, and whether that is more than a guess."""
        counted = await self.count(chat, question.fields.get("tools"))
        if counted is None:
            return self.fit.estimate(characters(question)), self.fit.known
        self._expected[question.question_id] = counted
        if len(self._expected) > _REMEMBERED:
            self._expected.popitem(last=False)
        return counted, True

    def learn(self, question: Question, tokens: int) -> None:
        """What the server counted in the end; who counted otherwise is not asked again."""
        expected = self._expected.pop(question.question_id, None)
        if expected is not None:
            self._misses = self._misses + 1 if abs(expected - tokens) > 1 else 0
        self.fit.learn(characters(question), tokens)

    async def count(
        self, chat: Sequence[Message], tools: Any = None, *, patience_s: float = _PATIENCE_S
    ) -> int | None:
        """Tokens of a chat by the server's template or a tokenizer; None if nobody counts."""
        if self._misses >= _MOST_MISSES:
            return None
        asked = {"messages": list(chat), **({"tools": tools} if tools else {})}
        while self._ways and time.monotonic() >= self._not_before:
            way, late = self._ways[0], self._late
            if late:  # One question finds out whether the server counts in time again.
                self._not_before = time.monotonic() + patience_s
            try:
                async with asyncio.timeout(patience_s):
                    counted = await way(asked)
                if self._late == late:
                    self._not_before, self._late = 0.0, 0
                return counted
            except (TimeoutError, UpstreamError) as error:
                if isinstance(error, TimeoutError) or error.retryable:
                    if self._late == late:  # Once for all who asked side by side.
                        pause_s = _PAUSE_S * 2 ** min(late, _MOST_DOUBLINGS)
                        self._not_before, self._late = time.monotonic() + pause_s, late + 1
                    break
                # Another question may have found out the same meanwhile.
                self._ways = [other for other in self._ways if other != way]
        # Templates of tools differ between a tokenizer and the server that parses its calls.
        if self._tokenize is None or tools or any("tool_calls" in turn for turn in chat):
            return None
        if sum(len(str(turn.get("content"))) for turn in chat) <= _SHORT_CHARS:
            return self._tokenize(chat)
        try:
            async with asyncio.timeout(patience_s):
                return await asyncio.to_thread(self._tokenize, chat)
        except TimeoutError:
            return None

    async def _by_llama_cpp(self, asked: Mapping[str, Any]) -> int:
        rendered = await self._post("/apply-template", asked)
        text = _entry(rendered, "prompt", str)
        whole = {"content": text, "add_special": True, "parse_special": True}
        return len(_entry(await self._post("/tokenize", whole), "tokens", list))

    async def _by_vllm(self, asked: Mapping[str, Any]) -> int:
        chat = {"model": self._model, **asked, "add_generation_prompt": True}
        return int(_entry(await self._post("/tokenize", chat), "count", int))


def _entry(found: Any, name: str, kind: type) -> Any:
    value = found.get(name) if isinstance(found, dict) else None
    if not isinstance(value, kind):
        raise UpstreamError("bad_type", retryable=False)
    return value


_OFF: Sequence[tuple[tuple[str, ...], Any]] = (
    (("reasoning_effort",), "none"),
    (("reasoning", "effort"), "none"),
    (("reasoning", "enabled"), False),
    (("thinking", "type"), "disabled"),
    (("chat_template_kwargs", "enable_thinking"), False),
    (("enable_thinking",), False),
    (("think",), False),
)
"""Fields by which servers are asked for no thinking, and what they hold then."""


def asks_not_to_think(body: Mapping[str, Any]) -> bool:
    """Whether fields of a request ask for an answer without thinking."""

    def held(path: Sequence[str]) -> Any:
        found: Any = body
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    return any(held(path) == off for path, off in _OFF)
