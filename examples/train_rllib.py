"""Train RLlib's PPO (new API stack), which knows no masks: illegal actions cost something.

    pip install "ray[rllib]"
    python examples/train_rllib.py --steps 50000

RLlib wants one version of Gymnasium: an environment of its own is the place for it.
"""

import argparse

import gymnasium
import numpy as np
import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns

NAME = "envs:allot/Compute-v0"

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--traces", default="checkpoints/traces")
parser.add_argument("--steps", type=int, default=50_000, help="decisions to learn from")
parser.add_argument("--episodes", type=int, default=1000, help="to measure")
args = parser.parse_args()

ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=100_000_000)
config = (
    PPOConfig()
    .environment(NAME, env_config={"traces": args.traces, "illegal": "penalty"})
    .env_runners(
        num_env_runners=0,
        num_envs_per_env_runner=64,
        gym_env_vectorize_mode="vector_entry_point",
        rollout_fragment_length=32,
    )
    .training(
        train_batch_size_per_learner=2048,
        minibatch_size=512,
        num_epochs=4,
        gamma=1.0,
        lr=2.5e-3,
        entropy_coeff=0.01,
        vf_clip_param=float("inf"),
    )
    .debugging(seed=0, log_level="ERROR")
)
algorithm = config.build_algo()
for _ in range(max(1, args.steps // 2048)):
    algorithm.train()

policy = algorithm.get_module()
env = gymnasium.make(NAME, traces=args.traces, split="test", illegal="penalty")
returns = np.zeros(args.episodes)  # each is accuracy - price x cost
for episode in range(args.episodes):
    observation, _ = env.reset(seed=episode)
    over = False
    while not over:
        with torch.no_grad():
            seen = {Columns.OBS: torch.as_tensor(observation)[None]}
            logits = policy.forward_inference(seen)[Columns.ACTION_DIST_INPUTS]
        observation, reward, over, _, _ = env.step(int(logits.argmax()))
        returns[episode] += reward
print(f"learned: mean return {returns.mean():.3f}")
ray.shutdown()
