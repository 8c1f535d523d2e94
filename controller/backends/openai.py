"""Attempts by a model behind an OpenAI-compatible server: vLLM, `transformers serve`, hosted.

What the ledger of an attempt says: prompt tokens that the server reports as cached are
`cached_tokens`, all others `prefill_tokens`; `cancelled_tokens` is what tries consumed that
failed, as far as the server told. Servers that report no usage are measured by the length
of their texts.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from openai import AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from opentelemetry import trace

from controller.actions import ActionKind
from controller.answers import UNSTATED, AnswerKind, answer_kind, read_answer
from controller.backends.asynchronous import no_verifier
from controller.backends.base import PromptState, Request, Verdict
from controller.backends.completions import Answered, StreamReader, Written, read_completion
from controller.backends.endpoint import Endpoint
from controller.backends.identity import blank_attempt, stream_name, stream_seed
from controller.backends.resilience import (
    MAX_RETRY_AFTER_S,
    CircuitBreaker,
    RetryBudget,
    UpstreamError,
    pause_s,
)
from controller.backends.wire import http_client, upstream_error
from controller.cost import Usage
from controller.prompts import messages, plain_text
from controller.types import Attempt, ModelSpec, Question

_tracer = trace.get_tracer("allot")

_PATH = "/chat/completions"

TOO_LATE = "deadline"
UNAVAILABLE = "breaker_open"

Observer = Callable[[str, str, float], None]
"""Told of each try: model, `ok` or what went wrong, seconds."""


class OpenAIBackend:
    """One model, as rung 0; see `controller.backends.asynchronous`.

    Args:
        endpoint: where it is.
        answers: how answers are read where a question does not say; None for `auto`.
        breaker: opens when the server fails again and again.
        retries: budget of retries.
        observe: told of each try.
        seed: of the jitter of pauses.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        answers: AnswerKind | None = None,
        breaker: CircuitBreaker | None = None,
        retries: RetryBudget | None = None,
        observe: Observer = lambda model, outcome, seconds: None,
        seed: int | None = None,
    ) -> None:
        self.endpoint, self.observe = endpoint, observe
        self.answers = answers or answer_kind(UNSTATED)
        self.breaker = breaker or CircuitBreaker()
        self.retries = retries or RetryBudget()
        self._rng = random.Random(seed)
        self._client = AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=endpoint.api_key,
            max_retries=0,
            http_client=http_client(
                connect_timeout_s=endpoint.connect_timeout_s,
                read_timeout_s=endpoint.read_timeout_s,
                max_connections=endpoint.max_connections,
                max_response_bytes=endpoint.max_response_bytes,
            ),
        )
        self._ignores_n = False
        self._seen_tokens, self._seen_characters = 1, 4

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """The one model."""
        spec = ModelSpec(
            name=self.endpoint.model,
            rung=0,
            parameters=self.endpoint.parameters,
            max_new_tokens=self.endpoint.max_new_tokens,
        )
        return (spec,)

    @property
    def reads_prompts(self) -> bool:
        """False: servers do not tell hidden states."""
        return False

    @property
    def revises(self) -> bool:
        """Whether it can be asked to revise."""
        return self.endpoint.revises

    def available(self, rung: int) -> bool:
        """Whether the circuit breaker lets requests through."""
        return self.breaker.allows

    def can_verify(self, attempt: Attempt) -> bool:
        """False: there is no verifier."""
        return False

    async def verify(self, pairs: Sequence[tuple[Question, Attempt]]) -> Verdict:
        """Never; raises `BackendError`."""
        raise no_verifier()

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def check(self) -> dict[str, str]:
        """What is wrong, if the server does not list its models."""
        try:
            await self._client.models.list(timeout=5)
        except Exception as error:  # whatever it is, the server is not ready
            return {self.endpoint.model: upstream_error(error).kind}
        return {}

    async def prompt_state(self, question: Question, *, hidden: bool) -> PromptState:
        """The prompt's length as an estimate, from what the server has counted so far."""
        chat = messages(Request(question=question, action=ActionKind.SAMPLE))
        return PromptState(prompt_tokens=(self._estimate(plain_text(chat)),))

    async def attempts(
        self, requests: Sequence[Request], *, deadline: float | None = None
    ) -> list[Attempt]:
        """One attempt per request, side by side; a failed one says why in `error`."""
        if len(requests) == 1:
            return [await self._attempt(requests[0], deadline)]
        made: list[Attempt] = []
        if self.endpoint.asks_n and not self._ignores_n:
            made = await self._together(requests, deadline)
            self._ignores_n = len(made) == 1
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._attempt(request, deadline))
                for request in requests[len(made) :]
            ]
        return made + [task.result() for task in tasks]

    async def _together(self, requests: Sequence[Request], deadline: float | None) -> list[Attempt]:
        """Attempts from one request for several choices, as many as the server makes.

        The first carries the prompt's tokens; the others found it cached.
        """
        answered = await self._answered(requests[0], len(requests), deadline)
        if isinstance(answered, Attempt):
            return []
        first = self._finished(requests[0], answered, answered.written[0])
        others = [
            self._finished(request, answered, written, cached=True)
            for request, written in zip(requests[1:], answered.written[1:], strict=False)
        ]
        return [first, *others]

    async def _attempt(self, request: Request, deadline: float | None) -> Attempt:
        answered = await self._answered(request, 1, deadline)
        if isinstance(answered, Attempt):
            return answered
        return self._finished(request, answered, answered.written[0])

    async def _answered(
        self, request: Request, n: int, deadline: float | None
    ) -> _Answered | Attempt:
        """The one retry loop: an answer, or the failed attempt."""
        started, wasted = time.monotonic(), Usage()
        self.retries.earn()
        for retry in range(self.endpoint.max_retries + 1):
            try:
                answered = await self._try(request, n, deadline)
                seconds = time.monotonic() - started
                return _Answered(**vars(answered), wasted=wasted, seconds=seconds)
            except UpstreamError as error:
                wasted, failure = wasted + error.wasted, error
            if not failure.retryable or retry == self.endpoint.max_retries:
                break
            pause = pause_s(retry, failure.retry_after_s, self._rng)
            late = deadline is not None and asyncio.get_running_loop().time() + pause >= deadline
            if pause > MAX_RETRY_AFTER_S or late or not self.retries.spend():
                break
            await asyncio.sleep(pause)
        return self._failed(request, failure.kind, wasted, time.monotonic() - started)

    async def _try(self, request: Request, n: int, deadline: float | None) -> Answered:
        if not self.breaker.allows:
            raise UpstreamError(UNAVAILABLE, retryable=False, blames_server=False)
        self.breaker.sent()
        started, outcome = time.monotonic(), "cancelled"
        try:
            with _tracer.start_as_current_span(
                f"chat {self.endpoint.model}",
                kind=trace.SpanKind.CLIENT,
                attributes={"gen_ai.request.model": self.endpoint.model},
                record_exception=False,
            ):
                async with asyncio.timeout_at(deadline):
                    answered = await self._ask(request, n)
            outcome = "ok"
        except UpstreamError as error:
            outcome = error.kind
            if error.blames_server:
                self.breaker.failed()
            raise
        except TimeoutError:
            outcome = TOO_LATE
            raise UpstreamError(TOO_LATE, retryable=False, blames_server=False) from None
        finally:
            self.observe(self.endpoint.model, outcome, time.monotonic() - started)
        self.breaker.succeeded()
        return answered

    async def _ask(self, request: Request, n: int) -> Answered:
        """One request to the server."""
        revised = request.action is ActionKind.REVISE
        model = (self.endpoint.reviser if revised else None) or self.endpoint.model
        longest = request.question.max_new_tokens or self.endpoint.max_new_tokens
        body: dict[str, Any] = {
            **self.endpoint.body,
            "model": model,
            "messages": messages(request),
            "max_tokens": min(longest, self.endpoint.max_new_tokens),
        }
        if self.endpoint.wants_logprobs:
            body["logprobs"] = True
        if self.endpoint.seed is not None:
            body["seed"] = stream_seed(
                stream_name(self.endpoint.seed, self.endpoint.model, request)
            )
        if n > 1:
            body["n"] = n
        reader = StreamReader(model)
        try:
            # `post` is what `chat.completions.create` calls once it has gone through all
            # arguments, which takes longer than everything of ours together.
            if not self.endpoint.streams or n > 1:
                response: object = await self._client.post(_PATH, cast_to=ChatCompletion, body=body)
                return read_completion(response, model)
            async with await self._client.post(
                _PATH,
                cast_to=ChatCompletion,
                body={**body, "stream": True, "stream_options": {"include_usage": True}},
                stream=True,
                stream_cls=AsyncStream[ChatCompletionChunk],
            ) as stream:
                async for chunk in stream:
                    reader.add(chunk)
            return reader.result()
        except UpstreamError:
            raise
        except Exception as error:  # the client raises what the server's bytes provoke
            raise upstream_error(error, reader.wasted) from None

    def _estimate(self, text: str) -> int:
        return max(1, round(len(text) * self._seen_tokens / self._seen_characters))

    def _finished(
        self, request: Request, answered: _Answered, written: Written, *, cached: bool = False
    ) -> Attempt:
        text, logprobs = written.text, written.logprobs
        prompt_text = plain_text(messages(request))
        prompt = answered.prompt_tokens
        if prompt is None:
            prompt = self._estimate(prompt_text)
        else:
            self._seen_tokens += prompt
            self._seen_characters += len(prompt_text)
        tokens = written.tokens if written.tokens is not None else self._estimate(text)
        found = prompt if cached else answered.cached_tokens
        usage = Usage(
            prefill_tokens=prompt - found,
            cached_tokens=found,
            decoded_tokens=tokens,
            serial_rounds=1,
            wall_s=0.0 if cached else answered.seconds,
        )
        return replace(
            self._blank(request),
            answer=read_answer(text, request.question.answers, self.answers),
            text=text,
            prompt_tokens=prompt,
            completion_tokens=tokens,
            mean_logprob=sum(logprobs) / len(logprobs) if logprobs else None,
            min_logprob=min(logprobs) if logprobs else None,
            usage=usage if cached else usage + answered.wasted,
        )

    def _failed(self, request: Request, why: str, wasted: Usage, seconds: float) -> Attempt:
        usage = replace(wasted, serial_rounds=1, wall_s=seconds)
        return replace(self._blank(request), error=why, usage=usage)

    def _blank(self, request: Request) -> Attempt:
        blank = blank_attempt(self.endpoint.model, request)
        return replace(blank, num_revisions=None if self.revises else 0)


@dataclass(frozen=True, kw_only=True)
class _Answered(Answered):
    """A completion with what it took to get it."""

    wasted: Usage
    seconds: float
