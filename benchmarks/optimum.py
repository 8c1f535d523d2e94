"""How near one price-conditioned policy comes to the exact optimum of two made-up problems."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from controller.policy.network import Policy, PolicyNetwork
from controller.policy.rules import RulePolicy, rule_families
from envs.reward import price_range
from envs.vector import ComputeVectorEnv
from tests.learning.belief import BeliefTree, Floats
from tests.learning.boxes import Boxes, Weitzman
from tests.learning.optimum import evaluate, solve
from tests.learning.synthetic import SyntheticFamily
from training.compare.simulate import play
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
BOXES_TRAINING = PPOConfig(total_steps=2_000_000)


def share_of_optimum(
    seed: int,
    ppo: PPOConfig = TRAINING,
    *,
    family: SyntheticFamily | None = None,
    num_questions: int = 200_000,
    num_prices: int = 12,
) -> dict[str, float]:
    """Train a policy on a pair of models and compare it with the optimum, exactly.

    Returns:
        `mean` and `worst` over prices of the policy's share of the optimal utility, and the
        mean share of the hand-made rule that does best at each price.
    """
    family = family or SyntheticFamily()
    prices = price_range(family.config().cost_unit).grid(num_prices)
    optimum = solve(family, prices)
    policy = _trained(family, num_questions, replace(ppo, seed=seed))
    shares = evaluate(optimum.tree, policy, prices) / optimum.value  # (P,)
    rules = best_rules(optimum.tree, prices) / optimum.value
    return {
        "mean": float(shares.mean()),
        "worst": float(shares.min()),
        "best_rule_mean": float(rules.mean()),
    }


def share_of_boxes(
    seed: int,
    ppo: PPOConfig = BOXES_TRAINING,
    *,
    num_questions: int = 20_000,
    num_prices: int = 12,
) -> dict[str, float]:
    """Train a policy for a menu with a perfect verifier and play it on other questions.

    Returns:
        `mean` and `worst` over prices of its share of what the optimal policy brings on the same
        questions with the same attempts.
    """
    boxes = Boxes()
    config, fresh = boxes.config(), boxes.table(20_000, seed + 1_000)
    known = boxes.difficulty(fresh)
    policy = _trained(boxes, num_questions, replace(ppo, seed=seed))

    def utility(policy: Policy, price: float) -> float:
        played = play(policy, fresh, config, price=price, difficulty=known, repeats=1)
        return float(played.utility(price).mean())

    prices = price_range(config.cost_unit).grid(num_prices)
    shares = [utility(policy, price) / utility(Weitzman(boxes), price) for price in prices]
    return {"mean": float(np.mean(shares)), "worst": float(np.min(shares))}


def _trained(problem: SyntheticFamily | Boxes, num_questions: int, ppo: PPOConfig) -> PolicyNetwork:
    """One policy for the whole price range."""
    config, table = problem.config(), problem.table(num_questions, ppo.seed)
    known, prices = problem.difficulty(table), price_range(config.cost_unit)
    env = ComputeVectorEnv(table, config, ppo.num_envs, prices=prices, difficulty=known)
    learner = PPO(env, ppo)
    learner.train()
    return learner.policy


def best_rules(tree: BeliefTree, prices: Floats) -> Floats:
    """Utility of the hand-made rule that does best at each price, hindsight included, (P,)."""
    families = rule_families(tree.family.config())
    rules = [rule for name in VOTE_RULES for rule in families[name]]
    utilities = [evaluate(tree, RulePolicy(rule), prices) for rule in rules]
    return np.asarray(np.max(utilities, axis=0))
