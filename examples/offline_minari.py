"""Write a data set for offline RL with Minari, read it again, and learn from nothing else.

    pip install "minari[hdf5]"
    MINARI_DATASETS_PATH=datasets python examples/offline_minari.py --learn-from 5000

What is learned is the value of each action, from the returns that followed it.
"""

import argparse

import gymnasium
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer
from sklearn.neural_network import MLPRegressor

NAME, DATASET = "envs:allot/Compute-v0", "allot/random-v0"

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--traces", default="checkpoints/traces")
parser.add_argument("--learn-from", type=int, default=5000, help="episodes")
parser.add_argument("--episodes", type=int, default=1000, help="to measure")
args = parser.parse_args()
rng = np.random.default_rng(0)


def play(env, act, seed):
    """One episode, as Minari stores it: a last observation, and no action after it."""
    observation, info = env.reset(seed=seed)
    lists = {name: [] for name in ("actions", "rewards", "terminations", "truncations")}
    episode, over = EpisodeBuffer(observations=[observation], seed=seed, **lists), False
    while not over:
        action = act(observation, info["action_mask"])
        observation, reward, over, _, info = env.step(action)
        episode.observations.append(observation)
        episode.actions.append(np.int64(action))
        episode.rewards.append(reward)
        episode.terminations.append(over)
        episode.truncations.append(False)
    return episode


def mean_return(episodes):
    return np.mean([sum(episode.rewards) for episode in episodes])


def at_random(observation, mask):
    return rng.choice(np.flatnonzero(mask))


env = gymnasium.make(NAME, traces=args.traces)
recorded = [play(env, at_random, seed) for seed in range(args.learn_from)]
print(f"at random: mean return {mean_return(recorded):.3f}")
if DATASET in minari.list_local_datasets():
    minari.delete_dataset(DATASET)
minari.create_dataset_from_buffers(
    DATASET, recorded, env=env, algorithm_name="random legal actions"
)

observed, taken, returns = [], [], []
for episode in minari.load_dataset(DATASET).iterate_episodes():
    observed.append(episode.observations[:-1])
    taken.append(episode.actions)
    returns.append(np.cumsum(episode.rewards[::-1])[::-1])
actions = np.eye(env.action_space.n)
seen = np.hstack([np.vstack(observed), actions[np.concatenate(taken)]])
value = MLPRegressor(hidden_layer_sizes=(64, 64), early_stopping=True, random_state=0).fit(
    seen, np.hstack(returns)
)


def learned(observation, mask):
    tried = np.hstack([np.tile(observation, (len(mask), 1)), actions])  # (A, D + A)
    return np.where(mask, value.predict(tried), -np.inf).argmax()


test = gymnasium.make(NAME, traces=args.traces, split="test")
played = [play(test, learned, seed) for seed in range(args.episodes)]
print(f"learned: mean return {mean_return(played):.3f}")
