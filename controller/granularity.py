"""Granularities: whether a step of the decision process is a whole attempt or a segment of one.

Everything that plays, trains, compares and keeps controllers takes the granularity as a value.
The packages above add their part under the same names: `envs.granularity` the recorded traces,
`training.granularity` what is learned and compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from controller.process.actions import (
    ACTIONS,
    PRICED,
    SEGMENT_ACTIONS,
    Action,
    ActionKind,
    ActionSet,
)
from controller.process.episodes import EpisodeConfig
from controller.process.features import Feature, FeatureTable, expected_costs
from controller.process.observation import FEATURES, menu_features, plan_features
from controller.segments.episodes import SEGMENT_FEATURES, STEPS, SegmentConfig

Process = EpisodeConfig | SegmentConfig
"""The decision process of either granularity."""


@dataclass(frozen=True, kw_only=True)
class Granularity:
    """One size of step.

    Attributes:
        name: in files and commands.
        unit: of a step, in messages.
        process: class of its decision process.
        table: of what a policy sees.
        meanings: of the actions, by name.
    """

    name: str
    unit: str
    process: type[Any]
    table: FeatureTable
    meanings: dict[str, str]

    @property
    def features(self) -> tuple[str, ...]:
        """Names of what a policy sees."""
        return self.table.names


ATTEMPTS = Granularity(
    name="attempts",
    unit="whole attempts",
    process=EpisodeConfig,
    table=FEATURES,
    meanings={str(Action(kind)): spec.meaning for kind, spec in ACTIONS.items()},
)
SEGMENTS = Granularity(
    name="segments",
    unit="segments of an attempt",
    process=SegmentConfig,
    table=SEGMENT_FEATURES,
    meanings={name: spec.meaning for name, spec in zip(SEGMENT_ACTIONS.names, STEPS, strict=True)},
)
GRANULARITIES = {granularity.name: granularity for granularity in (ATTEMPTS, SEGMENTS)}
"""By name."""


def granularity_of(process: Process) -> Granularity:
    """The granularity of a decision process, with what is to be said of its arms and additions."""
    if isinstance(process, SegmentConfig):
        return SEGMENTS
    named = process.is_menu or process.names_revisers or process.names_verifier
    if not (named or process.own_actions or process.own_features or process.plans):
        return ATTEMPTS
    arms = process.arm_names if process.is_menu else ()
    verifier = process.arm_names[process.verifier] if process.names_verifier else ""
    added = process.added_actions, process.added_features, process.plan_names
    return _of(arms, process.actions, verifier, *added)


@cache
def _of(
    arms: tuple[str, ...],
    actions: ActionSet,
    verifier: str,
    own_actions: tuple[ActionKind, ...],
    own_features: tuple[Feature, ...],
    plans: tuple[str, ...],
) -> Granularity:
    """Of a menu, if there are arms, and with plans and what callers added."""
    meanings = {str(Action(kind)): kind.spec.meaning for kind in own_actions}
    meanings |= {
        str(a): f"{a.arm} checks an attempt with the leading answer and writes a better one"
        if a.kind.spec.revises
        else f"{a.kind.spec.meaning}: {a.arm}"
        for a in actions
        if a.arm
    }
    if verifier:
        meanings[str(Action(ActionKind.VERIFY))] = (
            f"{verifier} says of the attempts that have no score yet if they are right"
        )
    priced = {kind: kind.spec for kind in own_actions if kind.spec.cost}
    table = menu_features(arms) if arms else FEATURES
    own = *expected_costs(priced, len(PRICED)), *own_features
    table = table.followed_by(*(plan_features(plans) if plans else ()), *own, outside=len(own))
    return replace(ATTEMPTS, table=table, meanings=ATTEMPTS.meanings | meanings)
