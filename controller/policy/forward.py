"""The network at batch 1, in NumPy: torch takes four times as long for so little."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from controller.policy.network import ActionScorer, PolicyNetwork
from controller.process.observation import OBSERVATION_NAMES

Array = NDArray[np.float32]

Forward = Callable[[Array, NDArray[np.bool_]], tuple[Array, np.float32]]
"""From an observation (1, D) and a mask (1, A) to logits (A,) and the expected return."""


def forward(policy: PolicyNetwork) -> Forward:
    """Actor and critic of a network, with its weights of now; a registered one remains in torch."""
    ignored = [OBSERVATION_NAMES.index(name) for name in policy.config.ignored_features]
    if isinstance(policy.actor, ActionScorer):
        return _shared(policy, policy.actor, ignored)
    if policy.config.network == "flat":
        return _flat(policy.actor, policy.critic, ignored)

    @torch.no_grad()
    def run(observation: Array, mask: NDArray[np.bool_]) -> tuple[Array, np.float32]:
        seen = torch.from_numpy(observation)
        logits = policy.log_probs(seen, torch.from_numpy(mask))[0].numpy()
        return logits, policy.value(seen).numpy()[0]

    return run


def _linears(network: nn.Sequential) -> list[nn.Linear]:
    return [module for module in network if isinstance(module, nn.Linear)]


def _flat(actor: nn.Sequential, critic: nn.Sequential, ignored: list[int]) -> Forward:
    """Actor and critic side by side: weights (2, inputs, outputs), missing outputs 0."""
    layers = []
    for pair in zip(_linears(actor), _linears(critic), strict=True):
        weight = torch.zeros(2, pair[0].in_features, pair[0].out_features)
        bias = torch.zeros(2, 1, pair[0].out_features)
        for side, layer in enumerate(pair):
            weight[side, :, : layer.out_features] = layer.weight.detach().T
            bias[side, :, : layer.out_features] = layer.bias.detach()
        layers.append((weight.numpy(), bias.numpy()))
    layers[0][0][:, ignored] = 0.0
    *hidden, (last, offset) = layers

    def run(observation: Array, mask: NDArray[np.bool_]) -> tuple[Array, np.float32]:
        values = observation
        for weight, bias in hidden:
            values = np.tanh(values @ weight + bias)
        logits, (value, *_) = (values @ last + offset)[:, 0]
        return logits, value

    return run


@torch.no_grad()
def _shared(policy: PolicyNetwork, actor: ActionScorer, ignored: list[int]) -> Forward:
    """The first layers of all actions and of the critic are one product with the observation."""
    (num_actions, num_own), width = actor.own.shape, actor.row.out_features
    (critic, offset), *judging = (_arrays(layer) for layer in _linears(policy.critic))
    row, facts = actor.row.weight.T[:num_own], actor.row.weight.T[num_own:]
    scores = torch.zeros(policy.config.num_features + 1, num_actions, width)
    values = torch.zeros(len(scores), len(offset))
    # What is missing has the last place, which is dropped.
    scores[actor.common] += actor.seen.weight.T[:, None]
    values[actor.common] += torch.from_numpy(critic)
    for place in range(num_own):
        scores[actor.own[:, place], torch.arange(num_actions)] += row[place]
    first = torch.cat([scores.flatten(1), values], 1)[:-1]
    first[ignored] = 0.0
    bias = actor.row.bias + actor.seen.bias + actor.facts @ facts  # (A, H)
    weight, biases = first.numpy(), np.concatenate([bias.flatten().numpy(), offset])
    mixing = [
        (each.weight.T.numpy(), mean.weight.T.numpy(), (each.bias + mean.bias).numpy())
        for each, mean in zip(_linears(actor.each), _linears(actor.mean), strict=True)
    ]
    (score, shift), apart = _arrays(actor.score), actor.apart.detach().numpy()

    def run(observation: Array, mask: NDArray[np.bool_]) -> tuple[Array, np.float32]:
        seen = np.tanh(observation[0] @ weight + biases)
        hidden, value = seen[: bias.numel()].reshape(num_actions, width), seen[bias.numel() :]
        share = mask[0] / np.float32(np.add.reduce(mask[0]))
        for each, mean, added in mixing:
            hidden = np.tanh(hidden @ each + ((share @ hidden) @ mean + added))
        for matrix, added in judging[:-1]:
            value = np.tanh(value @ matrix + added)
        matrix, added = judging[-1]
        logits = (hidden @ score + shift)[:, 0] + apart @ (share @ hidden)
        return logits, (value @ matrix + added)[0]

    return run


def _arrays(layer: nn.Linear) -> tuple[Array, Array]:
    return layer.weight.detach().T.numpy(), layer.bias.detach().numpy()
