"""Attempts by language models on this machine, through `transformers`.

What the ledger of an attempt says, and does not:

- `prefill_tokens` are prompt tokens that went through the model, without padding. Of the
  attempts on one prompt, the first in the call carries them all and the others carry
  `cached_tokens`; so does every attempt of a later call that finds the prompt still cached.
  A prefill by `prompt_states` is charged there.
- `decoded_tokens` are the tokens written, the end token included. The last of them is never
  fed back, so the model runs once less than that.
- `wall_s` is the time of the call, shared out by tokens processed: it adds up to the time
  spent, whatever was written side by side.
- `mean_logprob` and `min_logprob` are of the model's own distribution, at temperature 1,
  whatever the temperature of sampling.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import compress, takewhile
from typing import Any

import torch

from controller.answers import UNSTATED, AnswerKind, answer_kind, reading_of
from controller.backends.base import (
    TEMPERATURE,
    TOO_LONG,
    Backend,
    Pairs,
    PromptState,
    Request,
    Verdict,
)
from controller.backends.identity import blank_attempt, stream_name
from controller.backends.ladder import Ladder
from controller.backends.local.adapters import score_attempts
from controller.backends.local.decoding import Decoder
from controller.backends.local.jobs import Generation, Job, Prompt
from controller.backends.local.kv import BASE, KVPrefix
from controller.backends.local.model import LocalModel, check_rungs, load_model
from controller.backends.prompts import REVISER, Message, messages
from controller.errors import BackendError, ConfigError, check_range
from controller.process.actions import ActionKind
from controller.process.cost import Usage
from controller.process.types import CUT, Attempt, Question

__all__ = ["LocalBackend", "LocalModel", "TransformersBackend", "load_model"]

Chat = tuple[str, ...]
"""What is said in a prompt, turn by turn."""

_JUDGED_AT_A_TIME = 32

PROMPTS_AT_A_TIME = 512
"""Prompts that `prompt_states` holds in memory at once."""


class LocalBackend(Backend):
    """Backend on one local model.

    Each request has its own random stream, named after seed, question, model, action, parent
    and index, so that its attempt does not depend on what else is in the call. Up to rounding:
    sums in larger batches may differ in their last bits, and so may a token whose draw falls
    between the two.

    Args:
        temperature: of sampling; 0 always takes the likeliest token.
        max_new_tokens: longest attempt.
        max_rows: attempts written side by side.
        max_cached_prompts: prompts whose keys and values are kept for later calls, the least
            recently used going first; 0 keeps none. As many beginnings of prompts are kept.
        answers: how answers are read where a question does not say; None for `auto`.
        verifies: whether the model is asked if attempts are right.

    Raises:
        ConfigError: a number is out of range, or the model's yes and no begin with one token.
        BackendError: the model's cache is not plain keys and values.
    """

    in_step = True

    def __init__(
        self,
        local: LocalModel,
        *,
        seed: int = 0,
        temperature: float = TEMPERATURE,
        max_new_tokens: int = 192,
        max_rows: int = 256,
        max_cached_prompts: int = 256,
        answers: AnswerKind | None = None,
        verifies: bool = False,
    ) -> None:
        self.local, self.seed = local, seed
        self.temperature, self.max_new_tokens = temperature, max_new_tokens
        self.max_rows, self.max_cached_prompts = max_rows, max_cached_prompts
        check_range(self, ("temperature", "max_cached_prompts"), least=0)
        check_range(self, ("max_new_tokens", "max_rows"), least=1)
        self.answers = answers or answer_kind(UNSTATED)
        self.verifies = verifies
        if verifies and not all(local.verdicts):
            raise ConfigError(
                f"arm {local.name}: expected a model whose Yes and No begin with tokens of their "
                "own to verify, found one that cannot tell them apart; have another arm verify"
            )
        self.models = (local.spec(temperature, max_new_tokens),)
        self._decoder = Decoder(
            local.model,
            local.end_tokens,
            max_rows=max_rows,
            keep_hidden=local.rung == 0,
        )
        self._cached: OrderedDict[Chat, Prompt] = OrderedDict()
        self._beginnings: OrderedDict[tuple[int, ...], KVPrefix] = OrderedDict()

    def takes(self, field: str, value: Any = None) -> bool:
        """See `Backend.takes`; values that change nothing are taken, as a `top_p` of 1."""
        nothing = {"top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "top_logprobs": 0}
        taken = ("seed", "temperature", "stop", "logprobs")
        return field in taken or (field in nothing and value == nothing[field])

    async def prompt_states(
        self, questions: Sequence[Question], *, hidden: bool = False
    ) -> list[PromptState]:
        """Prompt lengths and, with `hidden`, what the model makes of the prompts.

        The prompts then stay cached for `attempts`, as far as there is room. `hidden` is None
        where a prompt does not fit into the context or cannot be processed.
        """
        requests = [Request(question=q, action=ActionKind.SAMPLE) for q in questions]
        if not hidden:
            return [PromptState(prompt_tokens=(len(self.local.encode(r)),)) for r in requests]
        states: list[PromptState] = []
        for start in range(0, len(requests), PROMPTS_AT_A_TIME):
            states += self._hidden_states(requests[start : start + PROMPTS_AT_A_TIME])
        return states

    def _hidden_states(self, requests: Sequence[Request]) -> list[PromptState]:
        distinct: dict[Chat, Prompt] = {}
        prompts = [self._prompt(request, distinct) for request in requests]
        return [
            PromptState(
                prompt_tokens=(len(prompt.tokens),),
                hidden=None if prompt.hidden is None else prompt.hidden.cpu().numpy(),
                usage=usage,
            )
            for prompt, usage in zip(prompts, self._read(prompts), strict=True)
        ]

    def _read(self, prompts: Sequence[Prompt]) -> list[Usage]:
        """Read prompts that fit into the context, and tell what each took that was not known."""
        started = time.perf_counter()
        self._decoder.prefill([p for p in prompts if len(p.tokens) < self.local.context_tokens])
        billed = [prompt.bill() for prompt in prompts]
        wall_s_per_token = (time.perf_counter() - started) / max(sum(billed), 1)
        return [
            Usage(
                prefill_tokens=tokens,
                cached_tokens=len(prompt.tokens) - tokens if prompt.cache else 0,
                wall_s=tokens * wall_s_per_token,
            )
            for prompt, tokens in zip(prompts, billed, strict=True)
        ]

    async def warm(self, context: Sequence[Message], rungs: int) -> dict[int, Usage]:
        """See `Backend.warm`; keys and values are kept, of so many contexts as of prompts."""
        history = tuple(context)
        questions = (Question(question_id="", text=text, history=history) for text in ("a", "1"))
        one, other = (
            self.local.encode(Request(question=question, action=ActionKind.SAMPLE))
            for question in questions
        )
        tokens = one[: sum(1 for _ in takewhile(lambda i: one[i] == other[i], range(len(one))))]
        if tokens in self._beginnings:
            self._beginnings.move_to_end(tokens)
            return {0: Usage(cached_tokens=len(tokens))}
        if len(tokens) >= self.local.context_tokens:
            raise BackendError(
                f"context of {len(tokens)} tokens: expected fewer than "
                f"{self.local.name}'s {self.local.context_tokens}"
            )
        prompt = self._begun(tokens)
        (usage,) = self._read([prompt])
        if prompt.cache is None:
            raise BackendError(f"context: {prompt.error}")
        self._beginnings[tokens] = prompt.cache
        if len(self._beginnings) > self.max_cached_prompts:
            self._beginnings.popitem(last=False)
        return {0: usage}

    def _begun(self, tokens: tuple[int, ...]) -> Prompt:
        """A prompt that goes on from the longest beginning of it that was read."""
        known = (k for k in self._beginnings if len(k) < len(tokens) and tokens[: len(k)] == k)
        longest = max(known, key=len, default=None)
        return Prompt(tokens, before=None if longest is None else self._beginnings[longest])

    def can_verify(self, attempt: Attempt) -> bool:
        """Whether the model is asked, or there is a verifier and this model wrote the attempt.

        The verifier has learned from its attempts and knows no others.
        """
        if self.verifies:
            return super().can_verify(attempt)
        known = attempt.rung == 0 and attempt.text is not None and attempt.error is None
        return known and self.local.score is not None

    async def verify(self, pairs: Pairs, deadline: float | None = None) -> Verdict:
        """Score attempts by one forward pass each over question and attempt.

        Raises:
            BackendError: there is no verifier, or an attempt has no text.
        """
        if self.verifies:
            return await super().verify(pairs)
        started = time.perf_counter()
        texts = [
            self.local.encode_attempt(question.text, attempt.text or "", question.history)
            for question, attempt in pairs
        ]
        unknown = float("nan")
        logprobs = [
            [unknown if x is None else x for x in (a.mean_logprob, a.min_logprob)] for _, a in pairs
        ]
        scores = score_attempts(self.local, texts, torch.tensor(logprobs).reshape(-1, 2))
        tokens = sum(len(text.tokens) for text in texts)
        wall_s = time.perf_counter() - started
        return Verdict(scores=scores, usage=Usage(verifier_tokens=tokens, wall_s=wall_s))

    async def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """One attempt per request, in order; a failed one says why in `error`."""
        verifies = [request.action is ActionKind.VERIFY for request in requests]
        judged = iter(self._judged(list(compress(requests, verifies))))
        written = iter(self._written([r for r, v in zip(requests, verifies, strict=True) if not v]))
        return [next(judged if each else written) for each in verifies]

    def _judged(self, requests: Sequence[Request]) -> list[Attempt]:
        """Judgements of attempts: how likely the first token says yes, of yes and no."""
        prompts = [self._begun(self.local.encode(request)) for request in requests]
        made: dict[int, Attempt] = {}
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].tokens))
        for begin in range(0, len(order), _JUDGED_AT_A_TIME):
            places = order[begin : begin + _JUDGED_AT_A_TIME]
            for i, usage in zip(places, self._read([prompts[i] for i in places]), strict=True):
                made[i] = self._judgement(requests[i], prompts[i], usage)
                prompts[i].cache = None  # its keys and values are not needed again
        return [made[i] for i in range(len(prompts))]

    def _judgement(self, request: Request, prompt: Prompt, usage: Usage) -> Attempt:
        blank, tokens = blank_attempt(self.local.name, request), len(prompt.tokens)
        if prompt.cache is None:
            error = prompt.error or f"prompt of {tokens} tokens: expected fewer"
            return replace(blank, error=error)
        yes, no = (prompt.cache.logits[ids].logsumexp(0) for ids in self.local.verdicts)
        return replace(
            blank,
            prompt_tokens=tokens,
            verifier_score=float(torch.sigmoid(yes - no)),
            usage=replace(usage, serial_rounds=1),
        )

    def _written(self, requests: Sequence[Request]) -> list[Attempt]:
        started = time.perf_counter()
        generations, jobs = self._plan(requests)
        self._decoder.run(jobs)
        seconds = time.perf_counter() - started
        total = max(sum(generation.processed_tokens for generation in generations), 1)
        return [
            self._attempt(request, generation, seconds * generation.processed_tokens / total)
            for request, generation in zip(requests, generations, strict=True)
        ]

    def _plan(self, requests: Sequence[Request]) -> tuple[list[Generation], deque[Job]]:
        """What is to come of each request, and a job for each that can be fulfilled, by length."""
        generations, jobs = [Generation() for _ in requests], []
        distinct: dict[Chat, Prompt] = {}
        for request, generation in zip(requests, generations, strict=True):
            try:
                prompt = self._prompt(request, distinct)
            except BackendError as error:
                generation.error = str(error)
                continue
            room = self.local.context_tokens - len(prompt.tokens)
            if room < 1:
                generation.error = TOO_LONG
                continue
            generation.prompt_tokens = len(prompt.tokens)
            longest = min(self.max_new_tokens, room, request.question.max_new_tokens or room)
            temperature = request.question.fields.get("temperature")
            jobs.append(
                Job(
                    prompt,
                    stream_name(self.seed, self.local.name, request),
                    longest,
                    generation,
                    self.temperature if temperature is None else temperature,
                    request.unwanted,
                    self._teller(request, longest),
                )
            )
        order = {prompt: number for number, prompt in enumerate(distinct.values())}
        jobs.sort(key=lambda job: (len(job.prompt.tokens), order[job.prompt]))
        return generations, deque(jobs)

    def _teller(self, request: Request, longest: int) -> Callable[[int, int, float], None] | None:
        """Tells the text that tokens make, once each, though a batch that fails is written anew."""
        on_text, watcher = request.on_text, request.watcher
        if "stop" in request.question.fields:  # where the text ends is known when all of it is
            on_text = None
        if on_text is None and watcher is None:
            return None
        pieces, told = self.local.pieces(), 0

        def tell(place: int, token: int, logprob: float) -> None:
            nonlocal told
            if place < told:
                return
            if not math.isfinite(logprob):
                if watcher is not None:
                    watcher.wrote("", math.nan, last=True)
                return
            told, ended = told + 1, token in self.local.end_tokens
            piece = "" if ended else pieces(token)
            if on_text is not None and piece:
                on_text(piece)
            if watcher is not None:
                last = ended or told == longest
                watcher.wrote(piece, logprob, last=last, cut=last and not ended)

        return tell

    def _prompt(self, request: Request, distinct: dict[Chat, Prompt]) -> Prompt:
        """The prompt of a request: from this call, from an earlier one, or new.

        Raises:
            BackendError: a REVISE without a parent's text.
        """
        chat = tuple(message["content"] for message in messages(request))
        if chat not in distinct:
            if request.action is ActionKind.REVISE:
                adapted = any(adapter.name == REVISER for adapter in self.local.adapters)
                adapter = REVISER if adapted else BASE
                distinct[chat] = Prompt(self.local.encode(request), adapter=adapter)
            else:
                distinct[chat] = self._remembered(chat, request)
        return distinct[chat]

    def _remembered(self, chat: Chat, request: Request) -> Prompt:
        prompt = self._cached.pop(chat, None)
        if prompt is None or prompt.error is not None:
            prompt = self._begun(self.local.encode(request))
        self._cached[chat] = prompt
        if len(self._cached) > self.max_cached_prompts:
            self._cached.popitem(last=False)
        return prompt

    def _attempt(self, request: Request, generation: Generation, wall_s: float) -> Attempt:
        ended = generation.tokens and generation.tokens[-1] in self.local.end_tokens
        tokens = generation.tokens[: -1 if ended else None]
        text, fields = self.local.decode(tokens), request.question.fields
        whole, text = text, _before(text, fields.get("stop", ()))
        ended = ended or text != whole
        failed, logprobs = generation.error is not None, generation.logprobs
        named = request.question.answers
        reading = None if failed else reading_of(text, named, self.answers, cut=not ended)
        return replace(
            blank_attempt(self.local.name, request),
            answer=None if reading is None else reading.answer,
            how=None if reading is None else reading.how,
            text=text,
            told=self._told(tokens, logprobs.tolist(), text) if fields.get("logprobs") else (),
            prompt_tokens=generation.prompt_tokens,
            completion_tokens=len(generation.tokens),
            finish_reason=None if failed else "stop" if ended else CUT,
            mean_logprob=float(logprobs.mean()) if len(logprobs) else None,
            min_logprob=float(logprobs.min()) if len(logprobs) else None,
            error=generation.error,
            usage=Usage(
                prefill_tokens=generation.prefill_tokens,
                cached_tokens=generation.cached_tokens,
                decoded_tokens=len(generation.tokens),
                cancelled_tokens=generation.cancelled_tokens,
                serial_rounds=1,
                wall_s=wall_s,
            ),
        )

    def _told(
        self, tokens: Sequence[int], logprobs: Sequence[float], text: str
    ) -> tuple[dict[str, Any], ...]:
        """Log-probabilities of the tokens of a text, as OpenAI has them."""
        pieces, told, said = self.local.pieces(), [], 0
        for token, logprob in zip(tokens, logprobs, strict=False):
            if said >= len(text):
                break
            piece = pieces(token)
            said += len(piece)
            shown = {"token": piece, "logprob": float(logprob), "bytes": list(piece.encode())}
            told.append({**shown, "top_logprobs": []})
        return tuple(told)


def _before(text: str, stop: str | Sequence[str]) -> str:
    r"""A text up to the first of the strings that end it.

    >>> _before("7\n\nQ: 8", ["Q:", "\n\n"]), _before("7", "x")
    ('7', '7')
    """
    stops = [stop] if isinstance(stop, str) else stop
    return text[: min((text.find(s) for s in stops if s in text), default=len(text))]


class TransformersBackend(Ladder):
    """A ladder of local models, the small one first, with settings of `LocalBackend`.

    It never suspends.
    """

    def __init__(self, models: Sequence[LocalModel], **settings: Any) -> None:
        check_rungs(models)
        super().__init__([LocalBackend(model, **settings) for model in models], at_once=False)
