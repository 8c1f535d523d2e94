"""Where a model behind an OpenAI-compatible server is, and how it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controller.backends.openai.prompt_lengths import Line
from controller.backends.openai.wire import MAX_RESPONSE_BYTES
from controller.backends.prompts import Message
from controller.errors import ConfigError
from controller.process.types import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A model on an OpenAI-compatible server.

    Attributes:
        base_url: up to and including `/v1`.
        model: name that the server knows it by.
        name: in traces, tables and decisions; `model` when None.
        api_key: sent as bearer token.
        reviser: name of the model that REVISE asks, such as a LoRA adapter's; the model
            itself when None.
        revises: whether it can be asked to revise.
        parameters: for the ledger.
        max_new_tokens: longest attempt.
        asks_n: ask for several choices in one request; what a server leaves out is asked
            for one by one.
        streams: stream from the server, so that slow is told from dead and the tokens of
            cancelled attempts are known.
        wants_logprobs: ask for log-probabilities.
        body: further fields of each request, such as decoding settings.
        prompt: chat that it is asked with; see `ModelSpec.prompt`.
        prompt_length: line to estimate the length of prompts by where nobody counts them; see
            `ModelSpec.prompt_length`.
        tokenize: counts a chat with the model's tokenizer, if that is at hand.
        trained_for: what a policy in front of it learned with; None without one.
        connect_timeout_s: for a connection.
        attempt_deadline_s: for an attempt from request to end, waiting in the server's queue
            included.
        idle_timeout_s: between two pieces of a stream once the first has come: a server that
            writes slowly is waited for, one that has stopped is not.
        max_retries: further requests per attempt where nothing was generated.
        max_response_bytes: longest response.
        max_connections: at the same time.
        seed: from which each attempt gets one of its own, for servers that take one; None
            sends none.
    """

    base_url: str
    model: str
    name: str | None = None
    api_key: str = field(default="none", repr=False)
    reviser: str | None = None
    revises: bool = True
    parameters: float | None = None
    max_new_tokens: int = 1024
    asks_n: bool = False
    streams: bool = False
    wants_logprobs: bool = True
    body: Mapping[str, Any] = field(default_factory=dict)
    prompt: tuple[Message, ...] = ()
    prompt_length: Line | None = None
    tokenize: Callable[[Sequence[Message]], int] | None = None
    trained_for: ModelSpec | None = None
    connect_timeout_s: float = 2.0
    attempt_deadline_s: float = 600.0
    idle_timeout_s: float = 120.0
    max_retries: int = 3
    max_response_bytes: int = MAX_RESPONSE_BYTES
    max_connections: int = 256
    seed: int | None = None

    @property
    def shown_name(self) -> str:
        """As others know it."""
        return self.name or self.model

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"base_url: expected http:// or https://, found {self.base_url!r}")
        waits = (self.connect_timeout_s, self.attempt_deadline_s, self.idle_timeout_s)
        if min(waits) <= 0 or self.max_retries < 0:
            raise ConfigError(
                "endpoint: expected positive time-outs and 0 or more retries, found "
                f"{waits} and {self.max_retries}"
            )
