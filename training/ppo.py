"""Proximal policy optimisation with masked actions, in one file.

Source: Schulman et al. 2017 (arXiv 1707.06347); details after Huang et al. 2022, "The 37
Implementation Details of Proximal Policy Optimization", and Huang and Ontañón 2020
(arXiv 2006.14171) for masks. Discount 1: costs are in the reward already.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn

from controller.errors import ConfigError
from controller.policy.network import Policy, PolicyConfig, PolicyNetwork, mlp
from controller.process.lockstep import Array, Singles
from envs.vector import ComputeVectorEnv
from training.learn.config import LEARNERS, PPOConfig
from training.learn.resume import load_state, save_state

_SMOOTHING = 0.1
"""Share of a prior's probability that goes to all allowed actions alike: none is ruled out."""

_STRAYING = 0.1
"""Share of steps, while a prior is cloned, in which the policy decides where episodes go."""


def compute_gae(
    rewards: Tensor, values: Tensor, dones: Tensor, next_value: Tensor, gae_lambda: float
) -> Tensor:
    """Generalised advantage estimates at discount 1.

    Source: Schulman et al. 2015 (arXiv 1506.02438), eq. 16.

    Args:
        rewards: (T, N).
        values: (T, N) of the observation before each step.
        dones: (T, N) float, 1 where the step ended its episode.
        next_value: (N,) of the observation after the last step.
        gae_lambda: 0..1.

    Returns:
        (T, N).
    """
    advantages = torch.zeros_like(rewards)  # (T, N)
    following = torch.zeros_like(next_value)  # (N,)
    for t in reversed(range(len(rewards))):
        going_on = 1.0 - dones[t]
        delta = rewards[t] + next_value * going_on - values[t]
        following = delta + gae_lambda * going_on * following
        advantages[t] = following
        next_value = values[t]
    return advantages


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """T steps of N environments; (T, N, ...) as collected, (T * N, ...) once flat."""

    observations: Tensor
    masks: Tensor
    actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor
    advised: Tensor
    truths: Tensor

    def flat(self) -> Rollout:
        """The same with T and N merged."""
        return Rollout(**{name: tensor.flatten(0, 1) for name, tensor in vars(self).items()})

    def take(self, rows: Tensor) -> Rollout:
        """A minibatch of a flat rollout."""
        return Rollout(**{name: tensor[rows] for name, tensor in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Of terms of the loss; `own_values` says whether the policy's own values are one."""

    policy: float = 1.0
    entropy: float = 0.0
    prior: float = 0.0
    own_values: bool = True


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Terms of the loss and what to watch, all scalars."""

    total: Tensor
    policy: Tensor
    value: Tensor
    prior: Tensor
    entropy: Tensor
    approx_kl: Tensor
    clip_fraction: Tensor


def ppo_loss(
    policy: PolicyNetwork, critic: Critic, batch: Rollout, config: PPOConfig, weights: Weights
) -> Losses:
    """Clipped surrogate, squared errors of values, entropy bonus and distance from the prior.

    The distance is the cross-entropy of the prior's actions, smoothed over all that are allowed.

    Source: arXiv 1707.06347, eqs. 7 and 9; approx_kl after http://joschu.net/blog/kl-approx.html;
    smoothing: Szegedy et al. 2016 (arXiv 1512.00567), section 7.
    """
    log_probs = policy.log_probs(batch.observations, batch.masks)  # (B, A)
    chosen = log_probs.gather(-1, batch.actions[:, None]).squeeze(-1)  # (B,)
    log_ratio = chosen - batch.log_probs
    ratio = log_ratio.exp()
    advantages = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
    clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
    policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
    values = [critic(batch.observations, batch.truths)]
    if weights.own_values:
        values.append(policy.value(batch.observations))
    value_loss = 0.5 * (torch.stack(values) - batch.returns).square().mean(1).sum()
    allowed = log_probs.masked_fill(~batch.masks, 0.0)
    entropy = -(log_probs.exp() * allowed).sum(-1).mean()
    advised = log_probs.gather(-1, batch.advised[:, None]).squeeze(-1)
    prior_loss = -torch.lerp(advised, allowed.sum(-1) / batch.masks.sum(-1), _SMOOTHING).mean()
    return Losses(
        total=weights.policy * policy_loss
        + weights.prior * prior_loss
        - weights.entropy * entropy
        + config.value_coefficient * value_loss,
        policy=policy_loss.detach(),
        value=value_loss.detach(),
        prior=prior_loss.detach(),
        entropy=entropy.detach(),
        approx_kl=((ratio - 1) - log_ratio).mean().detach(),
        clip_fraction=((ratio - 1).abs() > config.clip).float().mean().detach(),
    )


class Critic(nn.Module):
    """Values for advantages: what it is told of the references takes most of the noise out.

    It reads observations, (B, D), and `Replay.truth`, (B, K).

    The policy never sees it, and its baseline leaves policy gradients unbiased. Source: Pinto et
    al. 2017, "Asymmetric Actor Critic" (arXiv 1710.06542).
    """

    def __init__(self, num_features: int, num_truths: int, hidden_sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = mlp((num_features + num_truths, *hidden_sizes, 1), 1.0)

    def forward(self, observations: Tensor, truths: Tensor) -> Tensor:
        """Expected returns, (B,), of observations (B, D) and truths (B, K)."""
        return self.layers(torch.cat([observations, truths], -1)).squeeze(-1)


@dataclass
class EpisodeTotals:
    """Sums over the episodes that ended during a rollout."""

    sums: dict[str, float] = field(default_factory=dict)
    episodes: int = 0

    def add(self, info: dict[str, Any]) -> None:
        """Count the episodes that ended in one step of a vector environment."""
        if "final_info" not in info:
            return
        done, final = info["_final_info"], info["final_info"]
        self.episodes += int(done.sum())
        columns = {**final, "utility": final["right"] - final["price"] * final["cost"]}
        del columns["budget"]  # mostly infinite
        for name, column in columns.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(column[done].sum())

    def means(self) -> dict[str, float]:
        """Mean per episode of each quantity."""
        return {name: total / max(self.episodes, 1) for name, total in self.sums.items()}


Report = Callable[[int, dict[str, float]], None]


class PPO:
    """Trains a policy on a vector environment.

    Episodes of the environment must end by termination alone.

    A learner of one's own replaces `improve`, or with a loop of its own `train`.

    Attributes:
        policy, critic: trained in place by `optimizer`; a learner that needs no critic leaves it.
        update: how many updates there were, of `config.num_updates`.
    """

    def __init__(self, env: ComputeVectorEnv, config: PPOConfig) -> None:
        if not config.total_steps:
            raise ConfigError("total_steps: expected at least 1, found 0")
        if env.num_envs != config.num_envs:
            raise ConfigError(
                f"num_envs: expected {config.num_envs}, found an env of {env.num_envs}"
            )
        if env.autoreset_mode is not AutoresetMode.SAME_STEP or env.max_episode_steps is not None:
            raise ConfigError(
                "env: expected autoreset in the same step and no time limit, found "
                f"{env.autoreset_mode} and max_episode_steps={env.max_episode_steps}"
            )
        self.env, self.config = env, config
        self._generator = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.policy = PolicyNetwork(
                PolicyConfig(
                    num_features=env.num_features,
                    num_actions=len(env.actions),
                    hidden_sizes=config.hidden_sizes,
                    ignored_features=config.ignored_features,
                    network="flat" if config.network == "auto" else config.network,
                ),
                env.config,
            )
            truths = env.replay.truth().shape[1]
            # Where the critic is told of the references, its task is the easier one.
            widths = tuple(math.ceil(size / (2 if truths else 1)) for size in config.hidden_sizes)
            self.critic = Critic(env.num_features, truths, widths)
        self._trained = nn.ModuleDict({"policy": self.policy, "critic": self.critic})
        self.optimizer = torch.optim.Adam(
            self._trained.parameters(), lr=config.learning_rate, eps=1e-5, fused=True
        )
        self.update = 0
        self._prior: Policy | None = None
        self._seen: tuple[Tensor, Tensor] | None = None  # observations (N, D), masks (N, A)

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return self.update * self.config.steps_per_update

    def train(
        self,
        report: Report | None = None,
        stop: Callable[[], bool] | None = None,
        prior: Policy | None = None,
    ) -> None:
        """Run the updates that are left, starting from the policy `prior` if there is one.

        After each update `report` hears of steps and metrics, and `stop` is asked whether to end
        early.
        """
        self._prior = prior
        while self.update < self.config.num_updates:
            started = time.perf_counter()
            metrics = self.improve()
            self.update += 1
            self._check(metrics)
            if report is not None:
                per_update = self.config.steps_per_update
                metrics["charts/SPS"] = per_update / (time.perf_counter() - started)
                report(self.steps, metrics)
            if stop is not None and stop():
                return

    def _check(self, metrics: Any) -> None:
        """Refuse what learns nothing any more."""
        if not isinstance(metrics, dict):
            raise ConfigError(f"improve: expected metrics by name, found {metrics!r}")
        for name in ("policy_loss", "value_loss", "entropy"):
            if not math.isfinite(found := metrics.get(f"losses/{name}", 0.0)):
                raise ConfigError(
                    f"update {self.update}: expected a finite {name}, found {found}; a network, a "
                    "feature or a reward is not finite, or learning_rate is too high"
                )

    def improve(self) -> dict[str, float]:
        """One update, from a fresh rollout; returns its metrics."""
        left = 1.0 - self.update / self.config.num_updates
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * left
        totals = EpisodeTotals()
        rollout = self.collect(totals).flat()
        losses = self._learn(rollout, self._weights())
        explained = 1 - rollout.advantages.var() / rollout.returns.var()
        taken = torch.bincount(rollout.actions, minlength=len(self.env.actions))
        return {
            **{f"episodic/{name}": mean for name, mean in totals.means().items()},
            **{
                f"actions/{action}": float(count) / len(rollout.actions)
                for action, count in zip(self.env.actions, taken, strict=True)
            },
            "losses/policy_loss": float(losses.policy),
            "losses/value_loss": float(losses.value),
            "losses/entropy": float(losses.entropy),
            **({} if self._prior is None else {"losses/prior_loss": float(losses.prior)}),
            "losses/approx_kl": float(losses.approx_kl),
            "losses/clipfrac": float(losses.clip_fraction),
            "losses/explained_variance": float(explained),
            "charts/learning_rate": self.config.learning_rate * left,
        }

    @property
    def _cloning(self) -> bool:
        """Whether the prior is still being cloned."""
        cloned = self.config.cloning_share * self.config.num_updates
        return self._prior is not None and self.update < cloned

    def _weights(self) -> Weights:
        """Cloning first, then PPO with less and less of a pull towards the prior."""
        left = 1.0 - self.update / self.config.num_updates
        if self._cloning:
            return Weights(policy=0.0, prior=1.0)
        prior = 0.0 if self._prior is None else self.config.prior_coefficient * left**2
        return Weights(entropy=self.config.entropy_coefficient * left, prior=prior)

    @torch.no_grad()
    def collect(self, totals: EpisodeTotals) -> Rollout:
        """Play `num_steps` steps of each environment; counts the episodes that end."""
        if self._seen is None:
            first, info = self.env.reset(seed=self.config.seed)
            self._seen = _tensors(first, info["action_mask"])
        observation, mask = self._seen
        steps: list[dict[str, Tensor]] = []
        for _ in range(self.config.num_steps):
            log_probs = self.policy.log_probs(observation, mask)  # (N, A)
            actions = advised = self._sample(log_probs)  # (N,)
            if self._prior is not None:
                told = self._prior.act(self.env.replay.episodes, mask.numpy())
                advised = torch.from_numpy(told)
            if self._cloning:
                strays = torch.rand(len(actions), generator=self._generator) < _STRAYING
                actions = torch.where(strays, actions, advised)
            truth = self._truth()
            after, gain, done, _, info = self.env.step(actions.numpy())
            totals.add(info)
            steps.append(
                {
                    "observations": observation,
                    "masks": mask,
                    "actions": actions,
                    "log_probs": log_probs.gather(-1, actions[:, None]).squeeze(-1),
                    "values": self.critic(observation, truth),
                    "rewards": torch.from_numpy(gain).float(),
                    "dones": torch.from_numpy(done).float(),
                    "advised": advised,
                    "truths": truth,
                }
            )
            observation, mask = _tensors(after, info["action_mask"])
        self._seen = observation, mask
        # (T, N, ...) each
        columns = {name: torch.stack([step[name] for step in steps]) for name in steps[0]}
        rewards, values, dones = (columns.pop(name) for name in ("rewards", "values", "dones"))
        following = self.critic(observation, self._truth())
        advantages = compute_gae(rewards, values, dones, following, self.config.gae_lambda)
        return Rollout(**columns, advantages=advantages, returns=advantages + values)

    def _truth(self) -> Tensor:
        return torch.from_numpy(self.env.replay.truth()).float()

    def _sample(self, log_probs: Tensor) -> Tensor:
        """One action per row by the Gumbel-max trick, (N,)."""
        uniform = torch.rand(log_probs.shape, generator=self._generator)
        return (log_probs - torch.log(-torch.log(uniform.clamp(1e-10, 1 - 1e-7)))).argmax(-1)

    def _learn(self, rollout: Rollout, weights: Weights) -> Losses:
        size = len(rollout.actions) // self.config.num_minibatches
        for epoch in range(self.config.num_epochs):
            # Nothing is learnt from the policy's own values: one look at each step is enough.
            weights = replace(weights, own_values=epoch == 0)
            order = torch.randperm(len(rollout.actions), generator=self._generator)
            for start in range(0, len(order), size):
                batch = rollout.take(order[start : start + size])
                losses = ppo_loss(self.policy, self.critic, batch, self.config, weights)
                self.optimizer.zero_grad(set_to_none=True)
                losses.total.backward()  # type: ignore[no-untyped-call]
                for part in self._trained.values():
                    nn.utils.clip_grad_norm_(part.parameters(), self.config.max_grad_norm)
                self.optimizer.step()
        return losses

    def save(
        self,
        directory: Path,
        notes: dict[str, Any] | None = None,
        extra: dict[str, Tensor] | None = None,
    ) -> None:
        """Save all that `resume` needs, and the notes and tensors that it returns, atomically."""
        state = {"ppo/generator": self._generator.get_state()}
        state |= {f"env/{k}": torch.from_numpy(v) for k, v in self.env.state().items()}
        state |= {f"extra/{k}": v for k, v in (extra or {}).items()}
        progress = {"config": _plain(self.config), "update": self.update, "notes": notes or {}}
        save_state(directory, self._trained, [self.optimizer], progress, state)

    def resume(self, directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Go on where `save` left off, to the bit; returns its notes and extra tensors.

        Raises:
            ConfigError: the saved training had other settings.
        """
        progress, extra = load_state(directory, self._trained, [self.optimizer])
        if progress["config"] != _plain(self.config):
            raise ConfigError(
                f"{directory}: expected a training with {_plain(self.config)}, found "
                f"{progress['config']}; use the same settings or another directory"
            )
        self.update = progress["update"]
        self._generator.set_state(extra.pop("ppo/generator"))
        env_state = {
            k.removeprefix("env/"): v.numpy() for k, v in extra.items() if k.startswith("env/")
        }
        observation, mask = self.env.restore(env_state)
        self._seen = _tensors(observation, mask)
        kept = {k.removeprefix("extra/"): v for k, v in extra.items() if k.startswith("extra/")}
        return progress["notes"], kept


def register_learner(name: str, make: Callable[[ComputeVectorEnv, PPOConfig], PPO]) -> None:
    """Add a learner from outside, a subclass of `PPO`, which `TrainConfig.learner` then names.

    Raises:
        ConfigError: the name is taken, or no identifier.
    """
    LEARNERS.register(name, make)


LEARNERS["ppo"] = PPO


def _tensors(observation: Singles, mask: Array) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(observation), torch.from_numpy(mask).bool()


def _plain(config: PPOConfig) -> dict[str, Any]:
    """Settings as they come back from JSON."""
    return json.loads(json.dumps(asdict(config)))
