"""The one interface between the decision loop and whatever makes attempts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from controller.actions import ActionKind
from controller.cost import Usage
from controller.types import Attempt, ModelSpec, Question

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TEMPERATURE = 0.5
"""Of sampling, where nobody says otherwise: docs/decisions/0023."""


def recorded_temperature(models: Sequence[ModelSpec]) -> float:
    """Temperature of a ladder's recorded attempts; the default where it was not noted."""
    temperature = models[0].temperature
    return TEMPERATURE if temperature is None else temperature


class Flag(Protocol):
    """Something that is set at some time, by another thread perhaps; `threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether it is set by now."""
        ...


@dataclass(frozen=True, kw_only=True)
class Request:
    """An attempt that the loop asks for.

    Attributes:
        question: what to answer.
        action: SAMPLE, REVISE or ESCALATE.
        rung: model on the ladder that is to make it.
        index: number of the attempt among those of the same question, model and action
            (for REVISE: of the same parent); together with the backend's seed it
            determines the attempt.
        parent: attempt to revise; None unless the action is REVISE.
        unwanted: set once nobody waits for the attempt any more; backends that can may then
            give it up.
    """

    question: Question
    action: ActionKind
    rung: int = 0
    index: int = 0
    parent: Attempt | None = None
    unwanted: Flag | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class PromptState:
    """What the small model makes of a question before it writes anything.

    Attributes:
        prompt_tokens: prompt length per rung.
        counted: whether the small model's was counted, or estimated from counts of the same
            model; if not, it is a guess that a policy does not get to see.
        hidden: last hidden state of the small model at the end of the prompt, (H,)
            float32; None when it was not asked for or the backend cannot tell.
        available: attempts that can be had per rung; None for as many as one likes.
        usage: what finding this out took on the small model.
    """

    prompt_tokens: tuple[int, ...]
    counted: bool = True
    hidden: NDArray[np.float32] | None = None
    available: tuple[int, ...] | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a verifier makes of some attempts.

    Attributes:
        scores: probability that each is right.
        usage: what finding this out took on the small model.
    """

    scores: tuple[float, ...]
    usage: Usage = field(default_factory=Usage)


class Backend(Protocol):
    """Makes attempts, many at a time.

    A prompt's first attempt in an episode pays its prefill; later ones find it cached.
    A generation that fails is returned as an attempt with `error`, never raised, so that
    one bad request does not lose the others.
    """

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """One model per rung, the small one first."""
        ...

    def prompt_states(
        self, questions: Sequence[Question], *, hidden: bool = False
    ) -> list[PromptState]:
        """Prompt length of each question and, if asked for and known, its hidden state.

        An episode begins with this call. With `hidden`, the small model's prefill is
        paid here, and the first attempt then finds the prompt cached.
        """
        ...

    def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """One attempt per request, in order.

        The result for a request depends on the request and the backend's seed alone,
        never on the others in the call.
        """
        ...

    def can_verify(self, attempt: Attempt) -> bool:
        """Whether `verify` could score an attempt."""
        ...

    def verify(self, pairs: Sequence[tuple[Question, Attempt]]) -> Verdict:
        """Score attempts, each with the question that it tries to answer.

        Raises:
            BackendError: there is no verifier, or it cannot score one of them.
        """
        ...
