"""Play controllers and hand-made rules on held-out questions.

Rules are tuned for each price on the train and validation splits; the test split is
looked at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from controller.baselines import (
    AlwaysLarge,
    Rule,
    RulePolicy,
    SelfConsistency,
    VerifiedBestOfN,
    routers,
    rule_families,
)
from controller.checkpoint import Checkpoint
from controller.difficulty import Reads
from controller.episodes import EpisodeConfig
from envs.reward import LogUniform
from envs.table import TraceTable
from training.cluster import Cluster, map_on
from training.difficulty import LINEAR, Fit, fit_networks, fit_readout, neighbours, success_rates
from training.oracles import clairvoyant
from training.play import Played, log_odds, play, play_checkpoint, pool, select
from training.promises import kept_accuracies, kept_costs

Floats = NDArray[np.float64]

CONTROLLER = "controller"

_TUNING_EPISODES = 10_000
"""Enough to tell settings of a rule apart; more only takes longer."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that was played on the test split.

    Attributes:
        prices: (P,).
        played: by policy name, one entry per price.
        settings: by rule family, the setting tuned for each price.
        oracles: as `played`, for what no policy can do.
        levels: (Q,) difficulty of each question; 0 when unknown.
        promises: mean costs and accuracies that the first controller was asked for, and what
            became of them.
        seeds: (S, P) mean utility of each controller.
    """

    prices: Floats
    played: Mapping[str, Sequence[Played]]
    settings: Mapping[str, Sequence[str]]
    oracles: Mapping[str, Sequence[Played]]
    levels: NDArray[np.int64]
    promises: Mapping[str, Sequence[Mapping[str, float]]]
    seeds: Floats


def compare(
    checkpoints: Sequence[Checkpoint],
    tuning: TraceTable,
    test: TraceTable,
    *,
    num_prices: int = 12,
    repeats: int = 8,
    cluster: Cluster | None = None,
) -> Comparison:
    """Play controllers and tuned rules on the test split.

    Args:
        checkpoints: controllers that differ by seed alone; their episodes are pooled.
        tuning: questions that rules are tuned on.
        test: held-out questions.
        num_prices: P, evenly spaced on a log scale over the trained range.
        repeats: episodes per question.
        cluster: plays the controllers side by side; this process alone if None.
    """
    first = checkpoints[0]
    prices = LogUniform(low=first.price_range[0], high=first.price_range[1]).grid(num_prices)
    contest = _Contest(first, tuning, test, prices, repeats)
    by_checkpoint = map_on(cluster, play_prices, checkpoints, test, prices, repeats)
    by_seed = list(zip(*by_checkpoint, strict=True))
    contest.played[CONTROLLER] = [pool(played) for played in by_seed]
    families = rule_families(
        first.config.max_samples,
        revises=first.config.max_revisions > 0,
        verifies=first.config.verifies,
    )
    config = replace(first.config, reads_prompt=False)
    for family, rules in families.items():
        contest.add(family, rules, config)
    contest.add_routers()
    return Comparison(
        prices=prices,
        played=contest.played,
        settings=contest.settings,
        oracles={
            "informed oracle": contest.informed(config),
            "clairvoyant oracle": [clairvoyant(test, config, p, repeats=repeats) for p in prices],
        },
        levels=test.levels,
        promises={"mean_cost": kept_costs(first, test), "accuracy": kept_accuracies(first, test)}
        if first.calibration is not None
        else {},
        seeds=np.array(
            [
                [p.utility(price).mean() for p in played]
                for played, price in zip(by_seed, prices, strict=True)
            ]
        ).T,
    )


def play_prices(
    checkpoint: Checkpoint, test: TraceTable, prices: Floats, repeats: int
) -> list[Played]:
    """How a controller does at each of some prices."""
    return [play_checkpoint(checkpoint, test, price, repeats=repeats) for price in prices]


class _Contest:
    """Rules tuned on one table and played on another, price by price."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        tuning: TraceTable,
        test: TraceTable,
        prices: Floats,
        repeats: int,
    ) -> None:
        self.config, self.tuning, self.test = checkpoint.config, tuning, test
        self.prices, self.repeats = prices, repeats
        self.tuning_repeats = max(1, min(repeats, _TUNING_EPISODES // len(tuning)))
        self.played: dict[str, list[Played]] = {}
        self.settings: dict[str, list[str]] = {}

    def _tuned(self, rule: Rule, config: EpisodeConfig, difficulty: Floats | None) -> Played:
        repeats = self.tuning_repeats
        policy = RulePolicy(rule)
        return play(policy, self.tuning, config, price=1.0, difficulty=difficulty, repeats=repeats)

    def _tested(self, rule: Rule, config: EpisodeConfig, difficulty: Floats | None) -> Played:
        policy, repeats = RulePolicy(rule), self.repeats
        return play(policy, self.test, config, price=1.0, difficulty=difficulty, repeats=repeats)

    def add(
        self,
        family: str,
        rules: Sequence[Rule],
        config: EpisodeConfig,
        difficulty: tuple[Floats, Floats] | None = None,
    ) -> None:
        """Play a family, its setting tuned for each price.

        Args:
            family: its name.
            rules: settings to choose from.
            config: the decision process.
            difficulty: of tuning and test questions, for rules that read it.
        """
        tuning, test = difficulty or (None, None)
        tuned = [self._tuned(rule, config, tuning) for rule in rules]
        best = [int(np.argmax([p.utility(price).mean() for p in tuned])) for price in self.prices]
        tested = {i: self._tested(rules[i], config, test) for i in sorted(set(best))}
        self.played[family] = [tested[i] for i in best]
        self.settings[family] = [str(rules[i]) for i in best]

    def add_routers(self) -> None:
        """Play the rules that decide by the question alone, if it was recorded.

        Those that read the small model's prompt state, if there is one, pay for it.
        """
        recorded: Reads = "words" if self.tuning.features("prompt") is None else "prompt"
        known = self._log_odds(recorded, LINEAR)
        if known is None:
            return
        paying = replace(self.config, reads_prompt=recorded == "prompt")
        self.add("logistic router", routers(), paying, known)
        network = self._log_odds("prompt", [fit_networks])
        if network is not None:
            self.add("network router", routers(), paying, network)
        near = neighbours(self.tuning, self.test)
        if near is not None:
            self.add("kNN router", routers(), paying, near)
        free = replace(self.config, reads_prompt=False)
        shape = self._log_odds("shape", [fit_networks])
        self.add("wording router", routers(), free, shape)
        self.played["difficulty bins"] = self._lookup(free, shape or known)

    def _log_odds(self, reads: Reads, fits: Sequence[Fit]) -> tuple[Floats, Floats] | None:
        """Difficulty of the tuning and of the test questions by the best of some read-outs."""
        fitted = fit_readout(self.tuning, success_rates(self.tuning), reads, fits)
        new = None if fitted is None else log_odds(fitted[0], self.test)
        return None if fitted is None or new is None else (fitted[1], new)

    def _plans(self, config: EpisodeConfig) -> list[Rule]:
        """What can be done about a question without looking at its attempts."""
        counts = [n for n in range(config.max_samples + 1) if n <= 4 or n % 4 == 0]
        plans: list[Rule] = [AlwaysLarge(), *(SelfConsistency(n) for n in counts)]
        if config.verifies:
            plans += [VerifiedBestOfN(n) for n in counts if n > 1]
        return plans

    def _lookup(self, config: EpisodeConfig, difficulty: tuple[Floats, Floats]) -> list[Played]:
        """The best plan for each fifth of the questions by difficulty.

        Source: Snell et al. 2024 (arXiv 2408.03314), section 3.2.
        """
        plans = self._plans(config)
        tuned = [self._tuned(plan, config, difficulty[0]) for plan in plans]
        tested = [self._tested(plan, config, difficulty[1]) for plan in plans]
        edges = np.quantile(difficulty[0][:, 0], [0.2, 0.4, 0.6, 0.8])
        known, new = (np.searchsorted(edges, d[:, 0]) for d in difficulty)
        played = []
        for price in self.prices:
            utility = np.array([p.utility(price) for p in tuned])  # (plans, Q)
            by_bin = [utility[:, known == b].mean(1).argmax() for b in range(5)]
            played.append(select(tested, np.array(by_bin)[new]))
        return played

    def informed(self, config: EpisodeConfig) -> list[Played]:
        """The best plan for each question, by what it brings on that very question."""
        tested = [self._tested(plan, config, None) for plan in self._plans(config)]
        return [
            select(tested, np.array([p.utility(price) for p in tested]).argmax(0))
            for price in self.prices
        ]
