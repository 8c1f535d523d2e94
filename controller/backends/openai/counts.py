"""How many tokens servers say that they processed, in all their dialects."""

from __future__ import annotations

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
        return next(filter(None, (natural(_of(of, name)) for name in names)), 0)

    details = _of(told, "prompt_tokens_details")
    cached = count("cached_tokens", of=details) or count(*_CACHED) or count("cache_n", of=timings)
    # No prompt is empty: servers that say 0 do not count.
    prompt = count(*_PROMPT) or count("prompt_n", of=timings) + count("cache_n", of=timings)
    # Anthropic's own usage has neither what was read from its cache nor what was put there.
    created = count("cache_creation_input_tokens")
    prompt += 0 if count("prompt_tokens") else count("cache_read_input_tokens") + created
    thought = count("reasoning_tokens", of=_of(told, "completion_tokens_details"))
    counts = [natural(_of(told, name)) for name in _COMPLETION]
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
    return getattr(response, "usage", None) or _of(getattr(response, "x_groq", None), "usage")


def _of(found: Any, name: str) -> Any:
    return found.get(name) if isinstance(found, dict) else getattr(found, name, None)


def timings_of(response: Any) -> dict[str, Any] | None:
    """What llama.cpp's server adds; its usage counts the first of several choices alone."""
    timings = getattr(response, "timings", None)
    return timings if isinstance(timings, dict) else None


def natural(value: object) -> int | None:
    """A number of something, where a value is one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value < 2**31 and value == int(value) else None
