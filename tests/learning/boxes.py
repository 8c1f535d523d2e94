"""A menu with a perfect verifier, whose optimum has a closed form.

An attempt is right or gives no answer, so an answer is known to be right: each attempt is a box
that costs something to open and holds a right answer with a known probability.

Source: Weitzman 1979, "Optimal Search for the Best Alternative".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from controller.process.actions import Tier
from controller.process.cost import CostModel
from controller.process.episodes import EpisodeConfig, Episodes
from controller.process.menu import Arm
from envs.traces.table import SIGNALS, TraceTable, attempt_type

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Arms and kinds of questions; the prompt tells which kind, and is read for nothing.

    Attributes:
        right: (T, R) probability that an attempt of each arm is right, for each kind.
        weights: (R,) cost of a token of each arm, that of the first 1.
        most: (R,) attempts that an episode can ask of each arm.
        tokens: length of every attempt.
    """

    right: tuple[tuple[float, ...], ...] = (
        (0.9, 0.92, 0.97, 0.99),
        (0.5, 0.6, 0.85, 0.95),
        (0.1, 0.8, 0.3, 0.9),
        (0.05, 0.1, 0.4, 0.8),
        (0.01, 0.01, 0.02, 0.05),
    )
    weights: tuple[float, ...] = (1.0, 2.0, 6.0, 25.0)
    most: tuple[int, ...] = (4, 4, 2, 2)
    tokens: int = 160

    @property
    def costs(self) -> Floats:
        """Of an attempt of each arm, (R,)."""
        return self.tokens * np.array(self.weights)

    def config(self) -> EpisodeConfig:
        """The decision process: half of the arms are small."""
        arms = [
            Arm(name=f"arm{rung}", tier=tier, family=f"family{rung}", most=most)
            for rung, most in enumerate(self.most)
            for tier in [Tier.SMALL if 2 * rung < len(self.most) else Tier.LARGE]
        ]
        return EpisodeConfig(
            cost=CostModel(weights=self.weights),
            vote_weights=(1,) * len(arms),
            mean_completion_tokens=(self.tokens,) * len(arms),
            max_completion_tokens=(self.tokens,) * len(arms),
            cost_unit=self.tokens,
            max_samples=sum(self.most),
            max_revisions=0,
            max_escalations=max(self.most),
            arms=tuple(arms),
        )

    def optimum(self, price: float) -> Floats:
        """Greatest expected utility of each kind, (T,): the cheapest chances first."""
        values = np.zeros(len(self.right))
        for kind, chances in enumerate(np.array(self.right)):
            left = 1.0
            for rung in np.argsort(self.costs / chances):
                for _ in range(self.most[rung]):
                    values[kind] += left * max(gain := chances[rung] - price * self.costs[rung], 0)
                    left *= 1 - chances[rung] * (gain > 0)
        return values

    def solved(self, kind: int, price: float) -> float:
        """The same of one kind by looking at all that can be done in each state."""

        @cache
        def value(left: tuple[int, ...]) -> float:
            worth = [0.0]
            for rung, (chance, cost) in enumerate(zip(self.right[kind], self.costs, strict=True)):
                if left[rung]:
                    after = value(tuple(n - (r == rung) for r, n in enumerate(left)))
                    worth.append(chance - price * cost + (1 - chance) * after)
            return max(worth)

        return value(self.most)

    def difficulty(self, table: TraceTable) -> Floats:
        """Log-odds that an attempt of each arm is right, (Q, R)."""
        chances = np.array(self.right)[table.levels - 1]
        return np.asarray(np.log(chances / (1 - chances)))

    def table(self, num_questions: int, seed: int) -> TraceTable:
        """Draw questions of all kinds alike; a question's level is its kind, from 1."""
        rng = np.random.default_rng(seed)
        levels = rng.integers(1, len(self.right) + 1, num_questions)
        rungs = np.repeat(np.arange(len(self.most)), self.most)  # (M / Q,)
        chances = np.array(self.right)[levels - 1][:, rungs]  # (Q, M / Q)
        attempts = np.zeros(chances.size, attempt_type())
        attempts["rung"], attempts["row"] = np.tile(rungs, num_questions), range(chances.size)
        attempts["answer"] = np.where(rng.random(chances.shape) < chances, 0, -1).ravel()
        attempts["completion_tokens"] = self.tokens
        for name in SIGNALS:
            attempts[name] = np.nan
        places = np.arange(chances.size).reshape(chances.shape)
        stream = np.full((num_questions, len(self.most), max(self.most)), -1, np.int32)
        for rung, most in enumerate(self.most):
            stream[:, rung, :most] = places[:, rungs == rung]
        return TraceTable(
            question_ids=tuple(map(str, range(num_questions))),
            datasets=("boxes",) * num_questions,
            levels=levels,
            prompt_tokens=np.zeros((num_questions, len(self.most)), np.int64),
            hidden=None,
            stream=stream,
            stream_length=(stream >= 0).sum(2),
            answer_correct=np.ones((num_questions, 1), bool),
            answers=(("right",),) * num_questions,
            attempts=attempts,
            revisers=(),
            children=np.zeros((len(attempts), 0, 2), np.int32),
        )


@dataclass(frozen=True)
class Weitzman:
    """The optimal policy."""

    boxes: Boxes

    def act(self, episodes: Episodes, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The cheapest chance that is worth its price, until there is an answer; STOP else."""
        config = episodes.config
        chances = 1 / (1 + np.exp(-episodes.difficulty))  # (N, R)
        asking = np.array([config.asks(rung) for rung in range(config.num_rungs)])
        worth = (chances > episodes.price[:, None] * self.boxes.costs) & mask[:, asking]
        best = np.where(worth, chances / self.boxes.costs, 0).argmax(1)
        going = worth.any(1) & (episodes.leader < 0)
        return np.where(going, asking[best], 0)
