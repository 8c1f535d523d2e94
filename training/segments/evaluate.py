"""Plays controllers inside attempts, their rules, and controllers of whole attempts.

Rules are tuned for each price on the train and validation splits; the test split is looked at
once. Attempt-level controllers answer the same test questions, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from controller.checkpoint import Checkpoint
from controller.segments.checkpoint import SegmentCheckpoint
from controller.segments.rules import SegmentRule, SegmentRulePolicy, segment_rule_families
from envs.reward import LogUniform
from envs.segments.table import SegmentTable
from envs.table import TraceTable
from training.play import Played, play_checkpoint, pool
from training.segments.play import play_segment_checkpoint, play_segments, tree_log_odds

Floats = NDArray[np.float64]

SEGMENTS, ATTEMPTS = "segment controller", "attempt controller"


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
    attempt_controllers: Sequence[Checkpoint] = (),
    attempts: TraceTable | None = None,
    num_prices: int = 12,
    repeats: int = 8,
) -> SegmentComparison:
    """Play controllers and tuned rules on the test split.

    Args:
        checkpoints: segment controllers that differ by seed alone; their episodes are pooled.
        tuning: trees that rules are tuned on.
        test: held-out trees.
        attempt_controllers: controllers of whole attempts, likewise.
        attempts: their traces of the same test questions.
        num_prices: P, evenly spaced on a log scale over the range that the first attempt
            controller was trained for, or else the first segment controller.
        repeats: episodes per question of attempt controllers.
    """
    low, high = (*attempt_controllers, *checkpoints)[0].price_range
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
    if attempts is not None and attempt_controllers:
        position = {name: q for q, name in enumerate(attempts.question_ids)}
        same = attempts.take(np.array([position[name] for name in test.question_ids]))
        played[ATTEMPTS] = [
            pool([play_checkpoint(c, same, price, repeats=repeats) for c in attempt_controllers])
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
            difficulty=tree_log_odds(checkpoint.difficulty, table),
        )

    tuned = [run(rule, tuning) for rule in rules]
    best = [int(np.argmax([p.utility(price).mean() for p in tuned])) for price in prices]
    tested = {i: run(rules[i], test) for i in sorted(set(best))}
    return [tested[i] for i in best], [str(rules[i]) for i in best]
