"""PPO in the form of CleanRL's `ppo.py`, to be read from top to bottom and changed anywhere.

    python examples/train_cleanrl.py --steps 200000

All environments are one vector environment, whose masks rule out what is not legal.
"""

import argparse

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--traces", default="checkpoints/traces")
parser.add_argument("--steps", type=int, default=200_000, help="decisions to learn from")
parser.add_argument("--episodes", type=int, default=1000, help="to measure")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
num_envs, num_steps, minibatch, epochs = 64, 32, 512, 4
gamma, gae_lambda, clip, entropy_weight, value_weight = 1.0, 0.95, 0.2, 0.01, 0.5
torch.manual_seed(args.seed)
rng = np.random.default_rng(args.seed)


def layer(inputs, outputs, std=2**0.5):
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, std)
    nn.init.zeros_(linear.bias)
    return linear


envs = gymnasium.make_vec("envs:allot/Compute-v0", num_envs=num_envs, traces=args.traces)
D, A = envs.single_observation_space.shape[0], envs.single_action_space.n
actor = nn.Sequential(layer(D, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, A, 0.01))
critic = nn.Sequential(layer(D, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, 1, 1.0))
optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=2.5e-3, eps=1e-5)


def policy(observations, masks):
    return Categorical(logits=actor(observations).masked_fill(~masks, -1e8))


def played(info):
    return torch.as_tensor(info["action_mask"], dtype=torch.bool)  # (N, A)


obs, actions = torch.zeros(num_steps, num_envs, D), torch.zeros(num_steps, num_envs)
masks = torch.zeros(num_steps, num_envs, A, dtype=torch.bool)
logprobs, rewards, dones, values = torch.zeros(4, num_steps, num_envs)
seen, info = envs.reset(seed=args.seed)
next_obs, next_mask = torch.as_tensor(seen), played(info)
for _ in range(max(1, args.steps // (num_envs * num_steps))):
    for t in range(num_steps):
        obs[t], masks[t] = next_obs, next_mask
        with torch.no_grad():
            chosen = policy(next_obs, next_mask)
            actions[t] = chosen.sample()
            logprobs[t], values[t] = chosen.log_prob(actions[t]), critic(next_obs)[:, 0]
        seen, reward, terminated, truncated, info = envs.step(actions[t].numpy().astype(int))
        rewards[t], dones[t] = torch.as_tensor(reward), torch.as_tensor(terminated | truncated)
        next_obs, next_mask = torch.as_tensor(seen), played(info)
    with torch.no_grad():
        following, gain = critic(next_obs)[:, 0], 0.0
    advantages = torch.zeros(num_steps, num_envs)
    for t in reversed(range(num_steps)):
        going = 1 - dones[t]
        delta = rewards[t] + gamma * following * going - values[t]
        advantages[t] = gain = delta + gamma * gae_lambda * going * gain
        following = values[t]
    targets = (advantages + values).flatten()
    flat = [x.flatten(0, 1) for x in (obs, masks, actions, logprobs, advantages)]
    for _ in range(epochs):
        for part in rng.permutation(num_envs * num_steps).reshape(-1, minibatch):
            o, m, a, before, gains = (x[part] for x in flat)
            now, scaled = policy(o, m), (gains - gains.mean()) / (gains.std() + 1e-8)
            ratio = (now.log_prob(a) - before).exp()
            loss = -torch.min(ratio * scaled, ratio.clamp(1 - clip, 1 + clip) * scaled).mean()
            loss += value_weight * (critic(o)[:, 0] - targets[part]).square().mean()
            loss -= entropy_weight * now.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*actor.parameters(), *critic.parameters()], 0.5)
            optimizer.step()

env = gymnasium.make("envs:allot/Compute-v0", traces=args.traces, split="test")
returns = np.zeros(args.episodes)  # each is accuracy - price x cost
for episode in range(args.episodes):
    seen, info = env.reset(seed=episode)
    over = False
    while not over:
        with torch.no_grad():
            logits = policy(torch.as_tensor(seen)[None], played(info)[None]).logits
        seen, reward, over, _, info = env.step(int(logits.argmax()))
        returns[episode] += reward
print(f"learned: mean return {returns.mean():.3f}")
