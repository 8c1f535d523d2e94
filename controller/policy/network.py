"""The policy: observation + mask -> distribution over actions, and a value."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from controller.errors import ConfigError
from controller.granularity import granularity_of
from controller.process.observation import OBSERVATION_NAMES


class Policy(Protocol):
    """Anything that chooses actions: the trained network and every hand-made rule."""

    def act(self, episodes: Any, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """One allowed action per episode.

        Args:
            episodes: state of N episodes, `Episodes` or `SegmentEpisodes`; only what a
                deployment can see.
            mask: (N, A), True = allowed.

        Returns:
            (N,) action indices.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Shape of the network.

    Attributes:
        num_features: D.
        num_actions: A.
        hidden_sizes: widths of the hidden layers, of the actor and of the critic each.
        ignored_features: names of those that the network reads as 0.
    """

    num_features: int
    num_actions: int
    hidden_sizes: tuple[int, ...] = (128, 128)
    ignored_features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = (self.num_features, self.num_actions, *self.hidden_sizes)
        if min(sizes) < 1 or max(sizes) > 4096 or not 1 <= len(self.hidden_sizes) <= 8:
            raise ConfigError(
                "policy: expected 1 to 8 hidden layers and sizes of 1 to 4096, found "
                f"num_features={self.num_features}, num_actions={self.num_actions}, "
                f"hidden_sizes={self.hidden_sizes}"
            )
        unknown = set(self.ignored_features) - set(OBSERVATION_NAMES)
        if unknown:
            raise ConfigError(
                f"ignored_features: expected names of {list(OBSERVATION_NAMES)}, found "
                f"{sorted(unknown)}"
            )


def mlp(sizes: tuple[int, ...], last_gain: float) -> nn.Sequential:
    """Linear layers with tanh between them; `last_gain` scales the last one's first weights."""
    layers: list[nn.Module] = []
    for i, (width_in, width_out) in enumerate(pairwise(sizes)):
        linear = nn.Linear(width_in, width_out)
        last = i == len(sizes) - 2
        nn.init.orthogonal_(linear.weight, last_gain if last else 2**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, nn.Tanh()]
    return nn.Sequential(*layers)


class PolicyNetwork(nn.Module):
    """Actor and critic, two separate small MLPs.

    Args:
        config: shape.
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        self._ignored: Tensor
        self.actor = mlp((config.num_features, *config.hidden_sizes, config.num_actions), 0.01)
        self.critic = mlp((config.num_features, *config.hidden_sizes, 1), 1.0)
        ignored = [OBSERVATION_NAMES.index(name) for name in config.ignored_features]
        self.register_buffer("_ignored", torch.tensor(ignored, dtype=torch.long), persistent=False)

    def log_probs(self, observation: Tensor, mask: Tensor) -> Tensor:
        """Log-probabilities of all actions, forbidden ones at the least float.

        Args:
            observation: (B, D).
            mask: (B, A) bool.

        Returns:
            (B, A).
        """
        logits = self.actor(self._read(observation))
        logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
        return torch.log_softmax(logits, dim=-1)

    def value(self, observation: Tensor) -> Tensor:
        """Expected return from here on, (B,)."""
        value: Tensor = self.critic(self._read(observation)).squeeze(-1)
        return value

    def _read(self, observation: Tensor) -> Tensor:
        if not self.config.ignored_features:
            return observation
        return observation.index_fill(-1, self._ignored, 0.0)

    @torch.no_grad()
    def choose(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """The most likely allowed actions, (N,), from observations (N, D) and masks (N, A)."""
        log_probs = self.log_probs(torch.from_numpy(observation), torch.from_numpy(mask))
        return log_probs.argmax(-1).numpy()

    def act(self, episodes: Any, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The most likely allowed action per episode; see `Policy.act`."""
        return self.choose(granularity_of(episodes.config).table.observe(episodes), mask)
