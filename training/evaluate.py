"""Play controllers and hand-made rules on held-out questions.

Rules are tuned for each price on the train and validation splits; the test split is
looked at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.baselines import RulePolicy, rule_families
from controller.checkpoint import Checkpoint
from controller.difficulty import Difficulty
from controller.episodes import EpisodeConfig
from controller.policy import Policy
from envs.random import Streams
from envs.reward import PriceRange
from envs.table import TraceTable
from envs.vector import Replay

Floats = NDArray[np.float64]

CONTROLLER = "controller"

_TUNING_EPISODES = 10_000
"""Enough to tell settings of a rule apart; more only takes longer."""


@dataclass(frozen=True, kw_only=True)
class Played:
    """How a policy did, per question: means over repeats, each (Q,).

    Attributes:
        right: share of episodes with a right answer.
        cost: mean cost, in small-model tokens.
        tokens: mean tokens processed, all models.
        rounds: mean serial rounds.
        actions: mean samples, revisions and escalations, (Q, 3).
    """

    right: Floats
    cost: Floats
    tokens: Floats
    rounds: Floats
    actions: Floats

    def utility(self, price: float) -> Floats:
        """Accuracy less price x cost, (Q,)."""
        return self.right - price * self.cost


def play(
    policy: Policy,
    table: TraceTable,
    config: EpisodeConfig,
    *,
    price: float,
    difficulty: Floats | None = None,
    budget: float | None = None,
    repeats: int = 8,
    seed: int = 0,
) -> Played:
    """Play every question `repeats` times, each with another order of attempts.

    Args:
        policy: to play.
        table: questions and attempts.
        config: the decision process.
        price: accuracy per unit cost.
        difficulty: (Q, R) log-odds; None when unknown.
        budget: hard cap on cost; None for no cap.
        repeats: episodes per question.
        seed: of the orders; the same for every policy, which pairs them.
    """
    n = len(table) * repeats
    question = np.repeat(np.arange(len(table)), repeats)  # (Q * repeats,)
    replay = Replay(table, config, n, difficulty=difficulty)
    episodes, rows = replay.episodes, np.arange(n)
    streams = Streams(np.random.default_rng(seed).integers(2**63, size=n, dtype=np.uint64))
    replay.begin(rows, question, np.full(n, price), np.full(n, budget or np.inf))
    going = np.ones(n, bool)
    while going.any():
        mask = episodes.mask()
        actions = policy.act(episodes, mask)
        going &= (actions != 0) & (mask.sum(1) > 1)
        replay.take(rows[going], actions[going], streams)

    def mean(column: NDArray[Any]) -> Floats:
        return np.asarray(column.reshape(len(table), repeats).mean(1))

    climbs = episodes.counts[:, 1:].sum(1)
    return Played(
        right=mean(replay.right()),
        cost=mean(episodes.spent),
        tokens=mean(episodes.tokens),
        rounds=mean(episodes.rounds),
        actions=np.stack([mean(c) for c in (episodes.counts[:, 0], episodes.revisions, climbs)], 1),
    )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that was played on the test split.

    Attributes:
        prices: (P,).
        played: by policy name, one entry per price.
        settings: by rule family, the setting tuned for each price.
        levels: (Q,) difficulty of each question; 0 when unknown.
    """

    prices: Floats
    played: Mapping[str, Sequence[Played]]
    settings: Mapping[str, Sequence[str]]
    levels: NDArray[np.int64]


def compare(
    checkpoints: Sequence[Checkpoint],
    tuning: TraceTable,
    test: TraceTable,
    *,
    num_prices: int = 12,
    repeats: int = 8,
) -> Comparison:
    """Play controllers and tuned rules on the test split.

    Args:
        checkpoints: controllers that differ by seed alone; their episodes are pooled.
        tuning: questions that rules are tuned on.
        test: held-out questions.
        num_prices: P, evenly spaced on a log scale over the trained range.
        repeats: episodes per question.
    """
    first = checkpoints[0]
    prices = PriceRange(low=first.price_range[0], high=first.price_range[1]).grid(num_prices)
    played: dict[str, list[Played]] = {
        CONTROLLER: [
            _pool([_play_checkpoint(c, test, price, repeats) for c in checkpoints])
            for price in prices
        ]
    }
    settings: dict[str, list[str]] = {}
    config = replace(first.config, reads_prompt=False)
    tuning_repeats = max(1, min(repeats, _TUNING_EPISODES // len(tuning)))
    for family, rules in rule_families(first.config.max_samples).items():
        tuned = [
            play(RulePolicy(r), tuning, config, price=1.0, repeats=tuning_repeats) for r in rules
        ]
        best = [int(np.argmax([p.utility(price).mean() for p in tuned])) for price in prices]
        tested = {
            i: play(RulePolicy(rules[i]), test, config, price=1.0, repeats=repeats)
            for i in sorted(set(best))
        }
        played[family] = [tested[i] for i in best]
        settings[family] = [str(rules[i]) for i in best]
    return Comparison(prices=prices, played=played, settings=settings, levels=test.levels)


def _play_checkpoint(
    checkpoint: Checkpoint, table: TraceTable, price: float, repeats: int
) -> Played:
    return play(
        checkpoint.policy,
        table,
        checkpoint.config,
        price=price,
        difficulty=log_odds(checkpoint.difficulty, table),
        repeats=repeats,
    )


def log_odds(difficulty: Difficulty | None, table: TraceTable) -> Floats | None:
    """Difficulty of every question of a table, (Q, R), or None."""
    if difficulty is None or table.hidden is None:
        return None
    return difficulty.log_odds(table.hidden)


def _pool(played: Sequence[Played]) -> Played:
    return Played(
        **{
            name: np.mean([getattr(p, name) for p in played], axis=0)
            for name in ("right", "cost", "tokens", "rounds", "actions")
        }
    )
