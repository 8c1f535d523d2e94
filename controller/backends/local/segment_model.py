"""One language model that writes segments, and segments in the making."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from controller.backends.local.decoding import Decoder
from controller.backends.local.jobs import Generation
from controller.backends.local.kv import KVPrefix
from controller.backends.local.model import LocalModel
from controller.errors import BackendError
from controller.process.types import Question
from controller.segments.types import Segmentation, SegmentRequest


@dataclass(eq=False)
class Draft:
    """A segment in the making.

    `prefill` and `cached` count what its writer read before it and took over, `handed` what
    the small model read after it; `small` is what the small model remembers then.
    """

    request: SegmentRequest
    generation: Generation = field(default_factory=Generation)
    prefill: int = 0
    cached: int = 0
    handed: int = 0
    small: KVPrefix | None = None
    before: Any = None

    @property
    def processed(self) -> int:
        """Tokens that went through models on its account."""
        return self.prefill + self.handed + self.generation.processed_tokens


class SegmentModel:
    """One model with decoders that end where segments, attempts and forced answers end."""

    def __init__(
        self, local: LocalModel, segmentation: Segmentation, temperature: float, max_rows: int
    ) -> None:
        self.local = local
        breaks = _line_breaks(local.tokenizer) if segmentation.lines else ()

        def decoder(ends: Iterable[int], temperature: float) -> Decoder:
            return Decoder(
                local.model,
                frozenset(ends),
                temperature=temperature,
                max_rows=max_rows,
                keep_hidden=False,
            )

        self.segments = decoder((*self.local.end_tokens, *breaks), temperature)
        self.attempts = decoder(self.local.end_tokens, temperature)
        self.forced = decoder((*self.local.end_tokens, *_line_breaks(local.tokenizer)), 0.0)

    def tokens(self, text: str) -> tuple[int, ...]:
        """Token ids of a piece of an attempt."""
        return tuple(self.local.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, generation: Generation) -> str:
        """What a generation says, without an end token."""
        return self.local.decode([t for t in generation.tokens if t not in self.local.end_tokens])

    def ends(self, draft: Draft) -> bool:
        """Whether the attempt ends with what was written; it does if that failed."""
        generation = draft.generation
        failed = generation.error is not None or not generation.tokens
        return failed or draft.request.to_end or generation.tokens[-1] in self.local.end_tokens

    def check_room(self, question: Question, tokens: int) -> None:
        """Raise BackendError unless so many tokens and one more fit into the context."""
        if tokens >= self.local.context_tokens:
            raise BackendError(
                f"{question.question_id}: expected fewer tokens than the context's "
                f"{self.local.context_tokens}, found {tokens}"
            )


def _line_breaks(tokenizer: Any) -> tuple[int, ...]:
    """Ids of the tokens that hold a line break."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return tuple(token for token, text in enumerate(texts) if "\n" in text)


def entropy(logits: torch.Tensor) -> float:
    """Of a token's distribution, (V,), in nats."""
    logprobs = logits.double().log_softmax(-1)
    return float(-(logprobs.exp() * logprobs.nan_to_num(neginf=0.0)).sum())
