"""Train skrl's PPO on the vector environment; it knows no masks, so illegal actions cost something.

pip install skrl
python examples/train_skrl.py --steps 50000
"""

import argparse

import gymnasium
import numpy as np
import torch
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed
from torch import nn

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--traces", default="checkpoints/traces")
parser.add_argument("--steps", type=int, default=50_000, help="decisions to learn from")
parser.add_argument("--episodes", type=int, default=1000, help="to measure")
args = parser.parse_args()
set_seed(0)
NAME, N, T = "envs:allot/Compute-v0", 64, 32
env = wrap_env(
    gymnasium.make_vec(NAME, num_envs=N, traces=args.traces, illegal="penalty"), verbose=False
)


def network(outputs):
    inputs = env.observation_space.shape[0]
    return nn.Sequential(
        nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)
    )


class Network(Model):
    def __init__(self, outputs):
        Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space)
        self.net = network(outputs)

    def compute(self, inputs, role=""):
        return self.net(inputs["observations"]), {}


class Actor(CategoricalMixin, Network):
    def __init__(self):
        Network.__init__(self, env.action_space.n)
        CategoricalMixin.__init__(self)


class Critic(DeterministicMixin, Network):
    def __init__(self):
        Network.__init__(self, 1)
        DeterministicMixin.__init__(self)


cfg = PPO_CFG(rollouts=T, learning_epochs=4, mini_batches=4, discount_factor=1.0)
cfg.learning_rate, cfg.entropy_loss_scale, cfg.value_loss_scale = 2.5e-3, 0.01, 0.5
cfg.experiment.write_interval = cfg.experiment.checkpoint_interval = 0
agent = PPO(
    models={"policy": Actor(), "value": Critic()},
    memory=RandomMemory(memory_size=T, num_envs=N),
    observation_space=env.observation_space,
    action_space=env.action_space,
    cfg=cfg,
)
timesteps = max(T, args.steps // N)
SequentialTrainer(
    env=env,
    agents=agent,
    cfg={"timesteps": timesteps, "headless": True, "disable_progressbar": True},
).train()

test = gymnasium.make(NAME, traces=args.traces, split="test", illegal="penalty")
returns = np.zeros(args.episodes)  # each is accuracy - price x cost
for episode in range(args.episodes):
    observation, _ = test.reset(seed=episode)
    over = False
    while not over:
        with torch.no_grad():
            logits = agent.policy.net(torch.as_tensor(observation))
        observation, reward, over, _, _ = test.step(int(logits.argmax()))
        returns[episode] += reward
print(f"learned: mean return {returns.mean():.3f}")
