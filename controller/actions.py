"""What a controller can do next."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from controller.errors import ConfigError


class ActionKind(StrEnum):
    """What a step can do."""

    STOP = "stop"
    SAMPLE = "sample"
    REVISE = "revise"
    ESCALATE = "escalate"
    VERIFY = "verify"


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
        """STOP, one SAMPLE per width, REVISE, ESCALATE and, if there is a verifier, VERIFY.

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
        samples = [Action(ActionKind.SAMPLE, width) for width in sample_widths]
        return cls(
            (
                Action(ActionKind.STOP),
                *samples,
                Action(ActionKind.REVISE),
                Action(ActionKind.ESCALATE),
                *([Action(ActionKind.VERIFY)] if verifies else []),
            )
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
        *ActionSet.build(),
        Action(ActionKind.ESCALATE, to_end=True),
    )
)
"""Inside an attempt each action is about a segment of it: docs/segments.md.

>>> SEGMENT_ACTIONS.names
('STOP', 'SAMPLE', 'REVISE', 'ESCALATE', 'ESCALATE(end)')
"""
