"""What a controller can do next: a table, from which all that is said of actions follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from controller.errors import ConfigError
from controller.process.cost import CostModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


class ActionKind(StrEnum):
    """What a step can do."""

    STOP = "stop"
    SAMPLE = "sample"
    REVISE = "revise"
    ESCALATE = "escalate"
    VERIFY = "verify"

    @property
    def spec(self) -> ActionSpec:
        """Its line of the table."""
        return ACTIONS[self]

    @property
    def place(self) -> int:
        """Its position in the table."""
        return list(ACTIONS).index(self)


@dataclass(kw_only=True, slots=True)
class Stock:
    """What n episodes can still have, (n,) each unless a shape is given.

    Attributes:
        at: 0 to n-1.
        rung: model that ESCALATE would climb to.
        left: attempts per rung, (n, R).
        revisable: whether the leading answer can be revised.
        unverified: attempts that a verifier could score and has not.
    """

    at: Array
    rung: Array
    left: Array
    revisable: Array
    unverified: Array


@dataclass(kw_only=True, slots=True)
class Bill:
    """What cost is computed from, of n episodes, (n,) each unless a shape is given.

    Attributes:
        at: 0 to n-1.
        rung: model that ESCALATE would climb to.
        prompt: length of the prompt, (n, R).
        cold: of it what is not cached, (n, R).
        completion: length of an attempt per rung, (R,).
        weights: cost of a token per rung, (R,).
        ledger: of tokens that pass an adapter.
        overhead: tokens of a revision's prompt beside question and parent.
        unverified_tokens: that a verifier would read.
    """

    at: Array
    rung: Array
    prompt: Array
    cold: Array
    completion: Array
    weights: Array
    ledger: CostModel
    overhead: int
    unverified_tokens: Array


def _never(config: Any) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """All that is to be said of a kind of action; see `ACTIONS`.

    Attributes:
        meaning: in words, for cards.
        asked: the same, for a language model that decides.
        legal: whether it can be taken, from what can be had and the action's width to (n,).
        cost: what it costs, (n,); None for nothing.
        paid_for: what that buys, in words.
        climbs: model that is asked, from the state of N episodes and rows to rungs, (n,); None
            for the small model.
        attempt: how traces spell the attempts that it brings; None if it brings none.
        revises: whether these revise another.
        scores: whether it brings a verifier's scores.
        wide: whether several attempts can be made side by side.
        limit: most of them per episode, from a decision process; None for no limit.
    """

    meaning: str
    asked: str
    legal: Callable[[Stock, int], Array]
    cost: Callable[[Bill], Array] | None = None
    paid_for: str = ""
    climbs: Callable[[Any, Any], Array] | None = None
    attempt: ActionKind | None = None
    revises: bool = False
    scores: bool = False
    wide: bool = False
    limit: Callable[[Any], int | None] = _never


ACTIONS: dict[ActionKind, ActionSpec] = {
    ActionKind.STOP: ActionSpec(
        meaning="return the best answer seen; before the first attempt, give up",
        asked="return the leading answer",
        legal=lambda stock, width: stock.at >= 0,
    ),
    ActionKind.SAMPLE: ActionSpec(
        meaning="the small model makes an independent attempt",
        asked="let the small model make another attempt",
        legal=lambda stock, width: stock.left[:, 0] >= width,
        cost=lambda bill: bill.weights[0] * (bill.cold[:, 0] + bill.completion[0]),
        paid_for="an attempt by the small model",
        attempt=ActionKind.SAMPLE,
        wide=True,
        limit=lambda config: config.max_samples,
    ),
    ActionKind.REVISE: ActionSpec(
        meaning="the small model's reviser rewrites an attempt with the leading answer",
        asked="let the small model revise the leading attempt",
        legal=lambda stock, width: stock.revisable,
        cost=lambda bill: (
            bill.ledger.reviser_weight
            * (bill.prompt[:, 0] + (bill.overhead + 2 * bill.completion[0]))
        ),
        paid_for="a revision",
        attempt=ActionKind.REVISE,
        revises=True,
        limit=lambda config: config.max_revisions,
    ),
    ActionKind.ESCALATE: ActionSpec(
        meaning="the next larger model makes an attempt, which joins the vote",
        asked="let the large model answer",
        legal=lambda stock, width: (stock.rung > 0) & (stock.left[stock.at, stock.rung] > 0),
        cost=lambda bill: (
            bill.weights[bill.rung] * (bill.cold[bill.at, bill.rung] + bill.completion[bill.rung])
        ),
        paid_for="an attempt by the next larger model",
        climbs=lambda episodes, rows: episodes.next_rung[rows],
        attempt=ActionKind.ESCALATE,
        limit=lambda config: config.max_escalations,
    ),
    ActionKind.VERIFY: ActionSpec(
        meaning="the verifier scores the attempts that have no score yet",
        asked="let a verifier score the attempts",
        legal=lambda stock, width: stock.unverified > 0,
        cost=lambda bill: bill.ledger.verifier_weight * bill.unverified_tokens,
        paid_for="scores of all attempts that have none",
        scores=True,
    ),
}
"""By kind, in the order in which a policy's outputs stand for them."""

REVISING = frozenset(kind for kind, spec in ACTIONS.items() if spec.revises)
"""Kinds that revise attempts, as traces spell them."""

PRICED = {kind: spec.cost for kind, spec in ACTIONS.items() if spec.cost is not None}
"""Cost of the kinds that cost something."""


@dataclass(frozen=True)
class Action:
    """One entry of an action set.

    Attributes:
        kind: what it does.
        width: attempts made side by side, in one serial round; 1 except for SAMPLE.
        to_end: whether it writes all that is left of an attempt, not a segment.
    """

    kind: ActionKind
    width: int = 1
    to_end: bool = False

    def __str__(self) -> str:
        name = f"{self.kind.value.upper()}(end)" if self.to_end else self.kind.value.upper()
        return name if self.width == 1 else f"{name}({self.width})"


class ActionSet(tuple[Action, ...]):
    """Ordered actions; a policy's output i stands for entry i.

    >>> ActionSet.build(sample_widths=(1, 4), verifies=True).names
    ('STOP', 'SAMPLE', 'SAMPLE(4)', 'REVISE', 'ESCALATE', 'VERIFY')
    """

    @classmethod
    def build(cls, sample_widths: tuple[int, ...] = (1,), verifies: bool = False) -> ActionSet:
        """The table's actions, one SAMPLE per width, and those of a verifier if there is one.

        Raises:
            ConfigError: a width is below 1, or widths repeat or are missing.
        """
        if (
            not sample_widths
            or min(sample_widths) < 1
            or len(set(sample_widths)) < len(sample_widths)
        ):
            raise ConfigError(
                f"sample_widths: expected distinct widths of at least 1, found {sample_widths}"
            )
        return cls(
            Action(kind, width)
            for kind, spec in ACTIONS.items()
            for width in (sample_widths if spec.wide else (1,))
            if verifies or not spec.scores
        )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """As people and checkpoints call them, in order."""
        return tuple(str(action) for action in self)

    @property
    def sample_widths(self) -> tuple[int, ...]:
        """Widths of the SAMPLE entries, in order."""
        return tuple(action.width for action in self if action.kind is ActionKind.SAMPLE)

    def position(self, kind: ActionKind, width: int = 1) -> int:
        """Index of an action.

        Raises:
            ConfigError: the set has no such action.
        """
        try:
            return self.index(Action(kind, width))
        except ValueError:
            raise ConfigError(
                f"action set: expected one with {Action(kind, width)}, found {list(map(str, self))}"
            ) from None


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
