"""A reward of your own: wrong answers cost more than none, and policies give up more often.

python examples/own_reward.py --steps 50000
"""

import argparse
from pathlib import Path

import gymnasium
from sb3_contrib import MaskablePPO
from stable_baselines3.common.env_util import make_vec_env

from envs.reward import utility
from training.learn.threads import limit_threads

TRACES = str(Path(__file__).parent.parent / "checkpoints" / "traces")

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=50_000, help="decisions to learn from")
parser.add_argument("--episodes", type=int, default=500, help="to look at")
arguments = parser.parse_args()
limit_threads()


def careful(step):  # right, wrong, compute and rounds are (N,) each
    return utility(step) - 1.0 * step.wrong


def make(split, reward):
    return gymnasium.make("envs:allot/Compute-v0", traces=TRACES, split=split, reward=reward)


for reward in (utility, careful):
    train = make_vec_env(lambda reward=reward: make("train", reward), n_envs=8, seed=0)
    model = MaskablePPO("MlpPolicy", train, n_steps=256, gamma=1.0, seed=0)
    model.learn(arguments.steps)
    env, ended = make("test", reward), {"right": 0, "wrong": 0, "no answer": 0}
    for episode in range(arguments.episodes):
        observation, info = env.reset(seed=episode)
        while "right" not in info:
            mask = info["action_mask"]
            action, _ = model.predict(observation, action_masks=mask, deterministic=True)
            observation, *_, info = env.step(action)
        ended["right" if info["right"] else "wrong" if info["answer"] else "no answer"] += 1
    print(f"{reward.__name__}: {ended}")
