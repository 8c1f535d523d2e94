"""Who chooses: the trained policy or a rule, behind one protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from controller.backends.identity import weights_digest
from controller.checkpoint import Checkpoint
from controller.core import Choice, Episode, Underway
from controller.errors import ConfigError
from controller.policy import rules
from controller.policy.floor import Floor
from controller.policy.network import ActionScorer, Policy, PolicyNetwork
from controller.policy.rules import Rule, RulePolicy, lacks_arms
from controller.process.lockstep import Bools, Singles
from controller.process.observation import OBSERVATION_NAMES

FALLBACK = "adaptive-cascade"
"""Name of the rule that decides where a policy has not been in training."""

_STRANGE_COST = 2.0
"""What a strange question may cost, of the mean cost of those of training at its price."""

NAMED_RULES: Mapping[str, Rule] = {
    "always-small": rules.SelfConsistency(1),
    "always-large": rules.AlwaysLarge(),
    "self-consistency-5": rules.SelfConsistency(5),
    FALLBACK: rules.AdaptiveCascade(0.9, 8),
    "router": rules.Router(0.2, 0.0),
}
"""Static rules by the name that operators know them by."""


class PolicyDecider:
    """A trained policy at batch 1, in NumPy: torch takes four times as long for so little.

    Args:
        policy: the trained network.
        exploration: share of decisions that are drawn from the policy's distribution; the
            others are its most likely action.
        seed: of what is drawn.
        floor: rules that decide at some prices, without exploration; None for none.
    """

    def __init__(
        self,
        policy: PolicyNetwork,
        *,
        exploration: float = 0.0,
        seed: int = 0,
        floor: Floor | None = None,
    ) -> None:
        if not 0 <= exploration <= 1:
            raise ConfigError(f"exploration: expected 0 to 1, found {exploration}")
        self._forward, self.floor = forward(policy), floor
        self.exploration, self._rng = exploration, np.random.default_rng(seed)
        self.digest = weights_digest(policy.state_dict())

    def judge(self, observation: Singles, mask: Bools) -> tuple[Singles, float]:
        """Probabilities (A,) and expected return, of an observation (1, D) and a mask (1, A)."""
        logits, value = self._forward(observation, mask)
        most = np.maximum.reduce(logits, where=mask[0], initial=-np.inf)
        odds = np.exp(logits - most) * mask[0]
        return odds / np.add.reduce(odds), float(value)

    def choose(self, episode: Underway, mask: Bools) -> Choice:
        """See `Decider.choose`."""
        observation = episode.observation()
        probabilities, value = self.judge(observation, mask)
        rule = self.floor.rule_at(episode.price) if self.floor else None
        if rule is not None and lacks_arms(rule, episode.state, mask)[0]:
            rule = None
        likeliest, exploration = int(probabilities.argmax()), self.exploration
        if rule is not None:
            likeliest, exploration = int(RulePolicy(rule).act(episode.state, mask)[0]), 0.0
        position = likeliest
        if exploration and self._rng.random() < exploration:
            odds = probabilities / probabilities.sum()
            position = int(self._rng.choice(len(odds), p=odds))
        propensity = exploration * float(probabilities[position])
        propensity += (1 - exploration) * (position == likeliest)
        actions, features = episode.config.actions, episode.granularity.features
        return Choice(
            action=actions[position],
            probabilities=dict(zip(actions.names, probabilities.tolist(), strict=True)),
            value=value,
            observation=dict(zip(features, observation[0].tolist(), strict=True)),
            leader=episode.answer,
            cost=episode.cost,
            propensity=propensity,
            floor=None if rule is None else str(rule),
            votes=episode.votes,
        )


class RuleDecider:
    """A rule decides; what `beside` makes of the same situation is kept beside its choice.

    The name is shown as `decided_by`.
    """

    def __init__(self, rule: Policy, name: str, beside: PolicyDecider) -> None:
        self.rule, self.name, self.beside = rule, name, beside

    def choose(self, episode: Episode, mask: Bools) -> Choice:
        """See `Decider.choose`."""
        position = int(self.rule.act(episode.state, mask)[0])
        return replace(
            self.beside.choose(episode, mask),
            action=episode.config.actions[position],
            propensity=1.0,
            decided_by=self.name,
            floor=None,
        )


class Guarded:
    """Lets the policy decide where it has been in training, and a rule everywhere else.

    Once a question has led outside, or if its wording is unlike those of training, the rule sees it
    through, as long as it does not cost far more than questions of training do, where these costs
    are known. A checkpoint that does not tell where it has been gets no guard.

    Args:
        inner: decides in place of the checkpoint's policy.
        checkpoint: knows its range of training.
        fallback: name of the rule.
        on_stray: told of the feature that was outside, or of the wording.

    Raises:
        ConfigError: no rule has that name.
    """

    def __init__(
        self,
        inner: PolicyDecider,
        checkpoint: Checkpoint,
        fallback: str = FALLBACK,
        on_stray: Callable[[str], None] = lambda feature: None,
    ) -> None:
        self._inner, self._on_stray, self._strayed = inner, on_stray, False
        self._rule = RuleDecider(named_rule(fallback), fallback, inner)
        self._support, self._calibration = checkpoint.support, checkpoint.calibration

    def choose(self, episode: Episode, mask: Bools) -> Choice:
        """See `Decider.choose`."""
        if not self._strayed:
            choice = self._inner.choose(episode, mask)
            if self._support is None:
                return choice
            wording = "wording" if episode.is_strange else None
            feature = self._support.stray(choice.observation) or wording
            if feature is None:
                return choice
            self._strayed = True
            self._on_stray(feature)
        choice = self._rule.choose(episode, mask)
        return replace(choice, action=episode.config.actions[0]) if self._stops(episode) else choice

    def _stops(self, episode: Episode) -> bool:
        """Whether there is an answer and it has cost enough; STOP is then allowed."""
        if self._calibration is None or episode.answer is None:
            return False
        return episode.cost >= _STRANGE_COST * self._calibration.cost_at(episode.price)


def named_rule(name: str) -> RulePolicy:
    """A static rule. Raises ConfigError: no rule has that name."""
    if name not in NAMED_RULES:
        raise ConfigError(f"rule: expected one of {sorted(NAMED_RULES)}, found {name!r}")
    return RulePolicy(NAMED_RULES[name])


Forward = Callable[[Singles, Bools], tuple[Singles, np.float32]]
"""From an observation (1, D) and a mask (1, A) to logits (A,) and the expected return."""


def forward(policy: PolicyNetwork) -> Forward:
    """Actor and critic of a network, with its weights of now; a registered one remains in torch."""
    ignored = [OBSERVATION_NAMES.index(name) for name in policy.config.ignored_features]
    if isinstance(policy.actor, ActionScorer):
        return _shared(policy, policy.actor, ignored)
    if policy.config.network == "flat":
        return _flat(policy.actor, policy.critic, ignored)

    @torch.no_grad()
    def run(observation: Singles, mask: Bools) -> tuple[Singles, np.float32]:
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

    def run(observation: Singles, mask: Bools) -> tuple[Singles, np.float32]:
        values = observation
        for weight, bias in hidden:
            values = np.tanh(values @ weight + bias)
        ends = values @ last + offset
        return ends[0, 0], ends[1, 0, 0]

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

    def run(observation: Singles, mask: Bools) -> tuple[Singles, np.float32]:
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


def _arrays(layer: nn.Linear) -> tuple[Singles, Singles]:
    return layer.weight.detach().T.numpy(), layer.bias.detach().numpy()
