"""Plays controllers inside attempts, their rules, and controllers of whole attempts.

Rules are tuned for each price on the train and validation splits; the test split is looked at
once. Attempt-level controllers answer the same test questions, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from controller.checkpoint import Checkpoint, load_checkpoint
from controller.errors import ConfigError
from controller.segments.checkpoint import SegmentCheckpoint
from controller.segments.rules import SegmentRule, SegmentRulePolicy, segment_rule_families
from envs.reward import LogUniform
from envs.segments.table import SegmentTable
from envs.table import TraceTable
from envs.traces import TraceSet
from training.play import Played, log_odds, play_checkpoint, pool
from training.segments.play import play_segment_checkpoint, play_segments

Floats = NDArray[np.float64]

SEGMENTS, ATTEMPTS, BOTH = "segment controller", "attempt controller", "both"
GREEDY = ("greedy small attempt", "greedy large attempt")


@dataclass(frozen=True, kw_only=True)
class WholeAttempts:
    """Controllers of whole attempts that differ by seed alone, and recorded attempts."""

    controllers: Sequence[Checkpoint]
    table: TraceTable

    def questions(self, question_ids: Sequence[str]) -> TraceTable:
        """The attempts at these questions, in this order.

        Raises:
            ConfigError: some were not recorded.
        """
        position = {name: q for q, name in enumerate(self.table.question_ids)}
        missing = [name for name in question_ids if name not in position]
        if missing:
            raise ConfigError(
                f"traces of whole attempts: expected the test questions of the segment traces, "
                f"missing {len(missing)}, for example {missing[0]}"
            )
        return self.table.take(np.array([position[name] for name in question_ids]))


def read_whole(controllers: Sequence[Path], traces: Path) -> WholeAttempts:
    """Controllers of whole attempts and the test split of their traces."""
    loaded = [load_checkpoint(path) for path in controllers]
    names = [model.name for model in loaded[0].models]
    table = TraceTable.build(TraceSet.read(traces), ["test"], names)
    return WholeAttempts(controllers=loaded, table=table)


@dataclass(frozen=True, kw_only=True)
class SegmentComparison:
    """Everything that was played on the test split.

    Attributes:
        prices: (P,).
        played: by policy name, one entry per price.
        settings: by rule family, the setting tuned for each price.
        levels: (Q,) difficulty of each question; 0 when unknown.
        seeds: (S, P) mean utility of each segment controller.
    """

    prices: Floats
    played: Mapping[str, Sequence[Played]]
    settings: Mapping[str, Sequence[str]]
    levels: NDArray[np.int64]
    seeds: Floats


def compare_segments(
    checkpoints: Sequence[SegmentCheckpoint],
    tuning: SegmentTable,
    test: SegmentTable,
    *,
    whole: Mapping[str, WholeAttempts] | None = None,
    fixed: Mapping[str, Played] | None = None,
    num_prices: int = 12,
    repeats: int = 8,
) -> SegmentComparison:
    """Play controllers and tuned rules on the test split.

    Args:
        checkpoints: segment controllers that differ by seed alone; their episodes are pooled.
        tuning: trees that rules are tuned on.
        test: held-out trees.
        whole: controllers of whole attempts by name, with traces of the same test questions.
        fixed: what was played on the same questions and is the same at every price, by name.
        num_prices: P, evenly spaced on a log scale over the range that the first controller of
            whole attempts was trained for, or else the first segment controller.
        repeats: episodes per question of controllers of whole attempts.
    """
    others = whole or {}
    ranges = [entry.controllers[0].price_range for entry in others.values()]
    low, high = (*ranges, checkpoints[0].price_range)[0]
    prices = LogUniform(low=low, high=high).grid(num_prices)
    by_seed = [[play_segment_checkpoint(c, test, price) for c in checkpoints] for price in prices]
    played = {SEGMENTS: [pool(of_price) for of_price in by_seed]}
    settings = {}
    first = checkpoints[0]
    for family, rules in segment_rule_families(max(first.config.draws)).items():
        played[family], settings[family] = _tuned(first, rules, tuning, test, prices)
    # Giving up without so much as reading the question costs nothing.
    nothing = np.zeros(len(test.question_ids))
    played["give up"] = [replace(p, cost=nothing, tokens=nothing) for p in played["give up"]]
    played |= {name: [once] * num_prices for name, once in (fixed or {}).items()}
    for name, entry in others.items():
        same = entry.questions(test.question_ids)
        played[name] = [
            pool([play_checkpoint(c, same, price, repeats=repeats) for c in entry.controllers])
            for price in prices
        ]
    utility = [
        [p.utility(price).mean() for p in of_price]
        for of_price, price in zip(by_seed, prices, strict=True)
    ]
    return SegmentComparison(
        prices=prices,
        played=played,
        settings=settings,
        levels=test.levels,
        seeds=np.array(utility).T,
    )


def _tuned(
    checkpoint: SegmentCheckpoint,
    rules: Sequence[SegmentRule],
    tuning: SegmentTable,
    test: SegmentTable,
    prices: Floats,
) -> tuple[list[Played], list[str]]:
    """A family's plays and settings at each price, chosen on the tuning table."""

    def run(rule: SegmentRule, table: SegmentTable) -> Played:
        return play_segments(
            SegmentRulePolicy(rule),
            table,
            checkpoint.config,
            price=1.0,
            difficulty=log_odds(checkpoint.difficulty, table),
        )

    tuned = [run(rule, tuning) for rule in rules]
    best = [int(np.argmax([p.utility(price).mean() for p in tuned])) for price in prices]
    tested = {i: run(rules[i], test) for i in sorted(set(best))}
    return [tested[i] for i in best], [str(rules[i]) for i in best]
