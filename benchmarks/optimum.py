"""How near one price-conditioned policy comes to the exact optimum."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from controller.policy.network import PolicyNetwork
from controller.policy.rules import RulePolicy, rule_families
from envs.reward import LogUniform, price_range
from envs.vector import ComputeVectorEnv
from tests.learning.belief import BeliefTree, Floats
from tests.learning.optimum import evaluate, solve
from tests.learning.synthetic import SyntheticFamily
from training.learn.config import PPOConfig
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


def share_of_optimum(seed: int, bench: OptimumBench) -> dict[str, float]:
    """Train a policy and compare it with the optimum, exactly.

    Returns:
        `mean` and `worst` over prices of the policy's share of the optimal utility, and the
        mean share of the hand-made rule that does best at each price.
    """
    prices = bench.prices.grid(bench.num_prices)
    optimum = solve(bench.family, prices)
    shares = evaluate(optimum.tree, train(bench, seed), prices) / optimum.value  # (P,)
    rules = best_rules(optimum.tree, prices) / optimum.value
    return {
        "mean": float(shares.mean()),
        "worst": float(shares.min()),
        "best_rule_mean": float(rules.mean()),
    }


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
    families = rule_families(tree.family.config())
    rules = [rule for name in VOTE_RULES for rule in families[name]]
    utilities = [evaluate(tree, RulePolicy(rule), prices) for rule in rules]
    return np.asarray(np.max(utilities, axis=0))
