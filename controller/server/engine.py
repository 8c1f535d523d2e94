"""One question from request to answer, on the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from opentelemetry import trace

from controller.answers import answer_kind
from controller.backends.asynchronous import AsyncBackend, perform
from controller.core import Choice, Decision, EpisodeCore, play, steps_async
from controller.errors import BackendError, ConfigError
from controller.exchange import MakeAttempts, VerifyAttempts, Work, carry_out_async
from controller.server.arms import Arm, Arms
from controller.server.equivalence import ByKind, Equivalence
from controller.server.limits import EscalationBudget, Limits
from controller.server.restrict import DEADLINE, Restricted
from controller.server.terms import NoAnswerError, Served, Terms, best_unread
from controller.types import Attempt, Question

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
        backend: AsyncBackend,
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
        terms: Terms,
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
        budget = least(terms.budget, self.limits.max_budget)
        deadline = loop.time() + min(
            terms.deadline_s or self.limits.default_deadline_s, self.limits.max_deadline_s
        )
        core = EpisodeCore(
            identified(question, terms),
            self.backend,
            arm.process,
            price=price_of(arm, terms),
            round_price=terms.round_price,
            budget=budget,
            difficulty=arm.checkpoint.difficulty,
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
        with _tracer.start_as_current_span("answer", attributes={"allot.arm": arm.name}) as span:
            decisions = await self._run(core, decider, deadline, emit)
            span.set_attribute("allot.cost", core.cost)
        if arm.pace is not None and not terms.price_terms:
            arm.pace.count(core.cost)
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
            answer=core.answer,
            attempt=core.best_attempt() or best_unread(core.attempts),
            decisions=tuple(decisions),
            attempts=tuple(core.attempts),
            price=core.price,
            round_price=core.round_price,
            budget=budget,
            cost=core.cost,
            usage=core.usage,
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

    async def _run(
        self, core: EpisodeCore, decider: Restricted, deadline: float, emit: Emit
    ) -> list[Decision]:
        work = partial(self._perform, core=core, decider=decider, deadline=deadline)
        try:
            async with asyncio.timeout_at(deadline):
                await carry_out_async(core.begin(), work)
        except TimeoutError:
            decider.limited.add(DEADLINE)
            return []
        except BackendError:
            decider.degraded.add(self.backend.models[0].name)
            return []
        decisions: list[Decision] = []
        while not decisions or not decisions[-1].final:
            try:
                async for step in steps_async(play(core, decider), work):
                    emit(step)
                    if isinstance(step, Decision):
                        decisions.append(step)
                        _trace(step)
            except _VerifierError:
                decider.verifier_down = True
        return decisions

    async def _perform(
        self, work: Work, *, core: EpisodeCore, decider: Restricted, deadline: float
    ) -> Any:
        """Have the backend do some work, and draw conclusions from what fails."""
        if isinstance(work, VerifyAttempts):
            try:
                async with asyncio.timeout_at(deadline):
                    return await perform(work, self.backend)
            except (BackendError, TimeoutError) as error:
                raise _VerifierError from error
        result = await perform(work, self.backend, deadline)
        if not isinstance(work, MakeAttempts):
            return result
        rung = work.requests[0].rung
        if all(attempt.error for attempt in result):
            decider.down.add(rung)
            if not all(attempt.error == DEADLINE for attempt in result):
                decider.degraded.add(self.backend.models[rung].name)
        return await self._unified(result, core.answers, deadline)

    async def _unified(
        self, attempts: Sequence[Attempt], answers: Sequence[str], deadline: float
    ) -> list[Attempt]:
        """The attempts with answers that mean the same in one spelling."""
        known, unified = list(answers), []
        for attempt in attempts:
            answer = attempt.answer
            if answer is not None:
                try:
                    async with asyncio.timeout_at(deadline):
                        answer = await self.equivalence.canonical(answer, known)
                except TimeoutError:
                    pass
                known += [] if answer in known else [answer]
            unified.append(attempt if answer == attempt.answer else replace(attempt, answer=answer))
        return unified


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


def price_of(arm: Arm, terms: Terms) -> float:
    """The price that terms amount to.

    Raises:
        ConfigError: several of price, accuracy and mean cost, or one that is out of reach.
    """
    given = terms.price_terms
    if len(given) > 1:
        raise ConfigError("price, accuracy, mean_cost: expected at most one of them")
    if arm.pace is not None and not given:
        return arm.pace.price()
    price = terms.price if given else arm.price
    if price is not None:
        return price
    return arm.checkpoint.price_for(terms.mean_cost, terms.accuracy)


def identified(question: Question, terms: Terms) -> Question:
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
