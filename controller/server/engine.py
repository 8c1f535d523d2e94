"""One question from request to answer, on the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from opentelemetry import trace

from controller.answers import answer_kind
from controller.backends.base import Backend, Request, Verdict, Wrapped
from controller.backends.spelling import OneSpelling
from controller.core import Choice, Decision, Episode, play
from controller.errors import BackendError
from controller.process.types import Attempt, Question
from controller.server.arms import Arms
from controller.server.equivalence import ByKind, Equivalence
from controller.server.limits import EscalationBudget, Limits
from controller.server.restrict import DEADLINE, Restricted
from controller.server.terms import NoAnswerError, RequestTerms, Served, best_unread

_tracer = trace.get_tracer("allot")

Emit = Callable[[Choice], None]


class Engine:
    """Answers questions side by side.

    Args:
        arms: who decides; replaced as a whole by a reload.
        backend: makes the attempts.
        limits: what callers may spend.
        equivalence: when two answers are the same; as the first arm's checkpoint says when None.
        on_served: told of every question that has come to an end.
        on_stray: told of every question that strays: arm and feature.
    """

    def __init__(
        self,
        arms: Arms,
        backend: Backend,
        *,
        limits: Limits | None = None,
        equivalence: Equivalence | None = None,
        on_served: Callable[[Served], None] = lambda served: None,
        on_stray: Callable[[str, str], None] = lambda arm, feature: None,
    ) -> None:
        self.arms, self.backend = arms, backend
        self.limits = limits or Limits()
        self.equivalence = equivalence or ByKind(answer_kind(arms.arms[0].checkpoint.answers))
        self.escalations = EscalationBudget(self.limits)
        self._on_served, self._on_stray = on_served, on_stray
        self.differences: tuple[str, ...] = ()
        """From training, that were found at the start."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is not as it should be, for people."""
        return self.differences + tuple(w for arm in self.arms.arms for w in arm.watch.warnings)

    async def answer(
        self,
        question: Question,
        terms: RequestTerms,
        *,
        caller: str = "anyone",
        sticky: str | None = None,
        emit: Emit = lambda choice: None,
    ) -> Served:
        """Answer a question.

        Args:
            question: to answer.
            terms: of the asker.
            caller: who pays for escalations.
            sticky: what is hashed to choose an arm; the question's text when None.
            emit: told of each choice when it is made, and of each decision once carried out.

        Raises:
            ConfigError: terms that are out of range.
            NoAnswerError: no attempt succeeded.
        """
        started, loop = time.perf_counter(), asyncio.get_running_loop()
        arm = self.arms.assign(sticky or question.text)
        allowed = replace(
            terms.at(arm.pricing.price_for(terms)),
            budget=least(terms.budget, self.limits.max_budget),
        )
        deadline = loop.time() + min(
            terms.deadline_s or self.limits.default_deadline_s, self.limits.max_deadline_s
        )
        strayed: list[str] = []
        decider = Restricted(
            inner=arm.new_decider(strayed.append),
            backend=self.backend,
            budget=self.escalations,
            caller=caller,
            max_escalations=least(terms.max_escalations, self.limits.max_escalations),
            out_of_time=lambda: loop.time() >= deadline,
            may_give_up=terms.give_up,
        )
        episode = Episode(
            identified(question, terms),
            self._attended(decider, deadline),
            arm.process,
            allowed,
            difficulty=arm.checkpoint.difficulty,
        )
        with _tracer.start_as_current_span("answer", attributes={"allot.arm": arm.name}) as span:
            decisions = await self._run(episode, decider, deadline, emit)
            span.set_attribute("allot.cost", episode.cost)
        arm.pricing.count(terms, episode.cost)
        for feature in strayed:
            self._on_stray(arm.name, feature)
        guarded = strayed[0] if strayed else None
        if arm.guarded and decisions:
            arm.watch.note(guarded)
        served = Served(
            episode_id=f"allot-{uuid.uuid4().hex}",
            question=replace(question, question_id=terms.question_id or ""),
            caller=caller,
            arm=arm,
            answer=episode.answer,
            attempt=episode.best_attempt() or best_unread(episode.attempts),
            decisions=tuple(decisions),
            attempts=tuple(episode.attempts),
            terms=allowed,
            cost=episode.cost,
            usage=episode.usage,
            degraded=tuple(sorted(decider.degraded)),
            limited=tuple(sorted(decider.limited)),
            guarded=guarded,
            warnings=self.warnings,
            decision_s=decider.seconds,
            wall_s=time.perf_counter() - started,
        )
        self._on_served(served)
        if served.attempt is None and not (served.gave_up and terms.give_up):
            raise NoAnswerError(served)
        return served

    def _attended(self, decider: Restricted, deadline: float) -> Backend:
        """The backend for one question."""

        async def canonical(answer: str, known: Sequence[str]) -> str:
            try:
                async with asyncio.timeout_at(deadline):
                    return await self.equivalence.canonical(answer, known)
            except TimeoutError:
                return answer

        return OneSpelling(_Attended(self.backend, decider, deadline), canonical)

    async def _run(
        self, episode: Episode, decider: Restricted, deadline: float, emit: Emit
    ) -> list[Decision]:
        try:
            async with asyncio.timeout_at(deadline):
                await episode.begin()
        except TimeoutError:
            decider.limited.add(DEADLINE)
            return []
        except BackendError:
            decider.degraded.add(self.backend.models[0].name)
            return []
        decisions: list[Decision] = []
        while not decisions or not decisions[-1].final:
            try:
                async for step in play(episode, decider):
                    emit(step)
                    if isinstance(step, Decision):
                        decisions.append(step)
                        _trace(step)
            except _VerifierError:
                decider.verifier_down = True
        return decisions


class _Attended(Wrapped):
    """Keeps a question's deadline, and draws conclusions from what fails."""

    def __init__(self, backend: Backend, decider: Restricted, deadline: float) -> None:
        super().__init__(backend)
        self._decider, self._deadline = decider, deadline

    async def attempts(self, requests: Sequence[Request]) -> list[Attempt]:
        """See `Backend.attempts`; a model that makes none is down for this question."""
        made = await super().attempts([replace(r, deadline=self._deadline) for r in requests])
        if all(attempt.error for attempt in made):
            rung = requests[0].rung
            self._decider.down.add(rung)
            if not all(attempt.error == DEADLINE for attempt in made):
                self._decider.degraded.add(self.models[rung].name)
        return made

    async def verify(self, pairs: Sequence[tuple[Question, Attempt]]) -> Verdict:
        """See `Backend.verify`."""
        try:
            async with asyncio.timeout_at(self._deadline):
                return await super().verify(pairs)
        except (BackendError, TimeoutError) as error:
            raise _VerifierError from error


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
    digest = hashlib.sha256(question.text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    run = uuid.uuid4().hex if terms.seed is None else f"seed{terms.seed}"
    return replace(question, question_id=f"{digest}/{run}")


def least(*limits: float | None) -> Any:
    """The least limit that there is; None for none.

    >>> least(None, 3, 2), least(None, None)
    (2, None)
    """
    return min((limit for limit in limits if limit is not None), default=None)
