"""Hand-made rules behind the same protocol as the trained policy.

A rule names, in the order of its preference, where it would take which action; where none
of that is legal it stops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from controller.process.actions import ActionKind
from controller.process.episodes import Episodes
from controller.process.observation import leader_stays

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Wishes = Mapping[ActionKind, Bools]

SAMPLE, REVISE, ESCALATE, VERIFY = (
    ActionKind.SAMPLE,
    ActionKind.REVISE,
    ActionKind.ESCALATE,
    ActionKind.VERIFY,
)


class Rule(Protocol):
    """What to do when."""

    def wishes(self, episodes: Episodes) -> Wishes:
        """Where to take which action, (N,) each; of several the first counts."""
        ...


class RulePolicy:
    """Plays a rule; see `controller.policy.network.Policy`.

    Args:
        rule: what to do when.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def act(self, episodes: Episodes, mask: Bools) -> NDArray[np.int64]:
        """The rule's action per episode, else the first that is allowed: STOP if it is, (N,)."""
        actions = episodes.config.actions
        wanted = np.zeros(len(mask), np.int64)
        for kind, where in reversed(list(self.rule.wishes(episodes).items())):
            width = min(actions.sample_widths) if kind is SAMPLE else 1
            wanted = np.where(where, actions.position(kind, width), wanted)
        return np.where(mask[np.arange(len(wanted)), wanted], wanted, mask.argmax(1))


def _samples(episodes: Episodes) -> NDArray[np.int64]:
    return episodes.counts[:, 0]


def _below_top(episodes: Episodes) -> Bools:
    return np.asarray(episodes.rung < episodes.config.num_rungs - 1)


def _on_small(episodes: Episodes) -> Bools:
    return np.asarray(episodes.rung == 0)


def _stays(episodes: Episodes, threshold: float) -> Bools:
    stays = leader_stays(episodes.top, episodes.second) >= threshold
    return np.asarray(stays & (episodes.total > 0))


def _leader_score(episodes: Episodes) -> Floats:
    """Mean verifier score of the leading answer, 0 without one, (N,)."""
    at_leader = np.arange(episodes.num_episodes), np.maximum(episodes.leader, 0)
    scores = np.maximum(episodes.answer_scores[at_leader], 1)
    return np.asarray(episodes.answer_score[at_leader] / scores)


@dataclass(frozen=True)
class SelfConsistency:
    """Majority of n small attempts (Wang et al. 2022, arXiv 2203.11171); n = 0 gives up."""

    n: int

    def wishes(self, episodes: Episodes) -> Wishes:
        """Sample until n attempts are made."""
        return {SAMPLE: _samples(episodes) < self.n}


@dataclass(frozen=True)
class AlwaysLarge:
    """One attempt by the top of the ladder, climbing rung by rung."""

    def wishes(self, episodes: Episodes) -> Wishes:
        """Escalate until the top has answered."""
        return {ESCALATE: _below_top(episodes)}


@dataclass(frozen=True)
class AdaptiveConsistency:
    """Sample until the leader stays with enough probability (arXiv 2305.11860)."""

    threshold: float
    n: int

    def wishes(self, episodes: Episodes) -> Wishes:
        """Sample until the posterior reaches the threshold, at most n times."""
        return {SAMPLE: (_samples(episodes) < self.n) & ~_stays(episodes, self.threshold)}


@dataclass(frozen=True)
class EarlyStoppingConsistency:
    """Sample in windows until one window is unanimous (ESC, Li et al. 2024, arXiv 2401.10480)."""

    window: int
    n: int

    def wishes(self, episodes: Episodes) -> Wishes:
        """Sample until a whole window agrees, at most n times."""
        made = _samples(episodes)
        unanimous = (made > 0) & (made % self.window == 0) & (episodes.streak >= self.window)
        return {SAMPLE: (made < self.n) & ~unanimous}


@dataclass(frozen=True)
class ConfidenceStop:
    """Sample until the leader's share of votes weighted by confidence is high enough.

    The weight of an answer's votes is exp of their mean log-probability
    (CISC, Taubenfeld et al. 2025, arXiv 2502.06233); 1 where that is unknown.
    """

    share: float
    n: int

    def wishes(self, episodes: Episodes) -> Wishes:
        """Sample while the weighted share is below `share`, at least twice, at most n times."""
        counts = np.maximum(episodes.answer_logprobs, 1)
        weighted = episodes.votes * np.exp(episodes.answer_logprob / counts)  # (N, K)
        total = np.maximum(weighted.sum(1), 1e-9)
        settled = (weighted.max(1) >= self.share * total) & (_samples(episodes) > 1)
        return {SAMPLE: (_samples(episodes) < self.n) & ~settled}


@dataclass(frozen=True)
class BayesianStop:
    """Sample until it is likely enough that neither rival nor the rest overtakes.

    Dirichlet posterior over leader, rival and all others, one pseudo-count each; the
    chances of both being ahead are added up.
    """

    doubt: float
    n: int

    def wishes(self, episodes: Episodes) -> Wishes:
        """Sample while the doubt is above `doubt`, at most n times."""
        others = np.maximum(episodes.total - episodes.top - episodes.second, 0.0)
        doubt = 2.0 - leader_stays(episodes.top, episodes.second)
        doubt -= leader_stays(episodes.top, others)
        settled = (doubt <= self.doubt) & (episodes.total > 0)
        return {SAMPLE: (_samples(episodes) < self.n) & ~settled}


@dataclass(frozen=True)
class ReviseN:
    """One small attempt, revised n times."""

    n: int

    def wishes(self, episodes: Episodes) -> Wishes:
        """Sample once, then revise."""
        return {SAMPLE: _samples(episodes) < 1, REVISE: episodes.revisions < self.n}


@dataclass(frozen=True)
class VerifiedBestOfN:
    """Best of n small attempts by verifier-weighted vote (Snell et al. 2024, arXiv 2408.03314)."""

    n: int

    def wishes(self, episodes: Episodes) -> Wishes:
        """Sample until n attempts are made, then verify them all."""
        return {SAMPLE: _samples(episodes) < self.n, VERIFY: episodes.unverified > 0}


@dataclass(frozen=True)
class VerifierStop:
    """Sample and verify until the leading answer scores high enough."""

    threshold: float
    n: int

    def wishes(self, episodes: Episodes) -> Wishes:
        """Verify every attempt; sample while the score is too low, at most n times."""
        low = _leader_score(episodes) < self.threshold
        return {VERIFY: episodes.unverified > 0, SAMPLE: (_samples(episodes) < self.n) & low}


@dataclass(frozen=True)
class VoteCascade:
    """Sample n times, escalate if the leader's share is low (Yue et al. 2023, arXiv 2310.03094)."""

    n: int
    share: float

    def wishes(self, episodes: Episodes) -> Wishes:
        """Sample n times, then climb to the top if the small model's share is below `share`."""
        made = _samples(episodes)
        low = episodes.small_votes.max(1) < self.share * np.maximum(made, 1)
        return {
            SAMPLE: (made < self.n) & _on_small(episodes),
            ESCALATE: low & _below_top(episodes),
        }


@dataclass(frozen=True)
class AdaptiveCascade:
    """Sample while undecided, at most n times, then escalate if still undecided.

    The adaptive-consistency stop in front of a large model: the strongest of the
    hand-made rules that use votes alone.
    """

    threshold: float
    n: int

    def wishes(self, episodes: Episodes) -> Wishes:
        """Sample until settled, then climb to the top if that did not happen."""
        open_ = ~_stays(episodes, self.threshold)
        return {
            SAMPLE: (_samples(episodes) < self.n) & open_ & _on_small(episodes),
            ESCALATE: open_ & _below_top(episodes),
        }


@dataclass(frozen=True)
class LogprobCascade:
    """One small attempt, escalate if its mean log-probability is low.

    FrugalGPT (Chen et al. 2023, arXiv 2305.05176) with the model's own confidence.
    Escalates always where log-probabilities are unknown.
    """

    threshold: float

    def wishes(self, episodes: Episodes) -> Wishes:
        """Sample once, then climb to the top if confidence is below the threshold."""
        confident = episodes.last_logprob >= self.threshold
        return {
            SAMPLE: (_samples(episodes) < 1) & _on_small(episodes),
            ESCALATE: (~confident | ~_on_small(episodes)) & _below_top(episodes),
        }


@dataclass(frozen=True)
class VerifierCascade:
    """Sample and verify up to n times, escalate if no answer scores high enough.

    FrugalGPT (Chen et al. 2023, arXiv 2305.05176) with the verifier as its scorer.
    """

    threshold: float
    n: int

    def wishes(self, episodes: Episodes) -> Wishes:
        """Verify and sample while the score is too low, then climb to the top."""
        low = (_leader_score(episodes) < self.threshold) & _on_small(episodes)
        return {
            VERIFY: (episodes.unverified > 0) & _on_small(episodes),
            SAMPLE: (_samples(episodes) < self.n) & low,
            ESCALATE: (low | ~_on_small(episodes)) & _below_top(episodes),
        }


@dataclass(frozen=True)
class Router:
    """Small or large model by the prompt alone (RouteLLM, Ong et al. 2024, arXiv 2406.18665).

    Reads the difficulty of a question as log-odds per rung; unknown ones count as 0.
    """

    advantage: float
    floor: float

    def wishes(self, episodes: Episodes) -> Wishes:
        """Give up below `floor`; escalate where the large model is so much more often right."""
        chance = 1 / (1 + np.exp(-np.nan_to_num(episodes.difficulty)))  # (N, R)
        fresh, hopeful = episodes.num_attempts == 0, chance.max(1) >= self.floor
        large = hopeful & (chance[:, -1] - chance[:, 0] >= self.advantage)
        climbing = (fresh & large) | ~_on_small(episodes)
        return {ESCALATE: climbing & _below_top(episodes), SAMPLE: fresh & hopeful & ~large}


RULES: Mapping[str, type[Any]] = {
    rule.__name__: rule
    for rule in (
        SelfConsistency,
        AlwaysLarge,
        AdaptiveConsistency,
        EarlyStoppingConsistency,
        ConfidenceStop,
        BayesianStop,
        ReviseN,
        VerifiedBestOfN,
        VerifierStop,
        VoteCascade,
        AdaptiveCascade,
        LogprobCascade,
        VerifierCascade,
        Router,
    )
}
"""Every rule by the name that checkpoints call it."""

_COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)
_CONFIDENCE = (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)
_SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_LOGPROBS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)


def rule_families(
    num_samples: int, *, revises: bool = False, verifies: bool = False
) -> dict[str, tuple[Rule, ...]]:
    """Every family of rules with the settings that tuning chooses from.

    Args:
        num_samples: SAMPLE attempts that an episode can hold.
        revises: whether there is a reviser.
        verifies: whether there is a verifier.
    """
    counts = [n for n in _COUNTS if n <= num_samples]
    several = [n for n in counts if n > 1] or [1]
    families: dict[str, tuple[Rule, ...]] = {
        "give up": (SelfConsistency(0),),
        "always small": (SelfConsistency(1),),
        "always large": (AlwaysLarge(),),
        f"self-consistency-{num_samples}": (SelfConsistency(num_samples),),
        "self-consistency": tuple(SelfConsistency(n) for n in several),
        "adaptive consistency": tuple(
            AdaptiveConsistency(t, n) for t in _CONFIDENCE for n in several
        ),
        "early-stopping consistency": tuple(
            EarlyStoppingConsistency(w, n) for w in (2, 3, 4, 5) for n in several if n >= w
        )
        or (EarlyStoppingConsistency(1, 1),),
        "confidence stop": tuple(ConfidenceStop(s, n) for s in _SHARES for n in several),
        "Bayesian stop": tuple(
            BayesianStop(d, n) for d in (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7) for n in several
        ),
        "vote cascade": tuple(VoteCascade(n, s) for n in several for s in _SHARES),
        "adaptive cascade": tuple(AdaptiveCascade(t, n) for t in _CONFIDENCE for n in counts),
        "logprob cascade": tuple(LogprobCascade(-t) for t in _LOGPROBS),
    }
    if revises:
        families["revise-n"] = tuple(ReviseN(n) for n in (1, 2, 3, 4))
    if verifies:
        families |= {
            f"verified best of {num_samples}": (VerifiedBestOfN(num_samples),),
            "verified best of n": tuple(VerifiedBestOfN(n) for n in several),
            "verifier stop": tuple(VerifierStop(t, n) for t in _SCORES for n in counts),
            "verifier cascade": tuple(VerifierCascade(t, n) for t in _SCORES for n in counts),
        }
    return families


def routers() -> tuple[Rule, ...]:
    """Settings of the prompt-only router; they read difficulty."""
    return tuple(
        Router(a, f) for a in (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 1.1) for f in (0.0, 0.1, 0.2, 0.4, 1.1)
    )


STATIC = ("give up", "always small", "always large", "self-consistency")
STOP_RULES = (
    "adaptive consistency",
    "early-stopping consistency",
    "confidence stop",
    "Bayesian stop",
    "verifier stop",
)
ROUTERS = (
    "logistic router",
    "network router",
    "kNN router",
    "wording router",
    "difficulty bins",
    "plan selector",
)
CASCADES = ("vote cascade", "adaptive cascade", "logprob cascade", "verifier cascade")
