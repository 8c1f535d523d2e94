"""What a controller can do next: a table, from which all that is said of actions follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, partial
from inspect import signature
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from controller.errors import ConfigError, IllegalActionError
from controller.registry import Registry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


class Tier(StrEnum):
    """Whether an arm is one to sample from or one to escalate to."""

    SMALL = "small"
    LARGE = "large"


class ActionKind(StrEnum):
    """What a step can do."""

    STOP = "stop"
    SAMPLE = "sample"
    REVISE = "revise"
    ESCALATE = "escalate"
    VERIFY = "verify"

    @classmethod
    def _missing_(cls, value: object) -> ActionKind | None:
        return OWN_ACTIONS.get(str(value))

    @property
    def spec(self) -> ActionSpec:
        """Its line of the table."""
        return ACTIONS[self]

    @property
    def place(self) -> int:
        """Its position in the table."""
        return list(ACTIONS).index(self)


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """All that is to be said of a kind of action; see `ACTIONS`.

    Functions look at the state e of n episodes (`controller.process.lockstep.Lockstep`) and give
    (n,), or at numbers of one (`Episodes.looked_at`) and give one. Lengths of attempts, (R,), are
    those that are expected, or the longest. Those of an action that asks an arm of a menu, as one
    that revises or verifies may, are told its rung, too.

    Attributes:
        meaning: in words, for cards.
        legal: whether it can be taken, from state and the action's width.
        cost: what it costs, from state and lengths; None for nothing.
        paid_for: what that buys, in words.
        tier: of the arms that it can ask, one action each; None where it asks none.
        rung: of the arm that is asked; see `on`.
        attempt: how traces spell the attempts that it brings; None if it brings none.
        revises: whether these revise another.
        scores: whether it brings a verifier's scores.
        wide: whether several attempts can be made side by side.
        limit: most of them per episode, from a decision process; None for no limit.
    """

    meaning: str
    legal: Callable[..., Array]
    cost: Callable[..., Array] | None = None
    paid_for: str = ""
    tier: Tier | None = None
    rung: int = 0
    attempt: ActionKind | None = None
    revises: bool = False
    scores: bool = False
    wide: bool = False
    limit: Callable[[Any], int | None] = lambda config: None

    def on(self, rung: int) -> ActionSpec:
        """The same of one arm."""
        if self.cost is None or not (self.tier or rung):
            return self
        legal, cost = (partial(of, rung=rung) for of in (self.legal, self.cost))
        return replace(self, rung=rung, legal=legal, cost=cost)


def attempting(e: Any, lengths: Array, rung: int) -> Any:
    """Cost of an attempt by an arm."""
    token_cost, share = e.config.token_cost[rung], e.config.prompt_share[rung]
    prompt = e.prompt_tokens.T[rung] - e.spared.T[rung]
    return attempt_cost(token_cost, share, prompt, e.prefilled.T[rung], lengths[rung])


def attempt_cost(
    token_cost: Any, prompt_share: Any, prompt_tokens: Any, prefilled: Any, length: Any
) -> Any:
    """Cost of an attempt, whose prompt is paid for once."""
    return token_cost * (prompt_share * (prompt_tokens - prompt_tokens * prefilled) + length)


def _revising(e: Any, lengths: Array, rung: int = 0) -> Any:
    prompt, own, overhead = e.prompt_tokens.T[rung], lengths[rung], e.config.revision_overhead
    # Whoever wrote the attempt: what is reserved for its revision must do.
    parent = lengths.max(0) if e.config.names_revisers else own
    read = prompt + (overhead + (parent + own))
    spared = 1 - e.config.prompt_share[rung]
    if spared:
        read = read - spared * (prompt + overhead + parent)
    return e.config.revision_cost[rung] * read


def _revisable(e: Any, width: int, rung: int = 0) -> Any:
    few = e.revisions < e.config.max_revisions
    there = few & (e.children_of_leader.T[e.config.revisers.index(rung)] > 0)
    return there & (e.limits.T[rung] > 0) if e.config.names_revisers else there


def _has_attempts(e: Any, width: int, rung: int) -> Any:
    return e.limits.T[rung] >= e.counts.T[rung] + width


def _both(one: Any, other: Any, e: Any, width: int, **rung: int) -> Any:
    return one(e, width, **rung) & other(e, width, **rung)


ACTIONS: dict[ActionKind, ActionSpec] = {
    ActionKind.STOP: ActionSpec(
        meaning="return the best answer seen; before the first attempt, give up",
        legal=lambda e, width: e.at >= 0,
    ),
    ActionKind.SAMPLE: ActionSpec(
        meaning="the small model makes an independent attempt",
        legal=_has_attempts,
        cost=attempting,
        tier=Tier.SMALL,
        paid_for="an attempt by the small model",
        attempt=ActionKind.SAMPLE,
        wide=True,
        limit=lambda config: config.max_samples,
    ),
    ActionKind.REVISE: ActionSpec(
        meaning="the small model's reviser rewrites an attempt with the leading answer",
        legal=_revisable,
        cost=_revising,
        paid_for="a revision",
        attempt=ActionKind.REVISE,
        revises=True,
        limit=lambda config: config.max_revisions,
    ),
    ActionKind.ESCALATE: ActionSpec(
        meaning="a larger model makes an attempt, which joins the vote",
        legal=lambda e, width, rung: _has_attempts(e, width, rung) if rung else e.at < 0,
        cost=attempting,
        paid_for="an attempt by a larger model",
        tier=Tier.LARGE,
        attempt=ActionKind.ESCALATE,
        limit=lambda config: config.max_escalations,
    ),
    ActionKind.VERIFY: ActionSpec(
        meaning="the verifier scores the attempts that have no score yet",
        legal=lambda e, width, rung=0: e.unverified > 0,
        cost=lambda e, lengths, rung=0: e.config.verification_cost * e.unverified_tokens,
        paid_for="scores of all attempts that have none",
        scores=True,
    ),
}
"""By kind, in the order in which a policy's outputs stand for them."""

OWN_ACTIONS: Registry[ActionKind] = Registry("own_actions", [*ActionKind])
"""Kinds that callers added; processes that name them offer them after the others."""


def register_action(name: str, spec: ActionSpec) -> ActionKind:
    """Add an action from outside: `EpisodeConfig(own_actions=(name,))` offers it.

    Attempts that it brings are asked for, and recorded, as those of `spec.attempt`. It is legal
    where `spec.legal` says so and such an attempt is left.

    Raises:
        ConfigError: the name is taken, the action asks or revises without an `attempt`, or its
            functions cannot be told which rung it asks.
    """
    if (spec.tier or spec.revises) and spec.attempt not in [*ActionKind]:
        raise ConfigError(
            f"{name}: expected `attempt` to be one of {[*map(str, ActionKind)]}, found "
            f"{spec.attempt}"
        )
    for what, function in (("legal", spec.legal), ("cost", spec.cost)):
        told = [*signature(function).parameters] if function else None
        if spec.tier and "rung" not in (told or ()):
            raise ConfigError(
                f"{name}: expected a function `{what}` with a parameter `rung`, since the action "
                f"asks a model, found parameters {told}"
            )
    if spec.tier or spec.revises:
        there = _revisable if spec.revises else _has_attempts
        spec = replace(spec, legal=partial(_both, there, spec.legal))
    kind = str.__new__(ActionKind, name)
    kind._name_, kind._value_ = name.upper(), name
    ACTIONS[OWN_ACTIONS.register(name, kind)] = spec
    return kind


REVISING = frozenset(kind for kind, spec in ACTIONS.items() if spec.revises)
"""Kinds that revise attempts, as traces spell them."""

PRICED = {kind: spec for kind, spec in ACTIONS.items() if spec.cost is not None}
"""Those that cost something."""


@dataclass(frozen=True)
class Action:
    """One entry of an action set.

    Attributes:
        kind: what it does.
        width: attempts made side by side, in one serial round; 1 except for SAMPLE.
        to_end: whether it writes all that is left of an attempt, not a segment.
        arm: name of the arm that is asked, where the kind can ask several.
    """

    kind: ActionKind
    width: int = 1
    to_end: bool = False
    arm: str = ""

    def __str__(self) -> str:
        width = "" if self.width == 1 else str(self.width)
        how = [part for part in (self.arm, width, "end" if self.to_end else "") if part]
        return self.kind.value.upper() + (f"({', '.join(how)})" if how else "")


class ActionSet(tuple[Action, ...]):
    """Ordered actions; a policy's output i stands for entry i.

    >>> ActionSet.build(sample_widths=(1, 4), verifies=True).names
    ('STOP', 'SAMPLE', 'SAMPLE(4)', 'REVISE', 'ESCALATE', 'VERIFY')
    """

    @classmethod
    def build(
        cls,
        sample_widths: tuple[int, ...] = (1,),
        verifies: bool = False,
        arms: Mapping[ActionKind, Sequence[str]] = MappingProxyType({}),
        own: Sequence[ActionKind] = (),
    ) -> ActionSet:
        """The table's actions, one SAMPLE per width, and those of a verifier if there is one.

        Kinds that can ask several `arms`, by their names, have an action each; kinds of one's `own`
        come last.

        Raises:
            ConfigError: a width is below 1, or widths repeat or are missing.
        """
        if min(sample_widths, default=0) < 1 or len(set(sample_widths)) < len(sample_widths):
            raise ConfigError(
                f"sample_widths: expected distinct widths of at least 1, found {sample_widths}"
            )
        return cls(
            Action(kind, width, arm=arm)
            for kind in (*ActionKind, *own)
            for spec in (kind.spec,)
            for arm in arms.get(kind, ("",))
            for width in (sample_widths if spec.wide else (1,))
            if verifies or not spec.scores
        )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """As people and checkpoints call them, in order."""
        return tuple(str(action) for action in self)

    def illegal(self, question_id: str, mask: Array, action: Action) -> IllegalActionError:
        """What to raise when an action is taken that `mask`, (A,), forbids, or STOP."""
        allowed = [name for name, ok in zip(self.names, mask, strict=True) if ok]
        return IllegalActionError(
            f"{question_id}: expected one of {allowed} other than STOP, found {action}"
        )

    def position(self, kind: ActionKind, width: int = 1, arm: str = "") -> int:
        """Index of an action. Raises ConfigError: the set has no such action."""
        wanted = Action(kind, width, arm=arm)
        try:
            return self.index(wanted)
        except ValueError:
            found = list(self.names)
            raise ConfigError(f"action set: expected one with {wanted}, found {found}") from None


SEGMENT_ACTIONS = ActionSet(
    (
        Action(ActionKind.STOP),
        Action(ActionKind.SAMPLE),
        Action(ActionKind.REVISE),
        Action(ActionKind.ESCALATE),
        Action(ActionKind.ESCALATE, to_end=True),
    )
)
"""Inside an attempt each action is about a segment of it: docs/segments.md.

>>> SEGMENT_ACTIONS.names
('STOP', 'SAMPLE', 'REVISE', 'ESCALATE', 'ESCALATE(end)')
"""
