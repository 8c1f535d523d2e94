"""Which controller decides: versions side by side, shadows, and a guard for strange cases."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from controller.checkpoint import Checkpoint
from controller.core import Choice, Decider, Episode
from controller.errors import ConfigError
from controller.policy import rules
from controller.policy.deciders import PolicyDecider, RuleDecider
from controller.policy.pricing import Pricing
from controller.policy.rules import Rule, RulePolicy
from controller.policy.training_range import Support
from controller.process.episodes import EpisodeConfig
from controller.server.guard import GuardWatch

RULES: Mapping[str, Rule] = {
    "always-small": rules.SelfConsistency(1),
    "always-large": rules.AlwaysLarge(),
    "self-consistency-5": rules.SelfConsistency(5),
    "adaptive-cascade": rules.AdaptiveCascade(0.9, 8),
}
"""Static rules by the name that operators know them by."""


def named_rule(name: str) -> RulePolicy:
    """A static rule.

    Raises:
        ConfigError: no rule has that name.
    """
    if name not in RULES:
        raise ConfigError(f"rule: expected one of {sorted(RULES)}, found {name!r}")
    return RulePolicy(RULES[name])


class Guarded:
    """Lets the policy decide where it has been in training, and a rule everywhere else.

    Once a question has led outside, the rule sees it through.

    Args:
        inner: decides normally.
        support: where the policy has been.
        rule: decides elsewhere.
        on_stray: told the feature that is outside.
    """

    def __init__(
        self, inner: Decider, support: Support, rule: Decider, on_stray: Callable[[str], None]
    ) -> None:
        self._inner, self._support, self._rule = inner, support, rule
        self._on_stray, self._strayed = on_stray, False

    def choose(self, episode: Episode, mask: NDArray[np.bool_]) -> Choice:
        """See `Decider.choose`."""
        if not self._strayed:
            choice = self._inner.choose(episode, mask)
            feature = self._support.stray(np.fromiter(choice.observation.values(), np.float64))
            if feature is None:
                return choice
            self._strayed = True
            self._on_stray(feature)
        return self._rule.choose(episode, mask)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One version that answers a share of the questions.

    Attributes:
        name: in logs, metrics and responses.
        checkpoint: what decides.
        process: the decision process that it is deployed in.
        decider: the policy alone.
        pricing: what compute is worth where an asker says nothing.
        share: of all questions, relative to the other arms'.
        always: name of the rule that decides in its stead, while it is only watched.
        fallback: name of the rule that decides where the policy has not been in training;
            None switches the guard off.
    """

    name: str
    checkpoint: Checkpoint
    process: EpisodeConfig
    decider: PolicyDecider
    pricing: Pricing
    share: float = 1.0
    always: str | None = None
    fallback: str | None = "adaptive-cascade"

    @property
    def digest(self) -> str:
        """Of the policy's weights."""
        return self.decider.digest

    @cached_property
    def watch(self) -> GuardWatch:
        """How often the guard overrules its policy."""
        return GuardWatch(self.name)

    @property
    def guarded(self) -> bool:
        """Whether there is a guard."""
        ranges = self.checkpoint.support
        return self.always is None and self.fallback is not None and ranges is not None

    def new_decider(self, on_stray: Callable[[str], None]) -> Decider:
        """Who decides one question."""
        if self.always is not None:
            return RuleDecider(named_rule(self.always), self.always, self.decider)
        support = self.checkpoint.support
        if self.fallback is None or support is None:
            return self.decider
        rule = RuleDecider(named_rule(self.fallback), self.fallback, self.decider)
        return Guarded(self.decider, support, rule, on_stray)


class Arms:
    """All versions; which one answers follows from a hash, so that it stays the same.

    Args:
        arms: at least one, with different names.
        salt: another one deals the cards anew.
    """

    def __init__(self, arms: Sequence[Arm], salt: str = "allot") -> None:
        shares = [arm.share for arm in arms]
        if not arms or min(shares) < 0 or not 0 < sum(shares) < float("inf"):
            raise ConfigError(f"arms: expected shares of 0 or more, not all 0, found {shares}")
        if len({arm.name for arm in arms}) < len(arms):
            raise ConfigError(f"arms: expected different names, found {[a.name for a in arms]}")
        self.arms, self._salt = tuple(arms), salt
        self._bounds = np.cumsum(shares) / sum(shares)

    def assign(self, key: str) -> Arm:
        """The arm of a caller, conversation or question."""
        digest = hashlib.blake2b(f"{self._salt}\0{key}".encode(), digest_size=8).digest()
        place = int.from_bytes(digest, "big") / 2**64
        position = int(np.searchsorted(self._bounds, place, side="right"))
        return self.arms[min(position, len(self.arms) - 1)]
