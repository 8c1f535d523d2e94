"""Hand-made rules behind the same protocol as the trained policy.

A rule returns the action that it wants; where that is not legal it stops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from controller.actions import ActionKind
from controller.episodes import Episodes
from controller.observation import leader_stays

Bools = NDArray[np.bool_]


class Rule(Protocol):
    """A rule as two questions about the state; both answers are (N,) bool."""

    def wants_sample(self, episodes: Episodes) -> Bools:
        """Where to SAMPLE."""
        ...

    def wants_escalation(self, episodes: Episodes) -> Bools:
        """Where to ESCALATE, if it does not sample."""
        ...


class RulePolicy:
    """Plays a rule; see `controller.policy.Policy`.

    Args:
        rule: what to do when.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def act(self, episodes: Episodes, mask: Bools) -> NDArray[np.int64]:
        """The rule's action per episode, STOP where that is not allowed, (N,)."""
        actions = episodes.config.actions
        widths = actions.sample_widths
        sample = actions.position(ActionKind.SAMPLE, min(widths))
        climb = actions.position(ActionKind.ESCALATE)
        samples = self.rule.wants_sample(episodes)
        climbs = ~samples & self.rule.wants_escalation(episodes)
        wanted = np.where(samples, sample, np.where(climbs, climb, 0))
        return np.where(mask[np.arange(len(wanted)), wanted], wanted, 0)


def _nowhere(episodes: Episodes) -> Bools:
    return np.zeros(episodes.num_episodes, bool)


def _samples(episodes: Episodes) -> NDArray[np.int64]:
    return episodes.counts[:, 0]


def _not_at_top(episodes: Episodes) -> Bools:
    return episodes.rung < episodes.config.num_rungs - 1


@dataclass(frozen=True)
class SelfConsistency:
    """Majority of n small attempts (Wang et al. 2022, arXiv 2203.11171); n = 0 gives up."""

    n: int

    def wants_sample(self, episodes: Episodes) -> Bools:
        """Until n attempts are made."""
        return _samples(episodes) < self.n

    def wants_escalation(self, episodes: Episodes) -> Bools:
        """Never."""
        return _nowhere(episodes)


@dataclass(frozen=True)
class AlwaysLarge:
    """One attempt by the top of the ladder, climbing rung by rung."""

    def wants_sample(self, episodes: Episodes) -> Bools:
        """Never."""
        return _nowhere(episodes)

    def wants_escalation(self, episodes: Episodes) -> Bools:
        """Until the top has answered."""
        return _not_at_top(episodes)


@dataclass(frozen=True)
class AdaptiveConsistency:
    """Sample until the leader stays with enough probability (arXiv 2305.11860)."""

    threshold: float
    n: int

    def wants_sample(self, episodes: Episodes) -> Bools:
        """Until the posterior reaches the threshold, at most n times."""
        settled = leader_stays(episodes.top, episodes.second) >= self.threshold
        return (_samples(episodes) < self.n) & ~(settled & (episodes.total > 0))

    def wants_escalation(self, episodes: Episodes) -> Bools:
        """Never."""
        return _nowhere(episodes)


@dataclass(frozen=True)
class EarlyStoppingConsistency:
    """Sample in windows until one window is unanimous (ESC, Li et al. 2024, arXiv 2401.10480)."""

    window: int
    n: int

    def wants_sample(self, episodes: Episodes) -> Bools:
        """Until a whole window agrees, at most n times."""
        made = _samples(episodes)
        unanimous = (made % self.window == 0) & (episodes.streak >= self.window)
        return np.asarray((made < self.n) & ~unanimous)

    def wants_escalation(self, episodes: Episodes) -> Bools:
        """Never."""
        return _nowhere(episodes)


@dataclass(frozen=True)
class VoteCascade:
    """Sample n times, escalate if the leader's share is low (Yue et al. 2023, arXiv 2310.03094)."""

    n: int
    share: float

    def wants_sample(self, episodes: Episodes) -> Bools:
        """Until n attempts are made, and never after escalating."""
        return np.asarray((_samples(episodes) < self.n) & (episodes.rung == 0))

    def wants_escalation(self, episodes: Episodes) -> Bools:
        """Until the top has answered, if the small model's share is below `share`."""
        low = episodes.small_votes.max(1) < self.share * np.maximum(_samples(episodes), 1)
        return np.asarray(low & _not_at_top(episodes))


@dataclass(frozen=True)
class AdaptiveCascade:
    """Sample while undecided, at most n times, then escalate if still undecided.

    The adaptive-consistency stop in front of a large model: the strongest of the
    hand-made rules that use votes alone.
    """

    threshold: float
    n: int

    def _settled(self, episodes: Episodes) -> Bools:
        stays = leader_stays(episodes.top, episodes.second) >= self.threshold
        return stays & (episodes.total > 0)

    def wants_sample(self, episodes: Episodes) -> Bools:
        """Until settled, at most n times, and never after escalating."""
        going_on = ~self._settled(episodes) & (episodes.rung == 0)
        return np.asarray((_samples(episodes) < self.n) & going_on)

    def wants_escalation(self, episodes: Episodes) -> Bools:
        """Until the top has answered, if not settled."""
        return ~self._settled(episodes) & _not_at_top(episodes)


@dataclass(frozen=True)
class LogprobCascade:
    """One small attempt, escalate if its mean log-probability is low.

    FrugalGPT (Chen et al. 2023, arXiv 2305.05176) with the model's own confidence.
    Escalates always where log-probabilities are unknown.
    """

    threshold: float

    def wants_sample(self, episodes: Episodes) -> Bools:
        """Once, first."""
        return np.asarray((_samples(episodes) < 1) & (episodes.rung == 0))

    def wants_escalation(self, episodes: Episodes) -> Bools:
        """Until the top has answered, if confidence is below the threshold."""
        confident = episodes.last_logprob >= self.threshold
        return np.asarray((~confident | (episodes.rung > 0)) & _not_at_top(episodes))


def rule_families(num_samples: int) -> dict[str, tuple[Rule, ...]]:
    """Every family of rules with the settings that tuning chooses from.

    Args:
        num_samples: SAMPLE attempts that an episode can hold.
    """
    counts = [n for n in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32) if n <= num_samples]
    several = [n for n in counts if n > 1] or [1]
    confidence = (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)
    return {
        "give up": (SelfConsistency(0),),
        "always small": (SelfConsistency(1),),
        "always large": (AlwaysLarge(),),
        f"self-consistency-{num_samples}": (SelfConsistency(num_samples),),
        "self-consistency": tuple(SelfConsistency(n) for n in several),
        "adaptive consistency": tuple(
            AdaptiveConsistency(t, n) for t in confidence for n in several
        ),
        "early-stopping consistency": tuple(
            EarlyStoppingConsistency(w, n) for w in (2, 3, 4, 5) for n in several if n >= w
        )
        or (EarlyStoppingConsistency(1, 1),),
        "vote cascade": tuple(
            VoteCascade(n, s) for n in several for s in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
        ),
        "adaptive cascade": tuple(AdaptiveCascade(t, n) for t in confidence for n in counts),
        "logprob cascade": tuple(
            LogprobCascade(-t)
            for t in (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
        ),
    }


STATIC = ("give up", "always small", "always large", "self-consistency")
STOP_RULES = ("adaptive consistency", "early-stopping consistency")
CASCADES = ("vote cascade", "adaptive cascade", "logprob cascade")
