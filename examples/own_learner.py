"""A policy network and a learner of your own, prepared, watched, kept and reported as others are.

    python examples/own_learner.py --out runs/reinforce --steps 400000

A learner replaces what an update of PPO does; the actor is any module that makes logits.
"""

import argparse
from pathlib import Path

from torch import nn

from controller.checkpoint import load_checkpoint
from controller.policy.network import register_network
from training.cli.train import train
from training.ppo import PPO, EpisodeTotals, register_learner


class WideAndDeep(nn.Module):  # Cheng et al. 2016, arXiv 1606.07792
    def __init__(self, shape, process):
        super().__init__()
        width = shape.hidden_sizes[0]
        self.wide = nn.Linear(shape.num_features, shape.num_actions)
        self.deep = nn.Sequential(
            nn.Linear(shape.num_features, width), nn.ReLU(), nn.Linear(width, shape.num_actions)
        )

    def forward(self, observation, mask):  # (B, D), (B, A) -> (B, A); illegal ones are left out
        return self.wide(observation) + self.deep(observation)


class Reinforce(PPO):  # Williams 1992: one gradient step per rollout, from nothing
    def train(self, report=None, stop=None, prior=None):
        super().train(report, stop)  # without the rules that PPO starts from

    def improve(self):
        rollout = self.collect(totals := EpisodeTotals()).flat()
        log_probs = self.policy.log_probs(rollout.observations, rollout.masks)
        chosen = log_probs.gather(-1, rollout.actions[:, None]).squeeze(-1)
        values = self.critic(rollout.observations, rollout.truths)
        loss = (values - rollout.returns).square().mean() - (chosen * rollout.advantages).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"losses/loss": loss.item(), "episodic/utility": totals.means()["utility"]}


register_network("wide_and_deep", WideAndDeep)
register_learner("reinforce", Reinforce)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="run directory")
    parser.add_argument("--steps", default="400000", help="decisions to learn from")
    arguments = parser.parse_args()
    own = {"network": "wide_and_deep", "learner": "reinforce", "num_envs": "128"}
    made = train(out=arguments.out, steps=arguments.steps, wandb="disabled", **own)
    print(f"utility {made.utility[Path(arguments.out)]:.3f}, best rule {made.best_rule:.3f}")
    print(load_checkpoint(arguments.out).policy)
