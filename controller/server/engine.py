"""One question from request to answer, on the event loop."""

from __future__ import annotations

import asyncio
import copy
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from opentelemetry import trace
from pydantic import ConfigDict, Field

from controller.answers import answer_kind, first_same
from controller.answers.structured import has_schemas, schema_fault
from controller.answers.thoughts import Parting
from controller.backends.base import (
    DEADLINE,
    HINTS,
    Backend,
    OneSpelling,
    Pairs,
    Request,
    Verdict,
    Wrapped,
)
from controller.backends.identity import blank_attempt, text_digest
from controller.backends.ladder import GRACE_S
from controller.core import Choice, Decision, Episode, attempt_columns, play
from controller.errors import BackendError, ConfigError, check_range
from controller.policy.deciders import named_rule
from controller.process.cost import Usage
from controller.process.episodes import NO_ANSWER
from controller.process.terms import Terms
from controller.process.types import Attempt, Question
from controller.server.config import MAX_DEADLINE_S, Limits
from controller.server.limits import (
    BROKEN_OFF,
    BUDGET,
    CANCELLED,
    Budgets,
    Restricted,
    unwanted,
)
from controller.server.shared import Shared
from controller.server.variants import Variant, Variants

_tracer = trace.get_tracer("allot")


class Listener(NamedTuple):
    """Who is told of an answer while it comes about.

    Attributes:
        emit: of each choice when it is made, and of each decision once carried out.
        say: of an attempt's text as it is written, where that is returned in any case; `think` of
            its thoughts, those between tags of its text among them.
        write: which attempt of an action writes what, as it is written.
        episode_id: what they know the question by; None for a new id.
    """

    emit: Callable[[Choice], None] = lambda choice: None
    say: Callable[[str], None] | None = None
    think: Callable[[str], None] = lambda piece: None
    write: Callable[[int, str], None] | None = None
    episode_id: str | None = None


NOBODY = Listener()


@dataclass(frozen=True, kw_only=True)
class RequestTerms(Terms):
    """What a client of the service wants of an answer.

    Attributes:
        max_escalations: calls to larger models.
        give_up: whether it may end without any attempt where the price makes that best.
        rule: name of a rule that decides instead of the policy.
        without: kinds of actions that are not taken, and models that are not asked.
        explain: return what the policy saw, all votes and what attempts said, too.
        prepared: id of the context, of /v1/prepare, that the question begins with.
        question_id: for the log, to be joined with references later.
        seed: the same seed and question make the same attempts, as far as models can.
        metadata: for the log.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    max_escalations: Annotated[int, Field(ge=0, le=1000)] | None = None
    give_up: bool = False
    rule: Annotated[str, Field(max_length=64)] | None = None
    without: Annotated[tuple[Annotated[str, Field(max_length=256)], ...], Field(max_length=32)] = ()
    explain: bool = False
    prepared: Annotated[str, Field(max_length=64)] | None = None
    question_id: Annotated[str, Field(max_length=256)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31)] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, ("deadline_s",), most=MAX_DEADLINE_S)
        if self.rule is not None:
            named_rule(self.rule)


@dataclass(frozen=True, kw_only=True)
class Served:
    """What became of a question.

    Attributes:
        attempt: that is returned; None if no attempt succeeded.
        terms: what it was answered for, at a known price.
        degraded: models whose absence changed the answer's course.
        limited: budgets, the deadline or the client's `without` that did.
        ignored: hints of the client that a model does not get.
        guarded: feature that was outside its range of training, so that a rule decided.
    """

    episode_id: str
    question: Question
    caller: str
    variant: Variant
    answer: str | None
    attempt: Attempt | None
    decisions: tuple[Decision, ...]
    attempts: tuple[Attempt, ...]
    terms: RequestTerms
    cost: float
    usage: dict[str, Usage]
    degraded: tuple[str, ...]
    limited: tuple[str, ...]
    ignored: tuple[str, ...]
    guarded: str | None
    warnings: tuple[str, ...]
    decision_s: float
    wall_s: float

    @property
    def gave_up(self) -> bool:
        """Whether no attempt was made on purpose."""
        return not (self.attempts or self.degraded or self.limited)


def new_id() -> str:
    """The id of one question, for its client and the log."""
    return f"allot-{uuid.uuid4().hex}"


class NoAnswerError(BackendError):
    """No model made a single attempt that succeeded."""

    def __init__(self, served: Served) -> None:
        self.kinds = {a.error or "" for a in served.attempts}
        self.served = served
        told = (a.retry_after_s for a in served.attempts if a.retry_after_s is not None)
        self.retry_after_s = min(told, default=None)
        self.late = DEADLINE in served.limited
        said = ", ".join(sorted(self.kinds)) or "none is available"
        if self.late:
            written = sum(usage.cancelled_tokens for usage in served.usage.values())
            said += (
                f"; within {served.wall_s:.0f} s {written} tokens were written, a longer "
                "deadline_s of the question, or --deadline-s of the service, leaves models more "
                "time"
            )
        super().__init__(f"no model answered: {said}")


class Engine:
    """Answers questions side by side; what is `shared`, with other processes."""

    def __init__(
        self,
        variants: Variants,
        backend: Backend,
        *,
        limits: Limits | None = None,
        shared: Shared | None = None,
        on_served: Callable[[Served], None] = lambda served: None,
        on_stray: Callable[[str, str], None] = lambda variant, feature: None,
    ) -> None:
        self.variants, self.backend = variants, backend
        self.limits = limits or Limits()
        self.answers = answer_kind(variants.all[0].checkpoint.answers)
        self.shared = shared or Shared()
        self.escalations = Budgets(self.limits, self.shared.buckets())
        self._on_served, self._on_stray = on_served, on_stray
        self.differences: tuple[str, ...] = ()
        """From training, that were found at the start."""
        self.refused: dict[str, str] = {}
        """What lies on disk and was not taken up, by what it is."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is not as it should be, for people."""
        decided = (warning for variant in self.variants.all for warning in variant.warnings)
        noted = (*self.differences, *self.backend.notes, *self.shared.notes, *decided)
        return (*noted, *self.refused.values())

    async def answer(
        self,
        question: Question,
        terms: RequestTerms,
        *,
        caller: str = "anyone",
        sticky: str | None = None,
        listener: Listener = NOBODY,
    ) -> Served:
        """Answer a question on a client's terms; `caller` pays for escalations.

        The hash of `sticky`, or else of the question's text, chooses the variant.

        Raises:
            ConfigError: terms that are out of range.
            NoAnswerError: no attempt succeeded.
        """
        asked = _Asked(self, question, terms, caller, self.variants.assign(sticky or question.text))
        named = {"allot.arm": asked.variant.name}
        with _tracer.start_as_current_span("answer", attributes=named) as span:
            try:
                await asked.run(listener)
            except asyncio.CancelledError:
                asked.decider.limited.add(CANCELLED)
                self._settle(asked)
                raise
            span.set_attribute("allot.cost", asked.episode.cost)
        served = self._settle(asked)
        if served.limited == (BUDGET,) and served.attempt is None:
            raise ConfigError(
                f"budget: expected at least {asked.least_cost:g}, which one attempt may cost here, "
                f"found {served.terms.budget:g}"
            )
        if served.attempt is None and not (served.gave_up and terms.give_up):
            raise NoAnswerError(served)
        return served

    def _settle(self, asked: _Asked) -> Served:
        """Charge, count and log a question, however it ended."""
        asked.record_abandoned()
        episode, decider, variant = asked.episode, asked.decider, asked.variant
        variant.pricing.count(asked.terms, episode.cost)
        for feature in asked.strayed:
            self._on_stray(variant.name, feature)
        guarded = asked.strayed[0] if asked.strayed else None
        cut = {DEADLINE} & {attempt.error for attempt in episode.attempts}
        if variant.guarded and asked.decisions and asked.terms.rule is None:
            variant.watch.note(guarded)
        served = Served(
            episode_id=asked.listener.episode_id or new_id(),
            question=asked.question,
            caller=decider.caller,
            variant=variant,
            answer=episode.answer,
            attempt=episode.best_attempt() or best_unread(episode.attempts),
            decisions=tuple(asked.decisions),
            attempts=tuple(episode.attempts),
            terms=asked.allowed,
            cost=episode.cost,
            usage=episode.usage,
            degraded=tuple(sorted(decider.degraded)),
            limited=tuple(sorted(decider.limited | cut)),
            ignored=tuple(sorted(self._not_taken(asked.question.fields) & HINTS)),
            guarded=guarded,
            warnings=self.warnings,
            decision_s=decider.seconds,
            wall_s=time.perf_counter() - asked.started,
        )
        self._on_served(served)
        return served

    def _not_taken(self, fields: Mapping[str, Any]) -> set[str]:
        """Names of those that a model would not get."""
        return {name for name, value in fields.items() if not self.backend.takes(name, value)}

    async def check(
        self, question: Question, terms: RequestTerms, *, sticky: str | None = None
    ) -> None:
        """See that a question can be answered as its client wants, before anything is done.

        Raises:
            ConfigError: terms that are out of reach, fields that a model would not get, or a
                schema that is none.
        """
        variant = self.variants.assign(sticky or question.text)
        variant.pricing.price_for(terms)
        unwanted(terms.without, variant.process, self.backend.models)
        turns = (*question.history, *question.since)
        wanted = {**question.fields, **({} if terms.seed is None else {"seed": terms.seed})}
        if any(turn.keys() - {"role", "content"} for turn in turns):
            wanted.setdefault("tools", None)
        for name in sorted(self._not_taken(wanted) - HINTS):
            raise ConfigError(
                f"{name}: expected it left out, as a model here does not take it, such as one in "
                "the service's process, or the operator sets it; servers of all models, named as "
                "URL#MODEL, take it"
            )
        if has_schemas(question.fields):
            fault = await asyncio.to_thread(schema_fault, question.fields)
            if fault is not None:
                raise ConfigError(f"{fault}: expected a JSON Schema")


class _Asked(Wrapped):
    """A question that is being answered, and the backend of its episode.

    As a backend it keeps the question's deadline, and draws conclusions from what fails.
    """

    def __init__(
        self, engine: Engine, question: Question, terms: RequestTerms, caller: str, variant: Variant
    ) -> None:
        super().__init__(engine.backend)
        now, limits = asyncio.get_running_loop().time, engine.limits
        self.question = replace(question, question_id=terms.question_id or "")
        self.terms, self.variant = terms, variant
        self.allowed = replace(
            terms.at(variant.pricing.price_for(terms)),
            budget=least(terms.budget, limits.max_budget),
        )
        deadline = now() + (terms.deadline_s or limits.deadline_s)
        self.strayed: list[str] = []
        self.decisions: list[Decision] = []
        self.started = time.perf_counter()
        self.decider = Restricted(
            inner=variant.new_decider(self.strayed.append, terms.rule),
            backend=engine.backend,
            budget=engine.escalations,
            caller=caller,
            max_escalations=least(terms.max_escalations, limits.max_escalations),
            out_of_time=lambda: now() >= deadline,
            may_give_up=terms.give_up,
            unwanted=unwanted(terms.without, variant.process, engine.backend.models),
        )
        spelled = OneSpelling(self, self._canonical)
        self.episode = Episode(
            identified(question, terms),
            self if has_schemas(question.fields) else spelled,
            variant.process,
            self.allowed,
            difficulty=variant.checkpoint.difficulty,
        )
        self._answers, self._deadline = engine.answers, deadline
        self._pending: Sequence[Request] = ()  # gone out and not answered
        self._written: dict[int, int] = {}  # tokens of cancelled ones, by place, where known
        self.listener, self._says, self._said = NOBODY, False, False
        self._parting = Parting()

    async def run(self, listener: Listener) -> None:
        """Play the episode; see `Engine.answer`."""
        self.listener = listener
        decider, decisions = self.decider, self.decisions
        try:
            async with asyncio.timeout_at(self._deadline):
                await self.episode.begin()
        except TimeoutError:
            decider.limited.add(DEADLINE)
            return
        except BackendError:
            decider.degraded.add(self.models[0].name)
            return
        while not decisions or not decisions[-1].final:
            try:
                async for step in play(self.episode, decider):
                    listener.emit(step)
                    self._says = bool(listener.say) and self._returns(step)
                    if isinstance(step, Decision):
                        decisions.append(step)
                        _trace(step)
            except _VerifierError:
                decider.verifier_down = True
        unwished = not (self.episode.attempts or self.terms.give_up)
        if unwished and not (decider.degraded or decider.limited):
            decider.limited.add(BUDGET)

    @property
    def least_cost(self) -> float:
        """Most that one attempt of the small model may cost."""
        config, lengths = self.episode.config, self.episode.state.prompt_tokens
        return float(lengths[0, 0] + config.max_completion_tokens[0])

    def _returns(self, choice: Choice) -> bool:
        """Whether the attempt that a choice brings is returned whatever it says.

        A rule that always decides tells: it is asked what it would do after an answer, and after
        none. A policy may change its mind.
        """
        always = self.terms.rule or self.variant.always
        if always is None or self.episode.attempts or choice.stops or choice.action.width > 1:
            return False
        kind, row = choice.action.kind, np.zeros(1, np.int64)
        rung = self.episode.config.rung_of(kind, choice.action.arm)
        blank = blank_attempt("", Request(question=self.question, action=kind, rung=rung))
        after = [copy.deepcopy(self.episode.state) for _ in range(2)]
        for answer, state in enumerate(after, NO_ANSWER):
            state.record(row, row > 0, attempt_columns(blank, answer))
        rule = named_rule(always)
        return not any(rule.act(state, state.mask())[0] for state in after)

    def record_abandoned(self) -> None:
        """Take note of attempts that were cancelled: prompts and what was written are paid for."""
        requests, self._pending = self._pending, ()
        cancelled = []
        for place, request in enumerate(requests):
            prompt = int(self.episode.state.prompt_tokens[0, request.rung])
            written = self._written.get(place, 0)
            cancelled.append(
                replace(
                    blank_attempt(self.models[request.rung].name, request),
                    error=CANCELLED,
                    prompt_tokens=prompt,
                    completion_tokens=written,
                    usage=Usage(prefill_tokens=0 if place else prompt, cancelled_tokens=written),
                )
            )
        if cancelled:
            self.episode.made(cancelled)

    async def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """See `Backend.attempts`; a model that makes none is down for this question."""
        self._pending = requests
        asked = [
            replace(
                request,
                deadline=self._deadline,
                on_text=partial(self._tell, place) if self._says or self.listener.write else None,
                on_thought=self._think if self._says else None,
                on_cancelled=partial(self._note_cancelled, place),
            )
            for place, request in enumerate(requests)
        ]
        made = await super().attempts(asked)
        self._pending = ()
        if self._said and any(attempt.error for attempt in made):
            self.decider.limited.add(BROKEN_OFF)
        if all(attempt.error for attempt in made):
            rung = requests[0].rung
            self.decider.down.add(rung)
            if not all(attempt.error == DEADLINE for attempt in made):
                self.decider.degraded.add(self.models[rung].name)
        return made

    def _note_cancelled(self, place: int, usage: Usage) -> None:
        self._written[place] = usage.cancelled_tokens

    def _tell(self, place: int, piece: str) -> None:
        if self.listener.write:
            self.listener.write(place, piece)
        if self._says and self.listener.say:
            thought, said = self._parting.add(piece)
            if thought:
                self._think(thought)
            if said:
                self._said = True
                self.listener.say(said)

    def _think(self, piece: str) -> None:
        self._said = True
        self.listener.think(piece)

    async def verify(self, pairs: Pairs, deadline: float | None = None) -> Verdict:
        """See `Backend.verify`."""
        try:
            async with asyncio.timeout_at(self._deadline + GRACE_S):
                verdict = await super().verify(pairs, self._deadline)
        except (BackendError, TimeoutError) as error:
            raise _VerifierError from error
        if verdict.failed:
            self.decider.verifier_down = True
            if not self.decider.out_of_time():
                self.decider.degraded.add("verifier")
        return verdict

    async def _canonical(self, answer: str, known: Sequence[str]) -> str:
        """One spelling for equal answers to the question."""
        kind = self._answers
        if answer in known or all(kind.settled(text) for text in (answer, *known)):
            return answer
        try:
            async with asyncio.timeout_at(self._deadline):
                return await asyncio.to_thread(first_same, kind, answer, known)
        except TimeoutError:
            return answer


class _VerifierError(Exception):
    """The verifier cannot be reached; the episode goes on without it."""


def _trace(decision: Decision) -> None:
    trace.get_current_span().add_event(
        "decision",
        {
            "allot.action": str(decision.action),
            "allot.propensity": decision.propensity,
            "allot.decided_by": decision.decided_by,
            "allot.value": decision.value,
        },
    )


def identified(question: Question, terms: RequestTerms) -> Question:
    """The question under an id that no other request has, unless it brings a seed."""
    digest = text_digest(question.text)
    if terms.seed is None:
        return replace(question, question_id=f"{digest}/{uuid.uuid4().hex}")
    fields = {**question.fields, "seed": terms.seed}
    return replace(question, question_id=f"{digest}/seed{terms.seed}", fields=fields)


def least(*limits: float | None) -> Any:
    """The least limit that there is; None for none.

    >>> least(None, 3, 2), least(None, None)
    (2, None)
    """
    return min((limit for limit in limits if limit is not None), default=None)


def best_unread(attempts: Sequence[Attempt]) -> Attempt | None:
    """The attempt to return where no answer could be read from any of them.

    The largest model's, then the one that the verifier likes best, then the most confident,
    then the first.
    """

    def worth(attempt: Attempt) -> list[float]:
        signals = (attempt.rung, attempt.verifier_score, attempt.mean_logprob)
        return [-float("inf") if signal is None else signal for signal in signals]

    return max((made for made in attempts if made.error is None), key=worth, default=None)
