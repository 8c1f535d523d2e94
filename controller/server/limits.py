"""What callers may spend and what a choice may not be: budgets, deadlines, models that are down."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np

from controller.backends.base import DEADLINE, Backend
from controller.core import Choice, Decider, Episode
from controller.errors import ConfigError
from controller.process.actions import Action, ActionKind
from controller.process.episodes import EpisodeConfig
from controller.process.lockstep import Bools
from controller.process.types import ModelSpec
from controller.server.config import Limits
from controller.server.shared import Buckets

REQUEST_BUDGET, WITHOUT = "request_budget", "without"
BUDGET, CANCELLED, BROKEN_OFF = "budget", "cancelled", "broken_off"


class Budgets:
    """What callers may still set off, each and together: escalations, or tokens read beforehand.

    They lie outside the policy: no question can talk its way past them.

    Args:
        limits: a minute; no limit where there is none.
        buckets: that what is set off is taken from.
        of: what they are budgets of, as `Limits` names it.
    """

    def __init__(self, limits: Limits, buckets: Buckets, of: str = "escalations") -> None:
        self._limits, self._buckets, self._of = limits, buckets, of

    def exhausted(self, caller: str, count: int = 1) -> str | None:
        """Which budget has less left, `global_budget` or `caller_budget`; None if neither has."""
        for why, bucket, rate in self._counted(caller):
            if self._buckets.take(bucket, rate, 0) < count:
                return why
        return None

    def take(self, caller: str, count: int = 1) -> None:
        """So much is set off."""
        for _, bucket, rate in self._counted(caller):
            self._buckets.take(bucket, rate, count)

    def _counted(self, caller: str) -> list[tuple[str, str, float]]:
        """Budgets that a caller counts for: name, bucket and rate a minute."""
        limits, of = self._limits, self._of
        budgets = (
            ("global_budget", "all", getattr(limits, f"{of}_per_minute")),
            ("caller_budget", f"of:{caller}", getattr(limits, f"caller_{of}_per_minute")),
        )
        return [(why, f"{of}:{name}", rate) for why, name, rate in budgets if rate is not None]


def unwanted(
    without: Sequence[str], config: EpisodeConfig, models: Sequence[ModelSpec]
) -> frozenset[Action]:
    """Actions that a client does not want, said by their kind or by the model that they ask.

    Raises:
        ConfigError: a name of neither, or nothing is left to attempt a question with.
    """
    names = [model.name for model in models]
    known = [*map(str, ActionKind), *config.own_actions, *names]
    if strange := set(without) - set(known):
        raise ConfigError(f"without: expected any of {known}, found {sorted(strange)}")
    asked = dict(zip(config.actions, (spec for spec, _ in config.choices), strict=True))
    found = frozenset(
        action
        for action, spec in asked.items()
        if action.kind in without or ((spec.attempt or spec.scores) and names[spec.rung] in without)
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
        max_escalations: calls to larger models, for this question; None for no limit of its own.
        may_give_up: whether it may end without an attempt while one could be made.
        down: rungs that have failed this question.
        degraded: models whose absence changed a choice.
        limited: budgets, or the deadline, that changed one.
        escalations: calls to larger models that this question has set off.
    """

    inner: Decider
    backend: Backend
    budget: Budgets
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
    escalations: int = 0

    def choose(self, episode: Episode, mask: Bools) -> Choice:
        """See `Decider.choose`; a mask that allows nothing else means STOP."""
        started, why = time.perf_counter(), self._reasons(episode)
        allowed = mask & np.array([action not in why for action in episode.config.actions])
        allowed[0, 0] = True
        may_stop = self.may_give_up or any(a.error is None for a in episode.attempts)
        # Giving up because a model is down would not be the caller's wish.
        down = any(noted is self.degraded for noted, _ in why.values())
        stuck = down and episode.answer is None and not episode.attempts
        if (not may_stop or stuck) and allowed.sum() > 1:
            allowed[0, 0] = False
        choice = self.inner.choose(episode, allowed)
        if why:
            free = mask.copy()
            free[0, 0] = may_stop or free.sum() == 1
            wanted = self.inner.choose(episode, free).action
            if wanted in why and wanted != choice.action:
                noted, reason = why[wanted]
                noted.add(reason)
        if calls := self._escalations(episode, choice.action):
            self.escalations += calls
            self.budget.take(self.caller, calls)
        self.seconds += time.perf_counter() - started
        return choice

    @staticmethod
    def _escalations(episode: Episode, action: Action) -> int:
        """How often an action calls a large model: to answer, to revise, or to judge attempts."""
        spec, width = episode.config.choices[episode.config.actions.index(action)]
        if episode.config.is_small[spec.rung]:
            return 0
        if spec.scores:
            return int(episode.state.unverified[0])
        return width if spec.attempt is not None else 0

    def _reasons(self, episode: Episode) -> dict[Action, tuple[set[str], str]]:
        """Why actions are not allowed: each with the set that the reason goes to if it matters."""
        config = episode.config
        every = config.actions[1:]
        if self.out_of_time():
            return dict.fromkeys(every, (self.limited, DEADLINE))
        if BROKEN_OFF in self.limited:
            return dict.fromkeys(every, (self.limited, BROKEN_OFF))
        most = float("inf") if self.max_escalations is None else self.max_escalations
        exhausted = cache(partial(self.budget.exhausted, self.caller))
        why: dict[Action, tuple[set[str], str]] = {}
        for action, (spec, _) in zip(every, config.choices[1:], strict=True):
            if spec.rung in self.down or not self.backend.available(spec.rung):
                why[action] = self.degraded, self.backend.models[spec.rung].name
            elif self.verifier_down and spec.scores:
                why[action] = self.degraded, "verifier"
            elif calls := self._escalations(episode, action):
                if self.escalations + calls > most:
                    why[action] = self.limited, REQUEST_BUDGET
                elif (budget := exhausted(calls)) is not None:
                    why[action] = self.limited, budget
            if action in self.unwanted:
                why[action] = self.limited, WITHOUT
        return why
