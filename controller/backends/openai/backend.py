"""Attempts by a model behind an OpenAI-compatible server: vLLM, `transformers serve`, hosted.

What the ledger of an attempt says: prompt tokens that the server reports as cached are
`cached_tokens`, all others `prefill_tokens`; `cancelled_tokens` is what tries consumed that
failed, as far as the server told. Servers that report no usage are measured by the length
of their texts. An attempt is asked for again only where nothing was generated.
"""

from __future__ import annotations

import asyncio
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from openai import APIConnectionError
from opentelemetry import trace

from controller.answers import UNSTATED, AnswerKind, answer_kind, reading_of
from controller.answers.structured import FORM, has_form, structured_answer
from controller.backends.base import DEADLINE, Backend, PromptState, Request, Warm
from controller.backends.identity import blank_attempt, stream_name, stream_seed
from controller.backends.openai.endpoint import (
    LONG,
    SHORT,
    Endpoint,
    PromptLengths,
    asks_not_to_think,
    probe,
)
from controller.backends.openai.prompt_lengths import WarmPrompts, characters, plausible
from controller.backends.openai.quirks import STREAMED, Quirks
from controller.backends.openai.replies import (
    Answered,
    Chunks,
    Pulse,
    StreamReader,
    Written,
    read_reply,
    verdict,
    while_heard,
    within,
)
from controller.backends.openai.resilience import (
    MAX_RETRY_AFTER_S,
    NO_MODEL,
    REJECTED,
    UNREADABLE,
    CircuitBreaker,
    RetryBudget,
    UpstreamError,
    pause_s,
    unsent,
    upstream_error,
)
from controller.backends.openai.tokens import MOST_ALTERNATIVES, told_logprobs
from controller.backends.prompts import Message, messages
from controller.process.actions import ActionKind
from controller.process.cost import Usage
from controller.process.types import CUT, Attempt, Question

_tracer = trace.get_tracer("allot")

_PATH = "/chat/completions"

VERDICT_TOKENS = 4
"""Longest answer to whether an attempt is right: a word, with what some put around it."""

_LONGEST = 1024
"""Tokens of an attempt that nobody limits."""
_MOST_WRITTEN = 2**16
"""Tokens of one attempt that a server is believed, thoughts that ignore `max_tokens` included."""
_THINKING = 0.05
"""Share of an attempt; the tags of an empty thought are less."""

_NO_LISTING = (REJECTED, NO_MODEL, "bad_json")
"""What is said in place of models by servers that answer all the same."""

_MOST_LESSONS = 16
"""Refusals of a server that one request learns from."""

ATTEMPT_DEADLINE = "attempt_deadline"
UNAVAILABLE = "breaker_open"

Observer = Callable[[str, str, float], None]
"""Told of each try: model, `ok` or what went wrong, seconds."""


class OpenAIBackend(Backend):
    """One model, as rung 0.

    Args:
        answers: how answers are read where a question does not say; None for `auto`.
        pulse: of its server, shared with others in front of that.
        seed: of the jitter of pauses.
    """

    reads_prompts = False

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        answers: AnswerKind | None = None,
        breaker: CircuitBreaker | None = None,
        retries: RetryBudget | None = None,
        pulse: Pulse | None = None,
        observe: Observer = lambda model, outcome, seconds: None,
        seed: int | None = None,
    ) -> None:
        self.endpoint, self.spec, self.observe = endpoint, endpoint.spec, observe
        self.answers = answers or answer_kind(UNSTATED)
        self.breaker = breaker or CircuitBreaker()
        self.retries = retries or RetryBudget()
        self._rng = random.Random(seed)
        self._client = endpoint.client()
        self.pulse = pulse or Pulse()
        self._told = self._ignores_n = False
        self._longest = self.spec.max_new_tokens or _LONGEST
        self._most = max(_MOST_WRITTEN, 4 * self._longest)
        self.quirks = Quirks(self.spec.name, endpoint.names)
        self.lengths = PromptLengths(
            self._beside, endpoint.model, self.spec.prompt_length, endpoint.tokenize
        )
        self.remembered = None if endpoint.cached is None else WarmPrompts()
        self.revises, self.verifies = endpoint.revises, endpoint.verifies
        self.models = (replace(self.spec, rung=0),)

    def takes(self, field: str, value: Any = None) -> bool:
        """Whatever the operator does not set."""
        return field not in self.endpoint.body

    def available(self, rung: int) -> bool:
        """Whether the circuit breaker lets requests through."""
        return self.breaker.allows

    @property
    def notes(self) -> tuple[str, ...]:
        """What its server refuses or does otherwise."""
        return self.quirks.notes

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def check(self) -> dict[str, str]:
        """What is wrong, if the server does not answer when it is asked for its models."""
        try:
            await self._listed()
        except UpstreamError as error:
            return {self.spec.name: error.kind}
        return {}

    async def _listed(self) -> list[dict[str, Any]]:
        """What the server lists of its models; nothing where it tells something else, or a part."""
        try:
            found: Any = await self._client.get("/models", cast_to=object, options={"timeout": 5})
        except Exception as error:  # the client raises what the server's bytes provoke
            failure = upstream_error(error)
            if failure.kind in _NO_LISTING or failure.status == 403:  # a key for answers alone
                return []
            raise failure from None
        if isinstance(found, dict):  # Together's is a list alone
            found = [] if found.get("has_more") else found.get("data")
        return (
            [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
        )

    async def prepare(self) -> tuple[str, ...]:
        """Learn from a request or two how long prompts are; says what is not as in training."""
        try:
            listed = await self._listed()
        except UpstreamError:  # `check` tells it
            return ()
        counted = await self.lengths.count(self._chat(probe(SHORT)), patience_s=5)
        short = await self._answered([probe(SHORT)])
        if isinstance(short, Attempt):
            return self.endpoint.differences(listed, None)
        if counted is None and self.spec.prompt_length is None:
            long = await self._answered([probe(LONG)])
            if isinstance(long, Answered):
                self.lengths.fit.start_from(
                    (len(SHORT), short.prompt_tokens), (len(LONG), long.prompt_tokens)
                )
        return self.endpoint.differences(listed, short)

    async def _beside(self, path: str, body: Mapping[str, Any]) -> Any:
        """A request to the server that is not part of OpenAI's interface."""
        root = self.endpoint.base_url.partition("?")[0].rstrip("/").removesuffix("/v1")
        try:
            return await self._post(root + path, cast_to=object, body=dict(body))
        except Exception as error:  # the client raises what the server's bytes provoke
            raise upstream_error(error) from None

    async def _post(self, path: str, **options: Any) -> Any:
        # `chat.completions.create` calls `post`, too, once it has gone through all arguments, which
        # takes longer than everything of ours together.
        try:
            return await self._client.post(path, **options)
        except APIConnectionError as error:
            if not unsent(error):
                raise
            return await self._client.post(path, **options)

    def _chat(self, request: Request) -> list[Message]:
        return messages(request, self.spec.prompt)

    async def prompt_states(
        self, questions: Sequence[Question], *, hidden: bool = False
    ) -> list[PromptState]:
        """Prompt lengths, counted by the server where it can; no hidden states."""
        return list(await asyncio.gather(*map(self._prompt_state, questions)))

    async def _prompt_state(self, question: Question) -> PromptState:
        chat = self._chat(Request(question=question, action=ActionKind.SAMPLE))
        tokens, known = await self.lengths.of(question, chat)
        warm = None
        if self.remembered and self.endpoint.cached is not None:
            warm = Warm(min(self.remembered.tokens(chat), tokens), self.endpoint.cached)
        return PromptState(prompt_tokens=(tokens,), counted=known, warm=(warm,))

    async def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """One attempt per request, side by side; a failed one says why in `error`."""
        if len(requests) == 1:
            return await self._made(requests)
        made: list[Attempt] = []
        if self.endpoint.asks_n and not self._ignores_n and requests[0].parent is None:
            made = await self._made(requests)
            self._ignores_n = len(made) <= 1
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._made([request])) for request in requests[len(made) :]]
        return made + [attempt for task in tasks for attempt in task.result()]

    async def _made(self, requests: Sequence[Request]) -> list[Attempt]:
        """Attempts from one request for several choices, as many as the server makes.

        The first carries the prompt's tokens; the others found it cached.
        """
        answered = await self._answered(requests)
        if isinstance(answered, Attempt):
            why = answered.error or ""
            if len(requests) > 1 and why.startswith(REJECTED):
                return []
            return [answered, *(self._failed(request, why) for request in requests[1:])]
        return [
            await self._finished(request, answered, written, cached=place > 0)
            for place, (request, written) in enumerate(
                zip(requests, answered.written, strict=False)
            )
        ]

    async def _answered(self, requests: Sequence[Request]) -> Answered | Attempt:
        """The one retry loop: an answer, or the failed attempt."""
        started, wasted = time.monotonic(), Usage()
        request = requests[0]
        deadline = request.deadline
        self.retries.earn()
        retry = lessons = 0
        while True:
            try:
                answered = await self._try(requests)
                seconds = time.monotonic() - started
                return replace(answered, wasted=wasted + answered.wasted, seconds=seconds)
            except UpstreamError as error:
                wasted, failure = wasted + error.wasted, error
            if (failure.mended or failure.room) and lessons < _MOST_LESSONS:
                lessons += 1
                requests = [_shortened(r, failure.room) for r in requests]
                continue
            generated = wasted.processed_tokens > 0
            if generated or not failure.retryable or retry == self.endpoint.max_retries:
                break
            pause = pause_s(retry, failure.retry_after_s, self._rng)
            late = deadline is not None and asyncio.get_running_loop().time() + pause >= deadline
            if pause > MAX_RETRY_AFTER_S or late or not self.retries.spend():
                break
            await asyncio.sleep(pause)
            retry += 1
        failed = self._failed(request, failure.kind, wasted, time.monotonic() - started)
        return replace(failed, retry_after_s=failure.retry_after_s)

    async def _try(self, requests: Sequence[Request]) -> Answered:
        if not self.breaker.admit():
            raise UpstreamError(UNAVAILABLE, retryable=False, blames_server=False)
        started, outcome, request = time.monotonic(), "cancelled", requests[0]
        reader = StreamReader(requests, prompt_tokens=self._estimate(request))
        limit = within(self.endpoint.attempt_deadline_s, ATTEMPT_DEADLINE, reader)
        try:
            with _tracer.start_as_current_span(
                f"chat {self.endpoint.model}",
                kind=trace.SpanKind.CLIENT,
                attributes={"gen_ai.request.model": self.endpoint.model},
                record_exception=False,
            ):
                async with asyncio.timeout_at(request.deadline), limit:
                    answered = await self._ask(requests, reader)
            outcome = "ok"
        except UpstreamError as error:
            outcome = error.kind
            if error.kind == UNREADABLE and not error.wasted.processed_tokens:
                error.wasted = reader.abandoned
            if error.blames_server:
                self.breaker.failed(error.kind)
            raise
        except TimeoutError:
            outcome = DEADLINE
            raise UpstreamError(
                DEADLINE, retryable=False, blames_server=False, wasted=reader.abandoned
            ) from None
        except asyncio.CancelledError:
            if request.on_cancelled:
                request.on_cancelled(reader.abandoned)
            raise
        finally:
            self.observe(self.spec.name, outcome, time.monotonic() - started)
        self.breaker.succeeded()
        self.quirks.answered(answered.model)
        return answered

    def _model(self, request: Request) -> str:
        revised = request.action is ActionKind.REVISE
        return (self.endpoint.reviser if revised else None) or self.endpoint.model

    def _estimate(self, request: Request) -> int:
        """Tokens of a request's prompt, where the server does not tell."""
        fit, parent = self.lengths.fit, request.parent
        more = 0 if parent is None else fit.tokens(parent.text or "")
        return fit.estimate(characters(request.question)) + more

    def _longest_of(self, question: Question) -> int:
        return min(question.max_new_tokens or self._longest, self._longest)

    def _body(self, request: Request, n: int) -> dict[str, Any]:
        body: dict[str, Any]
        if request.action is ActionKind.VERIFY:
            # A word about an attempt, in no other form than that, and its alternatives.
            body = {"logprobs": True, "top_logprobs": MOST_ALTERNATIVES}
            body |= {"max_tokens": VERDICT_TOKENS, "temperature": 0, **self.endpoint.body}
            body["temperature"] = None if body["temperature"] is None else 0
        else:
            body = {"max_tokens": self._longest_of(request.question)}
            body |= {"logprobs": self.endpoint.wants_logprobs or None, "n": n if n > 1 else None}
            body |= {"temperature": self.spec.temperature, **request.question.fields}
            seed = body.get("seed", self.endpoint.seed)
            if seed is not None:
                # Attempts that had one seed would be one attempt.
                body["seed"] = stream_seed(stream_name(seed, self.spec.name, request))
            body |= self.endpoint.body
        body |= {"model": self._model(request), "messages": self._chat(request)}
        if self.endpoint.streams or request.on_text or request.watcher:
            body |= STREAMED
        return self.quirks.suited({k: v for k, v in body.items() if v is not None})

    async def _ask(self, requests: Sequence[Request], reader: StreamReader) -> Answered:
        """One request to the server."""
        request = requests[0]
        body = self._body(request, len(requests))
        try:
            if "stream" not in body:
                return read_reply(await self._post(_PATH, cast_to=str, body=body), reader)
            limits = self.endpoint.silence_s, self.endpoint.idle_timeout_s
            async with (
                while_heard(reader, self.pulse, *limits),
                await self._post(
                    _PATH,
                    cast_to=object,
                    body=body,
                    stream=True,
                    stream_cls=Chunks,
                ) as stream,
            ):
                if stream.is_whole:
                    answered = read_reply((await stream.response.aread()).decode(), reader)
                    self.quirks.never_streams = reader.in_one
                    return answered
                stream.heard = partial(self._hear, reader)
                await reader.read(stream)
            return reader.result()
        except Exception as error:  # the client raises what the server's bytes provoke
            failure = upstream_error(error, reader.wasted)
            self.quirks.take(failure, body, request.question.fields, begun=reader.pieces > 0)
            raise failure from None

    def _hear(self, reader: StreamReader) -> None:
        self.pulse.at = reader.heard_at = asyncio.get_running_loop().time()

    def _watch_thinking(self, written: Written) -> None:
        """Warn, once, of a server that ignores that it is to answer at once."""
        body = self.endpoint.body
        if self._told or written.thinking < _THINKING or not asks_not_to_think(body):
            return
        self._told = True
        warnings.warn(
            f"{self.spec.name}: expected no thinking, as its body {dict(body)} asks, "
            f"found {written.thinking:.0%} of an attempt to be; the server ignores that body: "
            "docs/how-to/menus.md lists what servers take",
            stacklevel=2,
        )

    async def _finished(
        self, request: Request, answered: Answered, written: Written, *, cached: bool = False
    ) -> Attempt:
        text, logprobs = written.text, written.logprobs
        fit, chat = self.lengths.fit, self._chat(request)
        prompt = answered.prompt_tokens
        if prompt is None or not plausible(prompt, chat, request.question.fields):
            prompt = self._estimate(request)
        elif request.parent is None:
            self.lengths.learn(request.question, prompt)
            if self.remembered and not cached:
                self.remembered.learn(chat, prompt, min(answered.cached_tokens, prompt))
        tokens = written.tokens
        if tokens is None or tokens > self._most or (text and not tokens):
            tokens = fit.tokens(text)
        if len(answered.written) > 1:
            longest = self._longest_of(request.question)
            tokens = longest if written.finish_reason == CUT else min(tokens, longest)
        self._watch_thinking(written)
        found = prompt if cached else min(answered.cached_tokens, prompt)
        usage = Usage(
            prefill_tokens=prompt - found,
            cached_tokens=found,
            decoded_tokens=tokens,
            reasoning_tokens=round(written.thinking * tokens),
            serial_rounds=1,
            wall_s=0.0 if cached else answered.seconds,
        )
        made = replace(
            self._blank(request),
            text=text,
            prompt_tokens=prompt,
            completion_tokens=tokens,
            usage=usage if cached else usage + answered.wasted,
        )
        if request.action is ActionKind.VERIFY:
            return replace(made, verifier_score=verdict(written))
        # Who offers no tools can make nothing of calls.
        fields = request.question.fields
        calls = written.calls if "tools" in fields else ()
        calls = calls[:1] if fields.get("parallel_tool_calls") is False else calls
        answer, how = await self._read(request.question, written, calls)
        return replace(
            made,
            answer=answer,
            how=how,
            calls=calls,
            thoughts=written.thoughts,
            refused=written.refused,
            told=told_logprobs(written.entries) if request.question.fields.get("logprobs") else (),
            # A chat does not go on after calls but with what they return.
            num_revisions=0 if calls else made.num_revisions,
            finish_reason=written.finish_reason,
            mean_logprob=sum(logprobs) / len(logprobs) if logprobs else None,
            min_logprob=min(logprobs) if logprobs else None,
        )

    async def _read(
        self, question: Question, written: Written, calls: Sequence[Mapping[str, Any]]
    ) -> tuple[str | None, str | None]:
        """The answer, and the rule by which it was read."""
        if calls or has_form(question.fields):
            answer = await asyncio.to_thread(
                structured_answer, question.fields, written.text, calls
            )
            return answer, FORM
        cut = written.finish_reason == CUT
        reading = reading_of(written.text, question.answers, self.answers, cut=cut)
        return (None, None) if reading is None else (reading.answer, reading.how)

    def _failed(
        self, request: Request, why: str, wasted: Usage | None = None, seconds: float = 0.0
    ) -> Attempt:
        usage = replace(wasted or Usage(), serial_rounds=1, wall_s=seconds)
        usage = replace(usage, cancelled_tokens=min(usage.cancelled_tokens, self._most))
        if not plausible(usage.prefill_tokens, self._chat(request), request.question.fields):
            usage = replace(usage, prefill_tokens=self.lengths.fit.estimate(0))
        return replace(
            self._blank(request),
            error=why,
            usage=usage,
            prompt_tokens=usage.prefill_tokens,
            completion_tokens=usage.cancelled_tokens,
        )

    def _blank(self, request: Request) -> Attempt:
        blank = blank_attempt(self.spec.name, request)
        return replace(blank, num_revisions=None if self.revises else 0)


def _shortened(request: Request, room: int | None) -> Request:
    """A request for an attempt that fits into the room that there is, if that is told."""
    question = request.question
    return replace(request, question=replace(question, max_new_tokens=room)) if room else request
