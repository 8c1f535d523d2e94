"""Where a model behind an OpenAI-compatible server is, and how it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.backends.wire import MAX_RESPONSE_BYTES
from controller.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A model on an OpenAI-compatible server.

    Attributes:
        base_url: up to and including `/v1`.
        model: name that the server knows it by.
        api_key: sent as bearer token.
        reviser: name of the model that REVISE asks, such as a LoRA adapter's; the model
            itself when None.
        revises: whether it can be asked to revise.
        parameters: for the ledger.
        max_new_tokens: longest attempt.
        asks_n: ask for several choices in one request; what a server leaves out is asked
            for one by one.
        streams: stream from the server, so that the tokens of cancelled attempts are known.
        wants_logprobs: ask for log-probabilities.
        body: further fields of each request, such as decoding settings.
        connect_timeout_s: for a connection.
        read_timeout_s: between two bytes.
        max_retries: further tries per attempt.
        max_response_bytes: longest response.
        max_connections: at the same time.
        seed: from which each attempt gets one of its own, for servers that take one; None
            sends none.
    """

    base_url: str
    model: str
    api_key: str = field(default="none", repr=False)
    reviser: str | None = None
    revises: bool = True
    parameters: float | None = None
    max_new_tokens: int = 1024
    asks_n: bool = False
    streams: bool = False
    wants_logprobs: bool = True
    body: Mapping[str, Any] = field(default_factory=dict)
    connect_timeout_s: float = 2.0
    read_timeout_s: float = 60.0
    max_retries: int = 3
    max_response_bytes: int = MAX_RESPONSE_BYTES
    max_connections: int = 256
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"base_url: expected http:// or https://, found {self.base_url!r}")
        if min(self.connect_timeout_s, self.read_timeout_s) <= 0 or self.max_retries < 0:
            raise ConfigError("endpoint: expected positive time-outs and 0 or more retries")
