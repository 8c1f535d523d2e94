"""How near one price-conditioned policy comes to the exact optimum."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from controller.baselines import RulePolicy, rule_families
from controller.errors import ConfigError
from controller.policy import PolicyNetwork
from envs.reward import LogUniform, price_range
from envs.synthetic import SyntheticFamily
from envs.vector import ComputeVectorEnv
from training.belief import BeliefTree, Floats
from training.config import PPOConfig
from training.optimum import evaluate, solve
from training.ppo import PPO

VOTE_RULES = (
    "give up",
    "always small",
    "always large",
    "self-consistency",
    "adaptive consistency",
    "vote cascade",
    "adaptive cascade",
)
"""Families of hand-made rules that decide from what `evaluate` can enumerate."""

# Some decisions only pay together with the ones after them. Episodes are short enough to do
# without bootstrapping, and with more exploration no seed has yet missed such a decision.
TRAINING = PPOConfig(
    total_steps=5_000_000, hidden_sizes=(64, 64), gae_lambda=1.0, entropy_coefficient=0.03
)


@dataclass(frozen=True, kw_only=True)
class OptimumBench:
    """Settings of the benchmark.

    Attributes:
        family: the problem.
        num_prices: P, prices of the evaluation, over the whole range of the training.
        num_questions: questions that each training draws for itself.
        ppo: settings of the trainings, which differ in the seed alone.
    """

    family: SyntheticFamily = field(default_factory=SyntheticFamily)
    num_prices: int = 12
    num_questions: int = 200_000
    ppo: PPOConfig = TRAINING

    @property
    def prices(self) -> LogUniform:
        """Prices that episodes are drawn with."""
        return price_range(self.family.config().cost_unit)


def run(
    seeds: int = 5,
    bench: OptimumBench | None = None,
    *,
    workers: int = 2,
    report: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Train one policy per seed and compare each with the optimum, exactly.

    Args:
        seeds: how many trainings; seeds 0, 1, 2, ...
        bench: settings.
        workers: trainings at a time, one process and one thread each; 0 to stay in this
            process.
        report: called with its seed when a training is done.

    Returns:
        prices (P,), optimal utility (P,), each seed's ratio to it (seeds, P), their mean
        and least, each seed's mean and least, the ratio of the hand-made rule that does
        best at each price (P,), and seconds in all; all as plain numbers and lists.

    Raises:
        ConfigError: no seeds, or a price at which the best one can do is give up.
    """
    started, bench = time.perf_counter(), bench or OptimumBench()
    if seeds < 1:
        raise ConfigError(f"seeds: expected at least 1, found {seeds}")
    prices = bench.prices.grid(bench.num_prices)
    optimum = solve(bench.family, prices)
    if optimum.value.min() <= 0:
        raise ConfigError(
            "family: expected an optimal utility above 0 at every price, so that ratios mean "
            f"something, found {optimum.value.tolist()}"
        )
    utilities = _train_all(bench, seeds, workers, report)  # (seeds, P)
    ratios = utilities / optimum.value
    rules = best_rules(optimum.tree, prices) / optimum.value
    return {
        "prices": prices.tolist(),
        "optimal_utility": optimum.value.tolist(),
        "ratios": ratios.tolist(),
        "mean": float(ratios.mean()),
        "worst": float(ratios.min()),
        "seed_means": ratios.mean(1).tolist(),
        "seed_worsts": ratios.min(1).tolist(),
        "best_rule_ratios": rules.tolist(),
        "num_states": len(optimum.tree),
        "seconds": time.perf_counter() - started,
    }


def _train_all(
    bench: OptimumBench, seeds: int, workers: int, report: Callable[[int], None] | None
) -> Floats:
    """Utilities of one training per seed, (seeds, P)."""
    rows = []
    if workers == 0:
        for seed in range(seeds):
            rows.append(train_and_evaluate(bench, seed))
            if report is not None:
                report(seed)
        return np.array(rows)
    # Forking a process that has run torch threads can hang, so workers start afresh.
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for seed, row in enumerate(pool.map(partial(train_and_evaluate, bench), range(seeds))):
            rows.append(row)
            if report is not None:
                report(seed)
    return np.array(rows)


def train_and_evaluate(bench: OptimumBench, seed: int) -> Floats:
    """Exact utility of one trained policy's greedy play per price, (P,)."""
    policy = train(bench, seed)
    return evaluate(BeliefTree.build(bench.family), policy, bench.prices.grid(bench.num_prices))


def train(bench: OptimumBench, seed: int) -> PolicyNetwork:
    """One policy for the whole price range."""
    family, config = bench.family, replace(bench.ppo, seed=seed)
    table = family.table(bench.num_questions, seed)
    env = ComputeVectorEnv(
        table,
        family.config(),
        config.num_envs,
        prices=bench.prices,
        difficulty=family.difficulty(table),
    )
    ppo = PPO(env, config)
    ppo.train()
    return ppo.policy


def best_rules(tree: BeliefTree, prices: Floats) -> Floats:
    """Utility of the hand-made rule that does best at each price, hindsight included, (P,)."""
    families = rule_families(tree.family.max_samples)
    rules = [rule for name in VOTE_RULES for rule in families[name]]
    utilities = [evaluate(tree, RulePolicy(rule), prices) for rule in rules]
    return np.asarray(np.max(utilities, axis=0))
