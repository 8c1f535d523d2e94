"""Train sb3-contrib's MaskablePPO on the environment: any Gymnasium library will do.

    python examples/train_sb3.py --steps 50000

Not every action is legal at every step, so the algorithm has to know masks; sb3-contrib asks
the environment for them by itself.
"""

import argparse

import gymnasium
import numpy as np
from sb3_contrib import MaskablePPO
from stable_baselines3.common.env_util import make_vec_env

from controller.process.observation import OBSERVATION_NAMES
from training.learn.threads import limit_threads

ENV = "envs:allot/Compute-v0"

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--traces", default="checkpoints/traces")
parser.add_argument("--steps", type=int, default=50_000, help="decisions to learn from")
parser.add_argument("--episodes", type=int, default=1000, help="to compare on")
arguments = parser.parse_args()

limit_threads()
train = make_vec_env(ENV, n_envs=8, seed=0, env_kwargs={"traces": arguments.traces})
model = MaskablePPO("MlpPolicy", train, n_steps=256, gamma=1.0, seed=0)
model.learn(arguments.steps)


def learned(observation, mask):
    return model.predict(observation, action_masks=mask, deterministic=True)[0]


def one_small_attempt(observation, mask):
    stop, sample = 0, 1
    return stop if observation[OBSERVATION_NAMES.index("samples")] else sample


env = gymnasium.make(ENV, split="test", traces=arguments.traces)
for policy in (learned, one_small_attempt):
    returns = np.zeros(arguments.episodes)  # each is accuracy - price x cost
    for episode in range(arguments.episodes):
        observation, info = env.reset(seed=episode)
        over = False
        while not over:
            action = policy(observation, info["action_mask"])
            observation, reward, over, _, info = env.step(action)
            returns[episode] += reward
    print(f"{policy.__name__}: mean return {returns.mean():.3f}")
