"""The menu: the arms that a controller can ask, in order of their rungs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from controller.errors import ConfigError
from controller.process.actions import Tier


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way to get an attempt, as far as decisions are concerned.

    Attributes:
        name: in actions, features and rules.
        tier: SMALL to SAMPLE from, LARGE to ESCALATE to.
        family: whose agreement counts as one opinion.
        most: attempts that an episode can ask of it: as many as there were to learn from.
        revises: whether it can be asked to check the leading attempt, whoever wrote that, and to
            write a better one; where no arm says so, the first revises its own.
        verifies: whether it is the one that is asked whether attempts are right.
    """

    name: str
    tier: Tier
    family: str
    most: int = 1
    revises: bool = False
    verifies: bool = False


PAIR = (
    Arm(name="small", tier=Tier.SMALL, family="small"),
    Arm(name="large", tier=Tier.LARGE, family="large"),
)
"""The arms of a controller that names none: a small model, or one and a larger one."""


def family_of(name: str) -> str:
    """Family that a model's name begins with: its first letters.

    >>> family_of("Qwen2.5-7B-Instruct"), family_of("meta-llama-3.1-8b")
    ('qwen', 'llama')
    """
    letters = re.match(r"(?:meta-)?([a-z]+)", name.lower())
    return letters[1] if letters else name


def menu_of(
    names: Sequence[str],
    small: Collection[str] = (),
    families: Mapping[str, str | None] = MappingProxyType({}),
) -> tuple[Arm, ...]:
    """Arms by rung, of which the first is small, from the names of models.

    `small` are those to sample from; a name tells its family where `families` does not.

    Raises:
        ConfigError: names repeat.
    """
    if len(set(names)) < len(names):
        raise ConfigError(f"arms: expected distinct names, found {list(names)}")
    return tuple(
        Arm(
            name=name,
            tier=Tier.SMALL if name in (*names[:1], *small) else Tier.LARGE,
            family=families.get(name) or family_of(name),
        )
        for name in names
    )
