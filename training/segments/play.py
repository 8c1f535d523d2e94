"""Plays policies on recorded trees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.segments.checkpoint import SegmentCheckpoint
from controller.segments.episodes import SegmentConfig
from controller.segments.rules import ObservingPolicy, SegmentPolicy
from envs.random import Streams
from envs.segments.replay import SegmentReplay
from envs.segments.table import SegmentTable
from training.play import Ints, Played, log_odds, play_out

Floats = NDArray[np.float64]
Watcher = Callable[[SegmentReplay, Ints, Ints], None]


def play_segments(
    policy: SegmentPolicy,
    table: SegmentTable,
    config: SegmentConfig,
    *,
    price: float,
    difficulty: Floats | None = None,
    budget: float | None = None,
    watch: Watcher | None = None,
) -> Played:
    """Play every recorded attempt once; means over the attempts at each question.

    Args:
        policy: to play.
        table: recorded trees.
        config: the decision process.
        price: accuracy per unit cost.
        difficulty: (Q, R) log-odds; None when unknown.
        budget: hard cap on cost; None for no cap.
        watch: see `training.play.play`.

    Returns:
        `actions` are segments by the small model, those of them that were redone, escalations
        and forced answers.
    """
    replay = finished(
        policy, table, config, price=price, difficulty=difficulty, budget=budget, watch=watch
    )
    episodes = replay.episodes

    def mean(column: NDArray[Any]) -> Floats:
        return np.asarray(column.reshape(len(table.question_ids), -1).mean(1))

    counts = (episodes.samples, episodes.revisions, episodes.escalated, episodes.forced)
    return Played(
        right=mean(replay.right()),
        cost=mean(episodes.spent),
        tokens=mean(episodes.tokens),
        rounds=mean(episodes.rounds),
        actions=np.stack([mean(c) for c in counts], 1),
    )


def finished(
    policy: SegmentPolicy,
    table: SegmentTable,
    config: SegmentConfig,
    *,
    price: float,
    difficulty: Floats | None = None,
    budget: float | None = None,
    watch: Watcher | None = None,
) -> SegmentReplay:
    """The episodes of `play_segments` once they are over, one per recorded attempt."""
    n = len(table)
    replay, rows = SegmentReplay(table, config, n, difficulty=difficulty), np.arange(n)
    replay.begin(rows, rows, np.full(n, price), np.full(n, np.inf if budget is None else budget))
    nothing_drawn = Streams(np.zeros(n, np.uint64))
    play_out(replay, lambda mask: policy.act(replay.episodes, mask), nothing_drawn, watch)
    replay.close(rows)
    return replay


def play_segment_checkpoint(
    checkpoint: SegmentCheckpoint,
    table: SegmentTable,
    price: float,
    watch: Watcher | None = None,
) -> Played:
    """Play a controller; see `play_segments`."""
    return play_segments(
        ObservingPolicy(checkpoint.policy.choose),
        table,
        checkpoint.config,
        price=price,
        difficulty=log_odds(checkpoint.difficulty, table),
        watch=watch,
    )
