"""The nouns of control inside one attempt: segments and prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from controller.errors import check_range
from controller.process.cost import Usage
from controller.process.lockstep import Singles
from controller.process.types import ModelSpec, Question


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """Where a segment ends: with the attempt, or at a line's end or after `max_tokens`."""

    lines: bool = True
    max_tokens: int = 32

    def __post_init__(self) -> None:
        check_range(self, ("max_tokens",), least=1)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A piece of an attempt, all that was left of it, or an answer that was forced.

    Attributes:
        model, rung: that wrote it.
        text: what it wrote; of a forced answer, after the phrase put into the model's mouth.
        num_tokens, small_tokens: as its writer and the small model count, end and phrase included.
        mean_logprob, min_logprob: of the tokens written, in nats; None if unknown.
        entropy: of the token that the small model expects next, in nats; None once `done`.
        done: whether the attempt ends with it.
        answer: of an attempt that is done, or forced; None if none could be read.
        error: why it could not be written; None when it could.
        usage: what writing it consumed, one entry per rung.
    """

    model: str
    rung: int
    text: str
    num_tokens: int
    small_tokens: int = 0
    mean_logprob: float | None = None
    min_logprob: float | None = None
    entropy: float | None = None
    done: bool = False
    answer: str | None = None
    error: str | None = None
    usage: tuple[Usage, ...] = ()

    @property
    def brief(self) -> str:
        """Itself in a few words."""
        return self.text.strip()


@dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """A question's prompt and the segments of one attempt, by number, so far.

    Prefixes form a tree: what is written after one leaves it as it is, so redoing a segment
    is writing once more after the prefix before it.

    Attributes:
        prompt_tokens: length of the prompt per rung.
        before, segment: the prefix without its last segment, and that segment; None at the prompt.
        hidden: last hidden state of the small model, (H,) float32; None if unknown or done.
        value: log-odds that the small model ends right from here; None if unknown or done.
        usage: what reading the prompt consumed, one entry per rung; only at the prompt.
        memory: what a backend keeps of it.
    """

    question: Question
    attempt: int
    prompt_tokens: tuple[int, ...]
    before: Prefix | None = None
    segment: Segment | None = None
    hidden: Singles | None = None
    value: float | None = None
    usage: tuple[Usage, ...] = ()
    memory: Any = field(default=None, repr=False)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Segments in order."""
        if self.before is None or self.segment is None:
            return ()
        return (*self.before.segments, self.segment)

    @cached_property
    def text(self) -> str:
        """The attempt so far."""
        return "".join(segment.text for segment in self.segments)

    @property
    def done(self) -> bool:
        """Whether the attempt has ended."""
        return self.segment is not None and self.segment.done

    @property
    def num_tokens(self) -> int:
        """Tokens written so far, as counted by those who wrote them."""
        return sum(segment.num_tokens for segment in self.segments)


@dataclass(frozen=True, kw_only=True)
class SegmentRequest:
    """A segment that is asked of the model on a rung, or all that is left of the attempt.

    `index` is its number among those that this model has written after this prefix; with seed,
    question, attempt and the prefix's text it determines the segment.
    """

    prefix: Prefix
    rung: int = 0
    index: int = 0
    to_end: bool = False


class SegmentBackend(Protocol):
    """Writes attempts segment by segment, many at a time, by models of which the first is small.

    An entry of a result never depends on the other entries of the call.
    """

    models: tuple[ModelSpec, ...]
    segmentation: Segmentation

    def open(self, attempts: Sequence[tuple[Question, int]]) -> list[Prefix]:
        """Read the prompts of attempts, each a question and a number, with the small model."""

    def write(self, requests: Sequence[SegmentRequest]) -> list[Prefix]:
        """The prefixes, each longer by the segment asked for."""

    def force(self, prefixes: Sequence[Prefix]) -> list[Segment]:
        """The small model's forced answer after each prefix; none of them done."""
