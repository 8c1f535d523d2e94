"""The policy: observation + mask -> distribution over actions, and a value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from controller.errors import ConfigError
from controller.granularity import Process, granularity_of
from controller.process.actions import Action, ActionKind, Tier
from controller.process.episodes import EpisodeConfig
from controller.process.lockstep import Bools, Ints, Singles
from controller.process.observation import ARM_NAMES, COMMON_NAMES, OBSERVATION_NAMES
from controller.registry import NETWORKS


class Policy(Protocol):
    """Anything that chooses actions: the trained network and every hand-made rule."""

    def act(self, episodes: Any, mask: Bools) -> Ints:
        """One allowed action per episode.

        Args:
            episodes: state of N episodes, `Episodes` or `SegmentEpisodes`; only what a
                deployment can see.
            mask: (N, A), True = allowed.

        Returns:
            (N,) action indices.
        """


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Shape of the network.

    Attributes:
        num_features: D.
        num_actions: A.
        hidden_sizes: widths of the hidden layers, of the actor and of the critic each; those of an
            `ActionScorer` are half as wide.
        ignored_features: names of those that the network reads as 0.
        network: flat, an output for each action; shared, the same weights for every action; or the
            name of a registered one, see `register_network`.
    """

    num_features: int
    num_actions: int
    hidden_sizes: tuple[int, ...] = (128, 128)
    ignored_features: tuple[str, ...] = ()
    network: str = "flat"

    def __post_init__(self) -> None:
        sizes = (self.num_features, self.num_actions, *self.hidden_sizes)
        if min(sizes) < 1 or max(sizes) > 4096 or not 1 <= len(self.hidden_sizes) <= 8:
            raise ConfigError(
                "policy: expected 1 to 8 hidden layers and sizes of 1 to 4096, found "
                f"num_features={self.num_features}, num_actions={self.num_actions}, "
                f"hidden_sizes={self.hidden_sizes}"
            )
        NETWORKS.check(self.network)
        unknown = set(self.ignored_features) - set(OBSERVATION_NAMES)
        if unknown:
            raise ConfigError(
                f"ignored_features: expected names of {list(OBSERVATION_NAMES)}, found "
                f"{sorted(unknown)}"
            )


Build = Callable[[PolicyConfig, Any], nn.Module]
"""From shape and decision process to an actor, whose forward makes logits (B, A) of observations
(B, D) and masks (B, A)."""


def register_network(name: str, build: Build) -> Build:
    """Add an actor from outside, which `network` then names; the critic remains an MLP.

    Its weights are parameters of one or two dimensions, float32, and it keeps no buffers.

    Raises:
        ConfigError: the name is taken, or no identifier.
    """
    return NETWORKS.register(name, build)


class _LearningTanh(torch.autograd.Function):
    """By the sigmoid, which PyTorch computes in a third of the time on CPUs."""

    @staticmethod
    def forward(context: Any, inputs: Tensor) -> Tensor:
        outputs = (2 * inputs).sigmoid_().mul_(2).sub_(1)
        context.save_for_backward(outputs)
        return outputs

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        (outputs,), (gradient,) = context.saved_tensors, gradients
        return torch.addcmul(gradient, gradient * outputs, outputs, value=-1)


class Tanh(nn.Module):
    """Fast where gradients are wanted; elsewhere with the same bits alone as in a batch."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Of the same shape."""
        if not torch.is_grad_enabled():
            return torch.tanh(inputs)
        return _LearningTanh.apply(inputs)  # type: ignore[no-untyped-call]


_tanh = Tanh()


def mlp(sizes: tuple[int, ...], last_gain: float) -> nn.Sequential:
    """Linear layers with tanh between them; `last_gain` scales the last one's first weights."""
    layers: list[nn.Module] = []
    for i, (width_in, width_out) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        layer = linear(width_in, width_out, last_gain if last else 2**0.5)
        layers += [layer] if last else [layer, Tanh()]
    return nn.Sequential(*layers)


def linear(width_in: int, width_out: int, gain: float = 2**0.5) -> nn.Linear:
    """A layer whose first weights are orthogonal and whose biases are 0."""
    layer = nn.Linear(width_in, width_out)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class ActionScorer(nn.Module):
    """Scores each action by the same weights, from what all see and from the action's own row.

    An action's row holds its kind and width, what it is expected to cost, and of its arm the
    attempts, their share behind the leading answer and the chance to be right. The layers that
    follow also read the mean over the allowed actions. All that is learnt of an action apart are
    its weights on the last of these means, 0 at first, so that the others do for any menu.

    Source: Zaheer et al. 2017, "Deep Sets" (arXiv 1703.06114), eq. 4.
    """

    def __init__(self, process: EpisodeConfig, hidden_sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.common: Tensor
        self.own: Tensor
        self.facts: Tensor
        names = [*granularity_of(process).features, ""]
        common = [name if name in names else "" for name in (*COMMON_NAMES, *process.own_features)]
        places = torch.tensor([names.index(name) for name in common])
        self.register_buffer("common", places, persistent=False)
        rows = (_own(process, action) for action in process.actions)
        own = [[names.index(row.get(name, "")) for name in ARM_NAMES] for row in rows]
        self.register_buffer("own", torch.tensor(own), persistent=False)  # (A, F), D for none
        kinds = (*ActionKind, *process.added_actions)
        facts = [
            [*(float(action.kind is kind) for kind in kinds), math.log10(action.width)]
            for action in process.actions
        ]
        self.register_buffer("facts", torch.tensor(facts), persistent=False)  # (A, K + 1)
        self.seen = linear(len(common), hidden_sizes[0])
        self.row = linear(len(own[0]) + len(facts[0]), hidden_sizes[0])
        self.apart = nn.Parameter(torch.zeros(len(own), hidden_sizes[-1]))  # (A, H)
        self.each = nn.Sequential(*(linear(*widths) for widths in pairwise(hidden_sizes)))
        self.mean = nn.Sequential(*(linear(*widths) for widths in pairwise(hidden_sizes)))
        self.score = linear(hidden_sizes[-1], 1, 0.3)

    def forward(self, observation: Tensor, mask: Tensor) -> Tensor:
        """Logits, (B, A), from observations (B, D) and masks (B, A)."""
        padded = nn.functional.pad(observation, (0, 1))
        facts = self.facts.expand(len(observation), -1, -1)
        rows = torch.cat([padded[:, self.own], facts], -1)  # (B, A, F + K + 1)
        seen = self.seen(padded[:, self.common])[:, None]  # (B, 1, H)
        hidden = _tanh(self.row(rows) + seen)
        share = (mask / mask.sum(-1, keepdim=True))[:, None]  # (B, 1, A)
        for each, mean in zip(self.each, self.mean, strict=True):
            hidden = _tanh(each(hidden) + mean(share @ hidden))  # (B, A, H)
        apart = (share @ hidden).squeeze(1) @ self.apart.T  # (B, A)
        return self.score(hidden).squeeze(-1) + apart


def _own(process: EpisodeConfig, action: Action) -> Mapping[str, str]:
    """Features of an action's row, by those of `ARM_NAMES` that are known of it."""
    spec = action.kind.spec
    if not (spec.tier or action.arm):
        return {"price": f"{action.kind}_price"} if spec.cost else {}
    rung = process.rung_of(action.kind, action.arm)
    if not process.is_menu:
        return {**_PAIR[process.menu[rung].tier], "price": f"{action.kind}_price"}
    arm = process.arm_names[rung]
    return {name: f"{arm}: {name}" for name in ARM_NAMES}


_PAIR = {
    Tier.SMALL: {
        "attempts": "samples",
        "leader_share": "leader_small_share",
        "difficulty": "small_difficulty",
    },
    Tier.LARGE: {
        "attempts": "escalations",
        "leader_share": "leader_large_backed",
        "difficulty": "large_difficulty",
    },
}
"""Features of the arms of a pair."""


class PolicyNetwork(nn.Module):
    """Actor and critic, two separate small networks; a shared one needs the process.

    Raises:
        ConfigError: a shared network is to decide inside attempts, where actions ask no arms, or a
            registered one has weights that a checkpoint does not keep, or makes no logits.
    """

    def __init__(self, config: PolicyConfig, process: Process | None = None) -> None:
        super().__init__()
        self.config = config
        self._ignored: Tensor
        self.actor: Any
        width = config.num_features
        if config.network == "shared":
            if not isinstance(process, EpisodeConfig):
                raise ConfigError("network: expected flat inside attempts, found shared")
            halves = tuple(math.ceil(size / 2) for size in config.hidden_sizes)
            self.actor = ActionScorer(process, halves)
            width = len(self.actor.common)
        elif config.network == "flat":
            self.actor = mlp((width, *config.hidden_sizes, config.num_actions), 0.01)
        else:
            self.actor = NETWORKS[config.network](config, process)
            own = dict(self.actor.named_parameters())
            for key, weight in self.actor.state_dict().items():
                if key not in own or weight.dtype != torch.float32 or weight.dim() > 2:
                    raise ConfigError(
                        f"network {config.network}: expected float32 parameters of one or two "
                        f"dimensions, found {key}, {weight.dtype} {tuple(weight.shape)}"
                    )
            self._try_out()
        self.critic = mlp((width, *config.hidden_sizes, 1), 1.0)
        ignored = [OBSERVATION_NAMES.index(name) for name in config.ignored_features]
        self.register_buffer("_ignored", torch.tensor(ignored, dtype=torch.long), persistent=False)

    @torch.no_grad()
    def _try_out(self) -> None:
        """Refuse a registered network that makes no finite logits of a batch."""
        name, wanted = self.config.network, (2, self.config.num_actions)
        mask = torch.ones(wanted, dtype=torch.bool)
        try:
            found = self.actor(torch.zeros(2, self.config.num_features), mask)
            told = f"those of shape {tuple(found.shape)}"
        except (AttributeError, RuntimeError, TypeError) as error:
            found, told = None, str(error)
        if found is None or found.shape != wanted or not found.isfinite().all():
            raise ConfigError(
                f"network {name}: expected finite logits {wanted} of observations "
                f"{(2, self.config.num_features)} and masks {wanted}, found {told}"
            )

    def log_probs(self, observation: Tensor, mask: Tensor) -> Tensor:
        """Log-probabilities (B, A), of observations (B, D) and masks (B, A).

        Those of forbidden actions are the least float.
        """
        seen = self._read(observation)
        flat = self.config.network == "flat"
        logits = self.actor(seen) if flat else self.actor(seen, mask)
        logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
        return torch.log_softmax(logits, dim=-1)

    def value(self, observation: Tensor) -> Tensor:
        """Expected return from here on, (B,)."""
        seen = self._read(observation)
        if isinstance(self.actor, ActionScorer):
            seen = nn.functional.pad(seen, (0, 1))[:, self.actor.common]
        return self.critic(seen).squeeze(-1)

    def _read(self, observation: Tensor) -> Tensor:
        if not self.config.ignored_features:
            return observation
        return observation.index_fill(-1, self._ignored, 0.0)

    @torch.no_grad()
    def choose(self, observation: Singles, mask: Bools) -> Ints:
        """The most likely allowed actions, (N,), from observations (N, D) and masks (N, A)."""
        log_probs = self.log_probs(torch.from_numpy(observation), torch.from_numpy(mask))
        return log_probs.argmax(-1).numpy()

    def act(self, episodes: Any, mask: Bools) -> Ints:
        """The most likely allowed action per episode; see `Policy.act`."""
        return self.choose(granularity_of(episodes.config).table.observe(episodes), mask)
