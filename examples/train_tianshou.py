"""Train tianshou's DQN, which takes masks from the observation.

    pip install tianshou
    python examples/train_tianshou.py --steps 20000

tianshou 2.0 wants pandas below 3: an environment of its own is the place for it.
"""

import argparse

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils.net.common import Net

NAME = "envs:allot/Compute-v0"

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--traces", default="checkpoints/traces")
parser.add_argument("--steps", type=int, default=20_000, help="decisions to learn from")
parser.add_argument("--episodes", type=int, default=1000, help="to measure")
args = parser.parse_args()
np.random.seed(0)
torch.manual_seed(0)


class Masked(gymnasium.Wrapper):
    """Puts the mask beside the observation, where tianshou looks for it."""

    def __init__(self, split):
        super().__init__(gymnasium.make(NAME, traces=args.traces, split=split))
        mask = Box(0, 1, (self.action_space.n,), np.int8)
        self.observation_space = Dict({"obs": self.env.observation_space, "mask": mask})

    def reset(self, **options):
        observation, info = self.env.reset(**options)
        return {"obs": observation, "mask": info["action_mask"]}, {}

    def step(self, action):
        observation, *ends, info = self.env.step(action)
        return {"obs": observation, "mask": info["action_mask"]}, *ends, {}


envs = DummyVectorEnv([lambda: Masked("train") for _ in range(16)])
envs.seed(0)
shape, actions = Masked("train").env.observation_space.shape, envs.action_space[0]
policy = DiscreteQLearningPolicy(
    model=Net(state_shape=shape, action_shape=actions.n, hidden_sizes=[64, 64]),
    action_space=actions,
    eps_training=0.2,
)
DQN(
    policy=policy, optim=AdamOptimizerFactory(lr=1e-3), gamma=1.0, target_update_freq=200
).run_training(
    OffPolicyTrainerParams(
        training_collector=Collector(
            policy, envs, VectorReplayBuffer(args.steps, 16), exploration_noise=True
        ),
        max_epochs=1,
        epoch_num_steps=args.steps,
        collection_step_num_env_steps=64,
        update_step_num_gradient_steps_per_sample=0.25,
        verbose=False,
        show_progress=False,
    )
)
test = DummyVectorEnv([lambda: Masked("test")])
test.seed(0)
returns = (
    Collector(policy, test).collect(n_episode=args.episodes, reset_before_collect=True).returns
)
print(f"learned: mean return {returns.mean():.3f}")  # each is accuracy - price x cost
