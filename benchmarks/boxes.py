"""How near one policy for a menu comes to the exact optimum, which a perfect verifier allows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from controller.policy.network import Policy
from envs.reward import price_range
from envs.vector import ComputeVectorEnv
from tests.learning.boxes import Boxes, Weitzman
from training.compare.simulate import play
from training.learn.config import PPOConfig
from training.ppo import PPO

TRAINING = PPOConfig(total_steps=2_000_000, num_envs=512)


def share_of_optimum(
    seed: int, ppo: PPOConfig = TRAINING, *, num_questions: int = 20_000, num_prices: int = 12
) -> dict[str, float]:
    """Train a policy and play it on other questions.

    Returns:
        `mean` and `worst` over prices of its share of what the optimal policy brings on the same
        questions with the same attempts.
    """
    boxes = Boxes()
    config, prices = boxes.config(), price_range(boxes.config().cost_unit)
    table, ppo = boxes.table(num_questions, seed), replace(ppo, seed=seed)
    known = boxes.difficulty(table)
    env = ComputeVectorEnv(table, config, ppo.num_envs, prices=prices, difficulty=known)
    trained = PPO(env, ppo)
    trained.train()
    fresh = boxes.table(20_000, seed + 1_000)
    new = boxes.difficulty(fresh)

    def utility(policy: Policy, price: float) -> float:
        played = play(policy, fresh, config, price=price, difficulty=new, repeats=1)
        return float(played.utility(price).mean())

    shares = [
        utility(trained.policy, price) / utility(Weitzman(boxes), price)
        for price in prices.grid(num_prices)
    ]
    return {"mean": float(np.mean(shares)), "worst": float(np.min(shares))}
