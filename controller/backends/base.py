"""The one interface between the decision loop and whatever makes attempts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from controller.errors import BackendError
from controller.process.actions import ActionKind
from controller.process.cost import Usage
from controller.process.types import Attempt, ModelSpec, Question

if TYPE_CHECKING:
    from controller.process.lockstep import Singles

T = TypeVar("T")

Canonical = Callable[[str, Sequence[str]], Awaitable[str]]
"""The one of the known answers that an answer is the same as, or the answer itself."""

TEMPERATURE = 0.5
"""Of sampling, where nobody says otherwise: docs/decisions/0023."""

TOO_LONG = "context_length_exceeded"
"""`Attempt.error` where a prompt leaves no room in the context of its model."""
DEADLINE = "deadline"
"""`Attempt.error` of one that was not done by `Request.deadline`."""

UNLIMITED = 2**31
"""Attempts that can be had of a model that makes as many as one likes."""


def recorded_temperature(models: Sequence[ModelSpec]) -> float:
    """Temperature of a ladder's recorded attempts; the default where it was not noted."""
    temperature = models[0].temperature
    return TEMPERATURE if temperature is None else temperature


Pairs = Sequence[tuple[Question, Attempt]]
"""Attempts, each with the question that it tries to answer."""


class Watcher(Protocol):
    """Is told of an attempt while it is written."""

    def wrote(self, text: str, logprob: float, *, last: bool = False, cut: bool = False) -> None:
        """One more token: text that is complete with it, and its log-probability in nats.

        Backends that write several attempts in step tell the `last` one as such, whether it is
        one because the attempt is `cut`, and NaN for the log-probability where an attempt fails.
        """


@dataclass(frozen=True, kw_only=True)
class Request:
    """An attempt that the loop asks for.

    Attributes:
        index: number of the attempt among those of the same question, model and action
            (for REVISE: of the same parent); together with the backend's seed it
            determines the attempt.
        parent: attempt to revise or to verify; None for other actions.
        unwanted: set once nobody waits for the attempt any more; backends that can may then
            give it up.
        on_text: told each piece of text as it is written, by backends that can; `on_thought` of
            thoughts, by those whose servers tell them apart.
        watcher: told each token, by backends that know log-probabilities while they write.
        on_cancelled: told what had been processed if the call is cancelled, by the same.
        deadline: a time of the event loop's clock; what is not done by then is returned as an
            attempt with `error`, by backends that suspend.
    """

    question: Question
    action: ActionKind
    rung: int = 0
    index: int = 0
    parent: Attempt | None = None
    unwanted: Event | None = field(default=None, compare=False)
    on_text: Callable[[str], None] | None = field(default=None, compare=False)
    on_thought: Callable[[str], None] | None = field(default=None, compare=False)
    watcher: Watcher | None = field(default=None, compare=False)
    on_cancelled: Callable[[Usage], None] | None = field(default=None, compare=False)
    deadline: float | None = field(default=None, compare=False)


HINTS = frozenset(
    ("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier")
)
"""Fields of `Question.fields` that change no answer: models that do not get them lose nothing."""


class Warm(NamedTuple):
    """How much of a prompt is expected to be cached, and what that costs of what it did not.

    Attributes:
        tokens: at its beginning.
        share: cost of a cached token, of an uncached one's.
    """

    tokens: int
    share: float


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
        warm: what is expected to be cached per rung; None for rungs whose cached tokens cost what
            others do, and empty for none of any.
    """

    prompt_tokens: tuple[int, ...]
    counted: bool = True
    hidden: Singles | None = None
    available: tuple[int, ...] | None = None
    warm: tuple[Warm | None, ...] = ()
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The probability that each of some attempts is right, by a verifier.

    Attributes:
        scores: None of an attempt whose judgement failed.
        usage: of all judgements, those that failed among them.
    """

    scores: tuple[float | None, ...]
    usage: Usage = field(default_factory=Usage)

    @property
    def failed(self) -> bool:
        """Whether there is no judgement at all."""
        return all(score is None for score in self.scores)


class Backend(ABC):
    """Makes attempts, many at a time.

    Those that need not wait for anything else, as recordings and models in this process, never
    suspend, and `run_now` gets their results without an event loop. A cancelled call cancels
    what it has asked of others.

    A prompt's first attempt in an episode pays its prefill; later ones find it cached.
    A generation that fails is returned as an attempt with `error`, never raised, so that
    one bad request does not lose the others.

    Attributes:
        reads_prompts: whether it can tell the small model's prompt state.
        revises: whether its small model can be asked to revise.
        verifies: whether its model, of one alone, is asked if attempts are right.
        in_step: whether attempts of one call are written token by token side by side.
    """

    models: tuple[ModelSpec, ...]
    in_step: bool = False
    reads_prompts: bool = True
    revises: bool = True
    verifies: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of its servers, found while they are asked."""
        return ()

    def takes(self, field: str, value: Any = None) -> bool:
        """Whether all models get a value of a field of `Question.fields`, or turns about `tools`.

        What a seed is for, ids of questions do.
        """
        return field == "seed"

    @abstractmethod
    async def prompt_states(
        self, questions: Sequence[Question], *, hidden: bool = False
    ) -> list[PromptState]:
        """Prompt length of each question and, if asked for and known, its hidden state.

        With `hidden`, the small model's prefill is paid here, and the first attempt then finds
        the prompt cached.
        """

    @abstractmethod
    async def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """One attempt per request, in order.

        The result for a request depends on the request and the backend's seed alone,
        never on the others in the call.
        """

    def can_verify(self, attempt: Attempt) -> bool:
        """Whether `verify` could score an attempt: where a model is asked, one that has a text."""
        return self.verifies and bool(attempt.text) and attempt.error is None and not attempt.calls

    async def verify(self, pairs: Pairs, deadline: float | None = None) -> Verdict:
        """Score attempts, each with the question that it tries to answer.

        Judgements of servers that are not done by a deadline, as that of a request, have failed.

        Raises:
            BackendError: there is no verifier, or it cannot be reached.
        """
        if not self.verifies:
            raise BackendError("verify: expected a backend with a verifier, found none")
        asked = [
            Request(question=q, action=ActionKind.VERIFY, parent=a, deadline=deadline)
            for q, a in pairs
        ]
        judgements = await self.attempts(asked)
        used = sum((made.usage for made in judgements), Usage())
        return Verdict(
            scores=tuple(made.verifier_score for made in judgements),
            usage=Usage(
                verifier_tokens=used.processed_tokens,
                cached_tokens=used.cached_tokens,
                wall_s=used.wall_s,
            ),
        )

    def available(self, rung: int) -> bool:
        """Whether a model is worth asking now."""
        return True

    async def check(self) -> dict[str, str]:
        """What is wrong with which model, by name; empty when all answer."""
        return {}

    async def prepare(self) -> tuple[str, ...]:
        """Find out what questions need; says what is not as in training."""
        return ()

    async def warm(self, context: Sequence[dict[str, Any]], rungs: int) -> dict[int, Usage]:
        """Have models read what questions will begin with, before there are any.

        A server is asked for one token after it, and keeps what it has read if it caches prefixes.

        Args:
            context: first turns of conversations to come, `role` and `content` each.
            rungs: how many of the models, the small one first.

        Returns:
            What that took, by the rung of each model that has read it.

        Raises:
            BackendError: no model can read it.
        """
        question = Question(question_id="warm", text=".", history=tuple(context), max_new_tokens=1)
        asked = Request(question=question, action=ActionKind.SAMPLE)
        (made,) = await self.attempts([asked])
        if made.error is not None:
            raise BackendError(f"context: {made.error}")
        return {0: made.usage}

    async def close(self) -> None:
        """Let go of connections and threads."""
        return


class Wrapped(Backend):
    """Does what another backend does; for those that change a part of it."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.models = backend, backend.models
        self.reads_prompts, self.revises = backend.reads_prompts, backend.revises
        self.verifies, self.in_step = backend.verifies, backend.in_step

    @property
    def notes(self) -> tuple[str, ...]:
        """See `Backend.notes`."""
        return self.backend.notes

    def takes(self, field: str, value: Any = None) -> bool:
        """See `Backend.takes`."""
        return self.backend.takes(field, value)

    async def prompt_states(
        self, questions: Sequence[Question], *, hidden: bool = False
    ) -> list[PromptState]:
        """See `Backend.prompt_states`."""
        return await self._done(self.backend.prompt_states(questions, hidden=hidden))

    async def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """See `Backend.attempts`."""
        return await self._done(self.backend.attempts(requests))

    def can_verify(self, attempt: Attempt) -> bool:
        """See `Backend.can_verify`."""
        return self.backend.can_verify(attempt)

    async def verify(self, pairs: Pairs, deadline: float | None = None) -> Verdict:
        """See `Backend.verify`."""
        return await self._done(self.backend.verify(pairs, deadline))

    def available(self, rung: int) -> bool:
        """See `Backend.available`."""
        return self.backend.available(rung)

    async def check(self) -> dict[str, str]:
        """See `Backend.check`."""
        return await self._done(self.backend.check())

    async def prepare(self) -> tuple[str, ...]:
        """See `Backend.prepare`."""
        return await self._done(self.backend.prepare())

    async def warm(self, context: Sequence[dict[str, Any]], rungs: int) -> dict[int, Usage]:
        """See `Backend.warm`."""
        return await self._done(self.backend.warm(context, rungs))

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._done(self.backend.close())

    async def _done(self, work: Coroutine[Any, Any, T]) -> T:
        """What the other backend was asked for; those that wait for it in another way say how."""
        return await work


class OneSpelling(Wrapped):
    """Gives answers that are the same the spelling of the first, throughout one episode."""

    def __init__(self, backend: Backend, canonical: Canonical) -> None:
        super().__init__(backend)
        self._canonical = canonical
        self._known: list[str] = []

    async def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """See `Backend.attempts`."""
        return [await self._spelled(made) for made in await super().attempts(requests)]

    async def _spelled(self, attempt: Attempt) -> Attempt:
        if attempt.answer is None:
            return attempt
        answer = await self._canonical(attempt.answer, self._known)
        if answer not in self._known:
            self._known.append(answer)
        return attempt if answer == attempt.answer else replace(attempt, answer=answer)


def run_now(work: Awaitable[T]) -> T:
    """The result of what never suspends, without an event loop.

    Raises:
        BackendError: it does suspend.
    """
    running = work.__await__()
    try:
        next(running)
    except StopIteration as done:
        return done.value
    running.close()
    raise BackendError(
        "backend: expected one that never suspends, found one that waits; wrap it in "
        "controller.backends.ladder.BlockingBackend"
    )
