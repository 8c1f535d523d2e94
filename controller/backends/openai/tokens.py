"""What servers tell of tokens, in all their dialects: how many there are, and how likely each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

_PROMPT, _COMPLETION = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")
_CACHED = ("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")
"""Names in `usage`; those of cached ones are DeepSeek's, Moonshot's and Anthropic's."""


class Counted(NamedTuple):
    """Tokens as a server counts them; prompt and completion are None where it does not."""

    prompt: int | None
    cached: int
    completion: int | None
    thought: int

    @property
    def fresh(self) -> int:
        """Tokens of the prompt that were not cached."""
        return (self.prompt or 0) - self.cached

    def thinking(self, thought: int, said: int) -> float:
        """Share of what was written that was thinking, by the server's counts or else by these."""
        if self.thought and self.completion:
            return min(self.thought / self.completion, 1.0)
        return thought / max(thought + said, 1)


def counted(response: Any) -> Counted:
    """What a response, or the chunk of a stream that tells it, counts."""
    told, timings = told_usage(response), timings_of(response) or {}

    def count(*names: str, of: Any = told) -> int:
        return next(filter(None, (natural(part_of(of, name)) for name in names)), 0)

    details, written_details = (
        next(filter(None, (part_of(told, f"{name}_details") for name in names)), None)
        for names in (_PROMPT, _COMPLETION)
    )
    cached = count("cached_tokens", of=details) or count(*_CACHED) or count("cache_n", of=timings)
    # No prompt is empty: servers that say 0 do not count.
    prompt = count(*_PROMPT) or count("prompt_n", of=timings) + count("cache_n", of=timings)
    # Anthropic's own usage has neither what was read from its cache nor what was put there.
    created = count("cache_creation_input_tokens")
    prompt += 0 if count("prompt_tokens") else count("cache_read_input_tokens") + created
    thought = count("reasoning_tokens", of=written_details) or count("reasoning_tokens")  # SGLang's
    counts = [natural(part_of(told, name)) for name in _COMPLETION]
    counts += [natural(timings.get("predicted_n"))]
    completion = next((found for found in counts if found is not None), None)
    if completion is not None and prompt:
        # xAI and Gemini count thoughts in the total alone, and Gemini does not tell them apart.
        more = count("total_tokens") - prompt - completion
        # Some count in it what their cache holds beside the prompt.
        if more in {cached, created, cached + created} - {thought}:
            more = 0
        thought = thought or max(more, 0)
        completion += thought if thought <= more else 0
    return Counted(prompt or None, min(cached, prompt), completion, thought)


def told_usage(response: Any) -> Any:
    """Where a response tells what was used; Groq's streams have a place of their own."""
    return part_of(response, "usage") or part_of(part_of(response, "x_groq"), "usage")


def part_of(found: object, name: str) -> Any:
    """What JSON holds under a name; None if it is no object, or holds nothing there."""
    return found.get(name) if isinstance(found, dict) else None


def timings_of(response: Any) -> dict[str, Any] | None:
    """What llama.cpp's server adds; its usage counts the first of several choices alone."""
    timings = part_of(response, "timings")
    return timings if isinstance(timings, dict) else None


_MOST_DIGITS = 12


def natural(value: object) -> int | None:
    """A number of something, where a value is one, or its digits."""
    if isinstance(value, str) and value.isdecimal():
        value = float(value[:_MOST_DIGITS])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value < 2**31 and value == int(value) else None


_ROUNDING = 1e-3
"""Servers round log-probabilities of about 0 to slightly more."""

MOST_ALTERNATIVES = 20


def logprobs_entries(choice: Any) -> tuple[Any, ...]:
    """What a choice tells of each of its tokens, as OpenAI has it; nothing if it does not."""
    found = part_of(choice, "logprobs")
    content, values = (part_of(found, name) for name in ("content", "token_logprobs"))
    if isinstance(content, list):
        return tuple(content)
    # Together has two lists, as the older completions have.
    tokens = part_of(found, "tokens")
    if not isinstance(tokens, list) or not isinstance(values, list):
        return ()
    return tuple({"token": t, "logprob": v} for t, v in zip(tokens, values, strict=False))


def plausible_logprobs(entries: Iterable[Any]) -> tuple[float, ...]:
    """Log-probabilities that entries tell, if all of them are such, and nothing otherwise.

    >>> told = [{"logprob": value} for value in (-0.5, 0.0, float("nan"))]
    >>> plausible_logprobs(told[:2]), plausible_logprobs(told)
    ((-0.5, 0.0), ())
    """
    found = []
    for entry in entries:
        value = part_of(entry, "logprob")
        if isinstance(value, bool) or not isinstance(value, int | float):
            return ()
        if not math.isfinite(value) or value > _ROUNDING:
            return ()
        found.append(min(float(value), 0.0))
    return tuple(found)


def told_logprobs(entries: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    """Entries of `logprobs.content` as OpenAI has them; none if they make no sense."""
    return tuple(
        {**_token(entry, value), "top_logprobs": _alternatives(entry)}
        for entry, value in zip(entries, plausible_logprobs(entries), strict=False)
    )


def _alternatives(entry: Any) -> list[dict[str, Any]]:
    found = part_of(entry, "top_logprobs")
    found = found[:MOST_ALTERNATIVES] if isinstance(found, list) else []
    return [
        _token(other, value) for other, value in zip(found, plausible_logprobs(found), strict=False)
    ]


def _token(entry: Any, logprob: float) -> dict[str, Any]:
    token = part_of(entry, "token")
    text = clean(token) if isinstance(token, str) else ""
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def clean(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can bring and UTF-8 cannot take away."""
    return text.encode("utf-8", "replace").decode()
