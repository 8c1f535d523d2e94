"""Plays policies on recorded questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.checkpoint import AnyCheckpoint
from controller.granularity import Process
from controller.policy.difficulty import Difficulty
from controller.policy.network import Policy
from controller.policy.rules import RulePolicy
from controller.process.lockstep import Floats, Ints
from controller.segments.rules import SegmentRule
from envs.draws import Streams
from envs.granularity import STOP, AnyTable, replay_of
from envs.questions.table import QuestionTable
from envs.replay import Replay
from training.learn.threads import num_threads

Watcher = Callable[[Any, Ints, Ints], None]
"""Told of a replay, the rows of it that are going on, (n,), and their actions, (n,)."""


_SIDE_BY_SIDE = 50_000
"""Episodes that several policies are played in at a time."""
_THREADS = 4
"""At most: each has its own episodes in memory, and much of playing holds Python's lock."""


@dataclass(frozen=True, kw_only=True)
class Played:
    """How a policy did, per question: means over repeats, each (Q,).

    Attributes:
        right: share of episodes with a right answer.
        cost: mean cost, in small-model tokens.
        tokens: mean tokens processed, all models.
        rounds: mean serial rounds.
        actions: mean steps by kind, (Q, 4); see `Replay.tally`.
    """

    right: Floats
    cost: Floats
    tokens: Floats
    rounds: Floats
    actions: Floats

    def utility(self, price: float) -> Floats:
        """Accuracy less price x cost, (Q,)."""
        return self.right - price * self.cost

    @classmethod
    def of(cls, played: Sequence[Played], together: Callable[[list[Floats]], Floats]) -> Played:
        """Several as one, by what makes one column of theirs."""
        columns = {f.name: [getattr(p, f.name) for p in played] for f in fields(cls)}
        return cls(**{name: together(column) for name, column in columns.items()})


def outcomes_of(played: Sequence[Played]) -> tuple[Floats, Floats]:
    """What K policies got right and spent on Q questions, (Q, K) each."""
    return np.array([p.right for p in played]).T, np.array([p.cost for p in played]).T


def play(
    policy: Policy,
    table: AnyTable,
    config: Process,
    *,
    price: float,
    difficulty: Floats | None = None,
    repeats: int = 8,
    watch: Watcher | None = None,
) -> Played:
    """Play every question, `repeats` times each with another order of attempts.

    `difficulty` are log-odds, (Q, R), if known; `watch` is called before each step.

    Inside attempts every recorded one is played once. Orders are the same for every policy, which
    pairs them.
    """
    starts = table.starts(repeats)
    (played,) = _side_by_side([policy], table, config, starts, difficulty, price, watch)
    return played


def play_rules(
    rules: Sequence[Any],
    table: AnyTable,
    config: Process,
    *,
    difficulty: Floats | None = None,
    repeats: int = 8,
) -> list[Played]:
    """Play rules, which no price changes: the same as `play` of each, many side by side.

    Up to `_THREADS` threads share them.
    """
    starts = table.starts(repeats)
    # Rules inside attempts play themselves.
    policies = [rule if isinstance(rule, SegmentRule) else RulePolicy(rule) for rule in rules]
    most = max(1, _SIDE_BY_SIDE // len(starts))
    chunks = [policies[first : first + most] for first in range(0, len(policies), most)]
    with ThreadPoolExecutor(min(num_threads(), _THREADS)) as pool:
        found = pool.map(lambda c: _side_by_side(c, table, config, starts, difficulty), chunks)
        return [played for of_chunk in found for played in of_chunk]


def _side_by_side(
    policies: Sequence[Policy],
    table: AnyTable,
    config: Process,
    starts: Ints,
    difficulty: Floats | None,
    price: float = 1.0,
    watch: Watcher | None = None,
) -> list[Played]:
    rows = np.arange(len(policies) * len(starts)).reshape(len(policies), -1)
    replay = replay_of(table, config, rows.size, difficulty=difficulty)
    replay.begin(rows.ravel(), np.tile(starts, len(policies)), price)
    keys = np.random.default_rng(0).integers(2**63, size=len(starts), dtype=np.uint64)
    streams, whole = Streams(np.tile(keys, len(policies))), replay.episodes
    every = left = np.arange(rows.size)
    while len(left):
        mask, actions = whole.mask(left), np.full(len(left), STOP)
        ends = np.searchsorted(left, rows[:, 0]).tolist()[1:]
        for policy, own in zip(policies, np.split(np.arange(len(left)), ends), strict=True):
            if len(own):
                episodes = whole if len(own) == rows.size else whole.part(left[own])
                actions[own] = policy.act(episodes, mask[own])
        if watch is not None:
            watch(replay, left, actions)
        goes_on = (actions != STOP) & (mask.sum(1) > 1)
        left = left[goes_on]
        replay.take(left, actions[goes_on], streams)
    replay.close(every)
    return [_played(replay, own) for own in rows]


def _played(replay: Replay, rows: Ints) -> Played:
    """How the episodes of `rows` went, those of a question next to each other."""
    episodes = replay.episodes

    def mean(column: NDArray[Any]) -> Floats:
        return np.asarray(column[rows].reshape(replay.table.num_questions, -1).mean(1))

    return Played(
        right=mean(replay.right()),
        cost=mean(episodes.spent),
        tokens=mean(episodes.tokens),
        rounds=mean(episodes.rounds),
        actions=np.stack([mean(count) for count in replay.tally.values()], 1),
    )


def play_checkpoint(
    checkpoint: AnyCheckpoint,
    table: AnyTable,
    price: float,
    *,
    repeats: int = 8,
    watch: Watcher | None = None,
) -> Played:
    """Play a controller; see `play`."""
    return play(
        checkpoint.acting,
        table,
        checkpoint.config,
        price=price,
        difficulty=outlook(checkpoint.difficulty, table),
        repeats=repeats,
        watch=watch,
    )


def utilities(
    policy: Policy, table: AnyTable, config: Process, prices: Iterable[float], known: Floats | None
) -> Floats:
    """Utility of a policy on every question at every price, (P, Q); see `play`."""

    def utility(price: float) -> Floats:
        played = play(policy, table, config, price=price, difficulty=known, repeats=4)
        return played.utility(price)

    return np.array([utility(price) for price in prices])


@lru_cache(maxsize=4)
def outlook(difficulty: Difficulty | None, prompts: QuestionTable) -> Floats | None:
    """`Difficulty.outlook` of every question, or None; the same at all prices, so kept."""
    return None if difficulty is None else difficulty.outlook(prompts.features)


def pool(played: Sequence[Played]) -> Played:
    """Means over controllers."""
    return Played.of(played, lambda columns: np.asarray(np.mean(columns, axis=0)))


def select(played: Sequence[Played], choice: NDArray[np.int64]) -> Played:
    """For each question, (Q,), how the chosen one did."""
    rows = np.arange(len(choice))
    return Played.of(played, lambda columns: np.stack(columns)[choice, rows])
