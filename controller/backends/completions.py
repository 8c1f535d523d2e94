"""What upstream servers answer, read with suspicion."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionChunk

from controller.backends.resilience import UpstreamError
from controller.cost import Usage

_ROUNDING = 1e-3
"""Servers round log-probabilities of about 0 to slightly more."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """One choice of a completion.

    Attributes:
        text: what was written.
        logprobs: of its tokens, in nats; empty if unknown or implausible.
        tokens: that it has; None if unknown.
    """

    text: str
    logprobs: tuple[float, ...] = ()
    tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A completion.

    Attributes:
        written: its choices.
        prompt_tokens: None if unknown.
        cached_tokens: of the prompt.
    """

    written: tuple[Written, ...]
    prompt_tokens: int | None
    cached_tokens: int = 0


def read_completion(response: object, model: str) -> Answered:
    """The choices of a response.

    Args:
        response: as the client parsed it.
        model: that was asked for.

    Raises:
        UpstreamError: bad_type, wrong_model, empty_choices or null_content.
    """
    if not isinstance(response, ChatCompletion):
        raise UpstreamError("bad_type")
    prompt, cached, completion = _usage(response.usage)
    wasted = Usage(prefill_tokens=(prompt or 0) - cached, cancelled_tokens=completion or 0)
    if not same_model(model, response.model):
        raise UpstreamError("wrong_model", wasted=wasted)
    choices = response.choices if isinstance(response.choices, list) else []
    texts = [getattr(getattr(choice, "message", None), "content", None) for choice in choices]
    written = tuple(
        Written(
            text=_clean(text),
            logprobs=_logprobs(choice),
            tokens=_count(choice, choices, completion),
        )
        for text, choice in zip(texts, choices, strict=True)
        if isinstance(text, str)
    )
    if not written:
        raise UpstreamError("null_content" if choices else "empty_choices", wasted=wasted)
    return Answered(written=written, prompt_tokens=prompt, cached_tokens=cached)


@dataclass
class StreamReader:
    """Puts the chunks of one streamed choice together.

    Attributes:
        model: that was asked for.
    """

    model: str
    texts: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    usage: Any = None
    finished: bool = False

    @property
    def wasted(self) -> Usage:
        """What has been written so far: a chunk is about a token."""
        return Usage(cancelled_tokens=len(self.texts))

    def add(self, chunk: object) -> None:
        """Take one chunk.

        Raises:
            UpstreamError: bad_type or wrong_model.
        """
        if not isinstance(chunk, ChatCompletionChunk):
            raise UpstreamError("bad_type", wasted=self.wasted)
        if not same_model(self.model, chunk.model):
            raise UpstreamError("wrong_model", wasted=self.wasted)
        self.usage = chunk.usage or self.usage
        for choice in (chunk.choices or [])[:1]:
            content = getattr(choice.delta, "content", None)
            if isinstance(content, str) and content:
                self.texts.append(content)
            self.logprobs.extend(getattr(choice.logprobs, "content", None) or [])
            self.finished = self.finished or choice.finish_reason is not None

    def result(self) -> Answered:
        """The whole choice.

        Raises:
            UpstreamError: truncated_stream or null_content.
        """
        prompt, cached, completion = _usage(self.usage)
        if not self.finished:
            raise UpstreamError("truncated_stream", wasted=self.wasted)
        if not self.texts:
            raise UpstreamError("null_content", wasted=self.wasted)
        written = Written(
            text=_clean("".join(self.texts)),
            logprobs=plausible_logprobs(getattr(e, "logprob", None) for e in self.logprobs),
            tokens=completion if completion is not None else len(self.texts),
        )
        return Answered(written=(written,), prompt_tokens=prompt, cached_tokens=cached)


def same_model(asked: str, found: object) -> bool:
    """Whether a response may come from the model that was asked for.

    Servers add versions and leave out owners; nothing at all is believed, too.

    >>> same_model("gpt-4o", "gpt-4o-2024-08-06"), same_model("org/small", "large")
    (True, False)
    """
    if not isinstance(found, str) or not found:
        return True
    asked, found = asked.lower().rstrip("/"), found.lower().rstrip("/")
    return any(x in y for x, y in ((asked, found), (found, asked)))


def plausible_logprobs(values: Iterable[object]) -> tuple[float, ...]:
    """The values if all of them are log-probabilities, and nothing otherwise.

    >>> plausible_logprobs([-0.5, 0.0]), plausible_logprobs([-0.5, float("nan")])
    ((-0.5, 0.0), ())
    """
    found = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return ()
        if not math.isfinite(value) or value > _ROUNDING:
            return ()
        found.append(min(float(value), 0.0))
    return tuple(found)


def _clean(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can bring and UTF-8 cannot take away."""
    return text.encode("utf-8", "replace").decode()


def _logprobs(choice: Any) -> tuple[float, ...]:
    content = getattr(getattr(choice, "logprobs", None), "content", None)
    if not isinstance(content, list):
        return ()
    return plausible_logprobs(getattr(entry, "logprob", None) for entry in content)


def _count(choice: Any, choices: Sequence[Any], completion: int | None) -> int | None:
    """Tokens of a choice: the server's count if it is for this one alone."""
    if completion is None or len(choices) == 1:
        return completion
    return len(_logprobs(choice)) or max(1, completion // len(choices))


def _usage(usage: Any) -> tuple[int | None, int, int | None]:
    """Prompt tokens, those of them that were cached, and completion tokens."""
    prompt = _natural(getattr(usage, "prompt_tokens", None))
    details = getattr(usage, "prompt_tokens_details", None)
    cached = _natural(getattr(details, "cached_tokens", None)) or 0
    completion = _natural(getattr(usage, "completion_tokens", None))
    return prompt, min(cached, prompt or 0), completion


def _natural(value: object) -> int | None:
    plausible = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return value if plausible and isinstance(value, int) else None
