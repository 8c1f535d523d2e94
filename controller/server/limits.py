"""What callers may spend and what a choice may not be: budgets, deadlines, models that are down."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from controller.backends.base import Backend
from controller.core import Choice, Decider, Episode
from controller.errors import ConfigError
from controller.process.actions import Action, ActionKind, Tier
from controller.process.episodes import EpisodeConfig
from controller.process.types import ModelSpec
from controller.server.buckets import Buckets
from controller.server.config import Limits

DEADLINE, REQUEST_BUDGET, WITHOUT = "deadline", "request_budget", "without"
BUDGET, CANCELLED, BROKEN_OFF = "budget", "cancelled", "broken_off"


class EscalationBudget:
    """Escalations that callers may still set off, each and together.

    It lies outside the policy: no question can talk its way past it. Without `buckets`, this
    process counts alone.
    """

    def __init__(self, limits: Limits, buckets: Buckets | None = None) -> None:
        self._limits, self._buckets = limits, buckets or Buckets()

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know."""
        return self._buckets.notes

    def exhausted(self, caller: str) -> str | None:
        """Which budget is used up, `global_budget` or `caller_budget`; None if neither is."""
        for why, bucket, rate in self._of(caller):
            if self._buckets.take(bucket, rate, 0) < 1:
                return why
        return None

    def take(self, caller: str) -> None:
        """An escalation goes out."""
        for _, bucket, rate in self._of(caller):
            self._buckets.take(bucket, rate)

    def _of(self, caller: str) -> list[tuple[str, str, float]]:
        """Budgets that a caller's escalations count for: name, bucket and rate a minute."""
        limits = self._limits
        budgets = (
            ("global_budget", "all", limits.escalations_per_minute),
            ("caller_budget", f"of:{caller}", limits.caller_escalations_per_minute),
        )
        return [(why, bucket, rate) for why, bucket, rate in budgets if rate is not None]


def unwanted(
    without: Sequence[str], config: EpisodeConfig, models: Sequence[ModelSpec]
) -> frozenset[Action]:
    """Actions that a client does not want, said by their kind or by the model that they ask.

    Raises:
        ConfigError: a name of neither, or nothing is left to attempt a question with.
    """
    names = [model.name for model in models]
    if strange := set(without) - {*ActionKind, *names}:
        raise ConfigError(
            f"without: expected any of {[*map(str, ActionKind), *names]}, found {sorted(strange)}"
        )
    asked = dict(zip(config.actions, (spec for spec, _ in config.choices), strict=True))
    found = frozenset(
        action
        for action, spec in asked.items()
        if action.kind in without or (spec.tier and names[spec.rung] in without)
    )
    left = [action for action, spec in asked.items() if spec.tier and action not in found]
    if not left or config.actions[0] in found:
        raise ConfigError(
            f"without: expected to leave stop, and a model to ask, found {list(without)}"
        )
    return found


@dataclass
class Restricted:
    """A decider that is only offered what may be done here and now.

    Attributes:
        caller: who pays for them.
        max_escalations: for this question; None for no limit of its own.
        may_give_up: whether it may end without an attempt while one could be made.
        unwanted: actions that the client does not want.
        down: rungs that have failed this question.
        degraded: models whose absence changed a choice.
        limited: budgets, or the deadline, that changed one.
    """

    inner: Decider
    backend: Backend
    budget: EscalationBudget
    caller: str
    max_escalations: int | None
    out_of_time: Callable[[], bool]
    may_give_up: bool = False
    unwanted: frozenset[Action] = frozenset()
    down: set[int] = field(default_factory=set)
    verifier_down: bool = False
    degraded: set[str] = field(default_factory=set)
    limited: set[str] = field(default_factory=set)
    seconds: float = 0.0

    def choose(self, episode: Episode, mask: NDArray[np.bool_]) -> Choice:
        """See `Decider.choose`; a mask that allows nothing else means STOP."""
        started = time.perf_counter()
        allowed, why = self._allowed(episode, mask[0])
        choice = self.inner.choose(episode, allowed[None])
        if why:
            self._note(choice, self._wanted(episode, mask), why)
        if choice.action.kind is ActionKind.ESCALATE:
            self.budget.take(self.caller)
        self.seconds += time.perf_counter() - started
        return choice

    def _wanted(self, episode: Episode, mask: NDArray[np.bool_]) -> Choice:
        """What would have been chosen if nothing but the decision process forbade it."""
        free = mask.copy()
        if not self._may_stop(episode):
            free[0, 0] = free[0].sum() == 1
        return self.inner.choose(episode, free)

    def _may_stop(self, episode: Episode) -> bool:
        return self.may_give_up or any(a.error is None for a in episode.attempts)

    def _allowed(
        self, episode: Episode, mask: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], dict[Action, str]]:
        """Allowed actions, (A,), and why each of the others is not."""
        why = self._reasons(episode)
        allowed = mask & np.array([action not in why for action in episode.config.actions])  # (A,)
        allowed[0] = True
        # Giving up because a model is down would not be the caller's wish.
        stuck = episode.answer is None and any(r.startswith("down:") for r in why.values())
        if (not self._may_stop(episode) or (stuck and not episode.attempts)) and allowed.sum() > 1:
            allowed[0] = False
        return allowed, why

    def _reasons(self, episode: Episode) -> dict[Action, str]:
        config = episode.config
        every = config.actions[1:]
        if self.out_of_time():
            return dict.fromkeys(every, DEADLINE)
        if BROKEN_OFF in self.limited:
            return dict.fromkeys(every, BROKEN_OFF)
        made = int(episode.state.counts[0, ~config.is_small].sum())
        escalating = self.budget.exhausted(self.caller)
        if self.max_escalations is not None and made >= self.max_escalations:
            escalating = REQUEST_BUDGET
        why: dict[Action, str] = {}
        for action, (spec, _) in zip(every, config.choices[1:], strict=True):
            if self._is_down(spec.rung):
                why[action] = f"down:{self.backend.models[spec.rung].name}"
            elif self.verifier_down and spec.scores:
                why[action] = "down:verifier"
            elif spec.tier is Tier.LARGE and escalating is not None:
                why[action] = escalating
            if action in self.unwanted:
                why[action] = WITHOUT
        return why

    def _is_down(self, rung: int) -> bool:
        return rung in self.down or not self.backend.available(rung)

    def _note(self, choice: Choice, wanted: Choice, why: dict[Action, str]) -> None:
        reason = why.get(wanted.action)
        if reason is None or wanted.action == choice.action:
            return
        kind, _, model = reason.partition(":")
        if kind == "down":
            self.degraded.add(model)
        else:
            self.limited.add(reason)
