"""What a training can be told; free of torch, so that the command line starts quickly."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Literal

from controller.errors import ConfigError, check_range
from controller.process.terms import LARGEST, SMALLEST
from controller.process.types import Rates
from controller.registry import NETWORKS, Registry

STEPS_PER_ATTEMPT, STEPS_PER_QUESTION = 64, 512
LEAST_STEPS, MOST_STEPS = 225_000, 8_000_000
"""Environment steps that suit a number of recorded attempts, and the least for each question."""

STARTED = 10
"""By how much fewer suit a training that starts from a controller."""

SEGMENT_DEFAULTS: dict[str, Any] = {
    "total_steps": 4_000_000,
    "num_envs": 2048,
    "hidden_sizes": (64, 64),
    "gae_lambda": 0.95,
}
"""Of trainings inside attempts: larger networks soon learn two thousand trees by heart."""


LEARNERS: Registry[Any] = Registry("learner", ["ppo"])
"""Makers of learners by name, see `training.ppo.register_learner`."""


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Settings of PPO.

    Attributes:
        total_steps: environment steps in all; 0 for as many as suit the numbers of attempts and
            questions.
        num_envs: N, episodes side by side.
        num_steps: T, steps per environment and rollout.
        num_minibatches: parts that a rollout is split into.
        num_epochs: passes over a rollout.
        learning_rate: of Adam at the start; falls linearly to zero.
        gae_lambda: 0..1, bias against variance of the advantages.
        clip: how far the probability ratio may move.
        entropy_coefficient: at the start; falls linearly to zero.
        value_coefficient: weight of the value loss.
        cloning_share: 0..1, share of the updates that clone the best rules before PPO begins.
        prior_coefficient: weight of the distance from these rules as PPO begins; falls with the
            square of what is left to zero.
        max_grad_norm: gradients are scaled down to this norm.
        hidden_sizes: of the policy network.
        network: flat, an output for each action; shared, the same weights for every action; auto,
            flat unless training starts from another; or the name of a registered one.
        ignored_features: names of features that the network does not see, for ablations.
        seed: everything random follows from it.
    """

    total_steps: int = 0
    num_envs: int = 512
    num_steps: int = 16
    num_minibatches: int = 8
    num_epochs: int = 4
    learning_rate: float = 2e-3
    gae_lambda: float = 0.99
    clip: float = 0.2
    entropy_coefficient: float = 0.01
    value_coefficient: float = 0.5
    cloning_share: float = 0.1
    prior_coefficient: float = 0.1
    max_grad_norm: float = 0.5
    hidden_sizes: tuple[int, ...] = (128, 128)
    network: str = "auto"
    ignored_features: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("num_envs", "num_steps", "num_minibatches", "num_epochs")
        check_range(self, (*counts, "hidden_sizes"), least=1)
        check_range(self, ("learning_rate", "clip", "max_grad_norm"), above=0)
        weights = ("entropy_coefficient", "value_coefficient", "prior_coefficient")
        check_range(self, ("total_steps", *weights), least=0)
        check_range(self, ("seed",), least=0, most=2**63 - 1)
        check_range(self, ("gae_lambda", "cloning_share"), least=0, most=1)
        if self.network != "auto":
            NETWORKS.check(self.network)
        if self.steps_per_update % self.num_minibatches:
            raise ConfigError(
                f"num_minibatches: expected a divisor of num_envs * num_steps = "
                f"{self.steps_per_update}, found {self.num_minibatches}"
            )

    @property
    def steps_per_update(self) -> int:
        """Environment steps of a rollout."""
        return self.num_envs * self.num_steps

    @property
    def num_updates(self) -> int:
        """Rollouts in all."""
        return max(1, self.total_steps // self.steps_per_update)


def said_rates(said: Mapping[str, str], unit: str = "dollars") -> dict[str, Rates]:
    """Dollars or seconds of a million tokens by model, from PROMPT/WRITTEN each.

    Raises:
        ConfigError: an entry is something else.
    """
    prices = {}
    for model, text in said.items():
        try:
            prompt, written = map(float, text.split("/"))
            if not (0 <= prompt < inf and 0 <= written < inf):
                raise ValueError
        except ValueError:
            raise ConfigError(
                f"{unit}: expected {model}=PROMPT/WRITTEN as in 0.15/0.6, found {text!r}"
            ) from None
        prices[model] = prompt, written
    return prices


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What to train a controller on.

    Attributes:
        ladder: models, the small one first; empty for the trace set's default.
        token_costs: small-model tokens that a token of each MODEL costs, where its size is
            unknown.
        unit: of costs: flops, dollars by each model's list price, or seconds, as recorded.
        dollars: MODEL=PROMPT/WRITTEN, dollars of a million tokens of each, where the trace set does
            not say or something else is paid.
        seconds: MODEL=PROMPT/WRITTEN, seconds that a million tokens of each take, where the
            attempts do not say or another machine is used.
        sample_widths: attempts that a SAMPLE action makes side by side, one action each.
        max_samples: SAMPLE attempts per episode.
        hide_signals: 0..1, share of episodes without logprobs, without difficulty, without a
            verifier, and without the length of the prompt.
        patience: looks at the validation split, of 20 to 39 in all, that may pass without a better
            utility before the training ends early. Half of that split is then held back from
            learning and chooses the weights, too; with 0 they are the last ones.
        prices: least and greatest price to train for; none for three decades around a
            typical attempt's worth.
        probes: inside attempts, force an answer after each segment, to be paid for and seen.
        escalate: inside attempts, let the large model take over.
        start: controller to start from, in a tenth of the steps where these are open; arms are
            matched by name. None if empty.
        own_actions: names of registered actions to offer as well.
        own_features: names of registered features to see as well.
        learner: ppo, or the name of a registered one.
        ppo: settings of PPO.
    """

    ladder: tuple[str, ...] = ()
    token_costs: Mapping[str, float] = field(default_factory=dict)
    unit: Literal["flops", "dollars", "seconds"] = "flops"
    dollars: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, str] = field(default_factory=dict)
    sample_widths: tuple[int, ...] = (1, 4)
    max_samples: int = 16
    hide_signals: float = 0.1
    patience: int = 0
    prices: tuple[float, ...] = ()
    probes: bool = False
    escalate: bool = True
    start: str = ""
    own_actions: tuple[str, ...] = ()
    own_features: tuple[str, ...] = ()
    learner: str = "ppo"
    ppo: PPOConfig = field(default_factory=PPOConfig)

    @property
    def rates(self) -> dict[str, Rates]:
        """Dollars or seconds of a million prompt and written tokens by model, as far as said."""
        return {} if self.unit == "flops" else said_rates(getattr(self, self.unit), self.unit)

    def __post_init__(self) -> None:
        check_range(self, ("max_samples", "sample_widths"), least=1)
        check_range(self, ("patience",), least=0)
        check_range(self, ("hide_signals",), least=0, most=1)
        check_range(self, ("prices",), least=SMALLEST, most=LARGEST)
        if len(self.prices) not in (0, 2) or list(self.prices) != sorted(self.prices):
            raise ConfigError(
                f"prices: expected the least and the greatest, or none, found {self.prices}"
            )
        for unit in ("dollars", "seconds"):
            if getattr(self, unit) and self.unit != unit:
                raise ConfigError(f"{unit}: expected --unit {unit} beside it, found {self.unit}")
        LEARNERS.check(self.learner)
        _ = self.rates
        for model, cost in self.token_costs.items():
            if not 0 < cost < inf:
                raise ConfigError(f"token_costs: expected more than 0, found {model}={cost}")

    def check_models(self, known: Collection[str]) -> None:
        """Raises ConfigError for a cost or price of a model that the traces do not have."""
        for option in ("token_costs", "dollars", "seconds"):
            if unknown := sorted(set(getattr(self, option)) - set(known)):
                raise ConfigError(
                    f"{option}: expected models among {sorted(known)}, found {unknown[0]!r}"
                )

    def suited(self, num_attempts: int, num_questions: int) -> TrainConfig:
        """The same with `total_steps`, if left open, as suits so many of both to learn from.

        A policy that meets few outcomes again and again learns them by heart:
        docs/decisions/0024, 0040, 0058 and 0061.

        >>> some = (500, 100), (10_000, 250), (10_000, 5_000), (130_000, 3_000)
        >>> [TrainConfig().suited(*counts).ppo.total_steps for counts in some]
        [225000, 640000, 2560000, 8000000]
        """
        if self.ppo.total_steps:
            return self
        wanted = STEPS_PER_ATTEMPT * num_attempts, STEPS_PER_QUESTION * num_questions
        steps = min(max(*wanted, LEAST_STEPS), MOST_STEPS)
        if self.start:
            steps //= STARTED
        return replace(self, ppo=replace(self.ppo, total_steps=steps))
