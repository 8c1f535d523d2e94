"""Hand-made rules behind the same protocol as the trained policy.

A rule names, in the order of its preference, where it would take which action; where none
of that is legal it stops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from itertools import chain, combinations, islice
from typing import Any, Protocol

import numpy as np

from controller.process.actions import ActionKind, attempting
from controller.process.episodes import SCORE, SCORES, EpisodeConfig, Episodes
from controller.process.lockstep import Bools, Floats, Ints, chance
from controller.process.observation import leader_stays

Wishes = Mapping[ActionKind, Bools]

SAMPLE, REVISE, ESCALATE, VERIFY = (
    ActionKind.SAMPLE,
    ActionKind.REVISE,
    ActionKind.ESCALATE,
    ActionKind.VERIFY,
)


class Pair:
    """State of N episodes of any menu, seen as a rule for two arms sees it, by their rungs.

    It samples from the first and escalates to the other, which is the same where there is none.

    Attributes:
        samples: attempts by the first arm, (N,).
        waiting: whether the other arm has not been asked, (N,).
        chances: log-odds that an attempt of either is right, (N, 2).
    """

    def __init__(self, episodes: Episodes, first: int, then: int) -> None:
        self.episodes, self.first, self.then = episodes, first, then
        self.samples = episodes.counts[:, first]
        self.waiting = np.asarray(episodes.counts[:, then] == 0)
        self.chances = episodes.difficulty[:, [first, then]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.episodes, name)

    @property
    def escalates(self) -> Bools:
        """Whether the other arm can be asked, (N,)."""
        return self.waiting & (self.first != self.then)


class Rule(Protocol):
    """What to do when."""

    def wishes(self, episodes: Pair) -> Wishes:
        """Where to take which action, (N,) each; of several the first counts."""


class RulePolicy:
    """Plays a rule; one for two arms on the first and the last of a menu. See `Policy`."""

    def __init__(self, rule: AnyRule) -> None:
        self.rule = rule

    def act(self, episodes: Episodes, mask: Bools) -> Ints:
        """The rule's action per episode, else the first that is allowed: STOP if it is, (N,)."""
        config, rule = episodes.config, self.rule
        if isinstance(rule, Panel | ArmRouter):
            asking = np.array([config.asks(rung) for rung in range(config.num_rungs)] + [0])
            wanted = asking[rule.asks(episodes)]
        else:
            first, then = 0, config.num_rungs - 1
            if isinstance(rule, On):
                first, then = (config.arm_names.index(arm) for arm in (rule.first, rule.then))
                rule = rule.of
            wanted = np.zeros(len(mask), np.int64)
            for kind, where in reversed(list(rule.wishes(Pair(episodes, first, then)).items())):
                if kind in (SAMPLE, ESCALATE):
                    action = config.asks(first if kind is SAMPLE else then)
                elif kind is REVISE and config.names_revisers:
                    by = then if then in config.revisers else config.revisers[0]
                    action = config.actions.position(kind, arm=config.arm_names[by])
                else:
                    action = config.actions.position(kind)
                wanted = np.where(where, action, wanted)
        return np.where(mask[np.arange(len(wanted)), wanted], wanted, mask.argmax(1))


def _stays(episodes: Pair, threshold: float) -> Bools:
    stays = leader_stays(episodes.top, episodes.second) >= threshold
    return np.asarray(stays & (episodes.total > 0))


def _leader_score(episodes: Pair) -> Floats:
    """Mean verifier score of the leading answer, 0 without one, (N,)."""
    known = episodes.known_of_leader
    return np.asarray(known[SCORE] / np.maximum(known[SCORES], 1))


@dataclass(frozen=True)
class SelfConsistency:
    """Majority of n small attempts (Wang et al. 2022, arXiv 2203.11171); n = 0 gives up."""

    n: int

    def wishes(self, episodes: Pair) -> Wishes:
        """Sample until n attempts are made."""
        return {SAMPLE: episodes.samples < self.n}


@dataclass(frozen=True)
class AlwaysLarge:
    """One attempt by the large model."""

    def wishes(self, episodes: Pair) -> Wishes:
        """Escalate once."""
        return {ESCALATE: episodes.escalates}


@dataclass(frozen=True)
class AdaptiveConsistency:
    """Sample until the leader stays with enough probability (arXiv 2305.11860)."""

    threshold: float
    n: int

    def wishes(self, episodes: Pair) -> Wishes:
        """Sample until the posterior reaches the threshold, at most n times."""
        return {SAMPLE: (episodes.samples < self.n) & ~_stays(episodes, self.threshold)}


@dataclass(frozen=True)
class EarlyStoppingConsistency:
    """Sample in windows until one window is unanimous (ESC, Li et al. 2024, arXiv 2401.10480)."""

    window: int
    n: int

    def wishes(self, episodes: Pair) -> Wishes:
        """Sample until a whole window agrees, at most n times."""
        made = episodes.samples
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

    def wishes(self, episodes: Pair) -> Wishes:
        """Sample while the weighted share is below `share`, at least twice, at most n times."""
        counts = np.maximum(episodes.answer_logprobs, 1)
        weighted = episodes.votes * np.exp(episodes.answer_logprob / counts)  # (N, K)
        total = np.maximum(weighted.sum(1), 1e-9)
        settled = (weighted.max(1) >= self.share * total) & (episodes.samples > 1)
        return {SAMPLE: (episodes.samples < self.n) & ~settled}


@dataclass(frozen=True)
class BayesianStop:
    """Sample until it is likely enough that neither rival nor the rest overtakes.

    Dirichlet posterior over leader, rival and all others, one pseudo-count each; the
    chances of both being ahead are added up.
    """

    doubt: float
    n: int

    def wishes(self, episodes: Pair) -> Wishes:
        """Sample while the doubt is above `doubt`, at most n times."""
        others = np.maximum(episodes.total - episodes.top - episodes.second, 0.0)
        doubt = 2.0 - leader_stays(episodes.top, episodes.second)
        doubt -= leader_stays(episodes.top, others)
        settled = (doubt <= self.doubt) & (episodes.total > 0)
        return {SAMPLE: (episodes.samples < self.n) & ~settled}


@dataclass(frozen=True)
class ReviseN:
    """One small attempt, revised n times."""

    n: int

    def wishes(self, episodes: Pair) -> Wishes:
        """Sample once, then revise."""
        return {SAMPLE: episodes.samples < 1, REVISE: episodes.revisions < self.n}


@dataclass(frozen=True)
class VerifiedBestOfN:
    """Best of n small attempts by verifier-weighted vote (Snell et al. 2024, arXiv 2408.03314)."""

    n: int

    def wishes(self, episodes: Pair) -> Wishes:
        """Sample until n attempts are made, then verify them all."""
        return {SAMPLE: episodes.samples < self.n, VERIFY: episodes.unverified > 0}


@dataclass(frozen=True)
class VerifierStop:
    """Sample and verify until the leading answer scores high enough."""

    threshold: float
    n: int

    def wishes(self, episodes: Pair) -> Wishes:
        """Verify every attempt; sample while the score is too low, at most n times."""
        low = _leader_score(episodes) < self.threshold
        return {VERIFY: episodes.unverified > 0, SAMPLE: (episodes.samples < self.n) & low}


@dataclass(frozen=True)
class VoteCascade:
    """Sample n times, escalate if the leader's share is low (Yue et al. 2023, arXiv 2310.03094)."""

    n: int
    share: float

    def wishes(self, episodes: Pair) -> Wishes:
        """Sample n times, then escalate if the small model's share is below `share`."""
        made, menu = episodes.samples, episodes.config.is_menu
        votes = episodes.arm_votes[..., episodes.first] if menu else episodes.small_votes
        low = votes.max(1) < self.share * np.maximum(made, 1)
        return {
            SAMPLE: (made < self.n) & episodes.waiting,
            ESCALATE: low & episodes.escalates,
        }


@dataclass(frozen=True)
class AdaptiveCascade:
    """Sample while undecided, at most n times, then escalate if still undecided.

    The adaptive-consistency stop in front of a large model: the strongest of the
    hand-made rules that use votes alone.
    """

    threshold: float
    n: int

    def wishes(self, episodes: Pair) -> Wishes:
        """Sample until settled, then escalate if that did not happen."""
        open_ = ~_stays(episodes, self.threshold)
        return {
            SAMPLE: (episodes.samples < self.n) & open_ & episodes.waiting,
            ESCALATE: open_ & episodes.escalates,
        }


@dataclass(frozen=True)
class LogprobCascade:
    """One small attempt, escalate if its mean log-probability is low.

    FrugalGPT (Chen et al. 2023, arXiv 2305.05176) with the model's own confidence.
    Escalates always where log-probabilities are unknown.
    """

    threshold: float

    def wishes(self, episodes: Pair) -> Wishes:
        """Sample once, then escalate if confidence is below the threshold."""
        confident = episodes.last_logprob >= self.threshold
        return {
            SAMPLE: (episodes.samples < 1) & episodes.waiting,
            ESCALATE: ~confident & episodes.escalates,
        }


@dataclass(frozen=True)
class VerifierCascade:
    """Sample and verify up to n times, escalate if no answer scores high enough.

    FrugalGPT (Chen et al. 2023, arXiv 2305.05176) with the verifier as its scorer.
    """

    threshold: float
    n: int

    def wishes(self, episodes: Pair) -> Wishes:
        """Verify and sample while the score is too low, then escalate."""
        low = (_leader_score(episodes) < self.threshold) & episodes.waiting
        return {
            VERIFY: (episodes.unverified > 0) & episodes.waiting,
            SAMPLE: (episodes.samples < self.n) & low,
            ESCALATE: low & episodes.escalates,
        }


VERIFYING = (VerifiedBestOfN, VerifierStop, VerifierCascade)
"""Rules that have attempts verified."""


@dataclass(frozen=True)
class Router:
    """Small or large model by the prompt alone (RouteLLM, Ong et al. 2024, arXiv 2406.18665).

    Reads the difficulty of a question as log-odds per rung; unknown ones count as 0.
    """

    advantage: float
    floor: float

    def wishes(self, episodes: Pair) -> Wishes:
        """Give up below `floor`; escalate where the large model is so much more often right."""
        right = chance(np.nan_to_num(episodes.chances))  # (N, 2)
        fresh, hopeful = episodes.num_attempts == 0, right.max(1) >= self.floor
        large = hopeful & (right[:, -1] - right[:, 0] >= self.advantage)
        return {ESCALATE: fresh & large & episodes.escalates, SAMPLE: fresh & hopeful & ~large}


@dataclass(frozen=True)
class On:
    """A rule for two arms, played on two of a menu."""

    of: Rule
    first: str
    then: str

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of those that it asks."""
        return self.first, self.then

    def __str__(self) -> str:
        arms = self.first if self.first == self.then else f"{self.first}, {self.then}"
        return f"{self.of} on {arms}"


@dataclass(frozen=True)
class Panel:
    """Ask arms once each, in order, until enough families agree.

    Source: FrugalGPT's order of models (arXiv 2305.05176) with agreement as the scorer, as in model
    switching. One arm alone is a fixed choice.
    """

    arms: tuple[str, ...]
    agreeing: int

    def __str__(self) -> str:
        return f"{', '.join(self.arms)} until {self.agreeing} agree"

    def asks(self, episodes: Episodes) -> Ints:
        """The next of the arms where too few agree."""
        config = episodes.config
        rungs = np.array([config.arm_names.index(arm) for arm in self.arms] + [-1])
        asked = np.minimum(episodes.num_attempts, len(self.arms))
        enough = episodes.backers[0] >= self.agreeing if config.is_menu else episodes.total > 0
        return np.where(enough, -1, rungs[asked])


@dataclass(frozen=True)
class ArmRouter:
    """The arm that the prompt alone says is worth most, at a rate of exchange (RouteLLM).

    The value of an arm is its chance of being right less rate x expected cost; where no arm is
    worth anything, the question is given up. Unknown chances count as even.
    """

    rate: float

    def asks(self, episodes: Episodes) -> Ints:
        """The best arm of all, once."""
        config, lengths = episodes.config, episodes.expected_lengths
        cost = np.stack([attempting(episodes, lengths, r) for r in range(config.num_rungs)], 1)
        worth = chance(np.nan_to_num(episodes.difficulty)) - self.rate / config.cost_unit * cost
        return np.where((episodes.num_attempts > 0) | (worth.max(1) < 0), -1, worth.argmax(1))


MenuRule = Panel | ArmRouter
"""Which arm to ask when; `asks` gives its rung, -1 to stop, (N,)."""

AnyRule = Rule | MenuRule | On


def lacks_arms(rule: AnyRule, episodes: Episodes, mask: Bools) -> Bools:
    """Where an arm that a rule asks is missing, or `mask`, (N, A), forbids it alone, (N,)."""
    if not isinstance(rule, On | Panel):
        return np.zeros(episodes.num_episodes, bool)
    config = episodes.config
    rungs = [config.arm_names.index(arm) for arm in rule.arms]
    if config.names_verifier and isinstance(rule, On) and isinstance(rule.of, VERIFYING):
        rungs.append(config.verifier)
    asking = [config.asks(rung) for rung in rungs]
    down = (episodes.mask() & ~mask)[:, asking]
    return np.asarray(((episodes.limits[:, rungs] == 0) | down).any(1))


RULES: Mapping[str, type[Any]] = {
    name: kind
    for name, kind in list(globals().items())
    if isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == __name__
    if kind is On or hasattr(kind, "wishes") or hasattr(kind, "asks")
}
"""Every rule by the name that checkpoints call it; other dataclasses of this module are none."""

_COUNTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)
_CONFIDENCE = (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)
_SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_RATES = tuple(np.geomspace(1e-4, 1.0, 25).tolist())
_PANELS, _PAIRS = 64, 128
"""So many of three or more arms of a menu, and of two, at most."""
_LOGPROBS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)


def _pair_families(
    num_samples: int, *, revises: bool, verifies: bool
) -> dict[str, tuple[Rule, ...]]:
    """Families of rules for two arms, and so many samples, with settings to choose from."""
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


def routers(config: EpisodeConfig) -> tuple[AnyRule, ...]:
    """Settings of the prompt-only router; they read difficulty."""
    if config.is_menu:
        return tuple(ArmRouter(rate) for rate in _RATES)
    return tuple(
        Router(a, f) for a in (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 1.1) for f in (0.0, 0.1, 0.2, 0.4, 1.1)
    )


def rule_families(config: EpisodeConfig) -> dict[str, tuple[AnyRule, ...]]:
    """Every family of rules with the settings that tuning chooses from.

    Those for two arms are played on every two of a menu, in the order of their cost; of a large
    menu on as many as `_PAIRS`, spread evenly.
    """
    revises, verifies = config.max_revisions > 0, config.verifies
    if not config.is_menu:
        pair = _pair_families(config.max_samples, revises=revises, verifies=verifies)
        if not config.names_revisers:
            return dict(pair)
        first, by = config.arm_names[0], [config.arm_names[rung] for rung in config.revisers]
        return {**pair, "revise-n": tuple(On(r, first, b) for r in pair["revise-n"] for b in by)}
    names, caps = config.arm_names, config.caps.tolist()
    panels = chain.from_iterable(combinations(names, n) for n in range(3, len(names) + 1))
    pairs = [*combinations(names, 2)]
    pairs = pairs[:: math.ceil(len(pairs) / _PAIRS)]
    families: dict[str, tuple[AnyRule, ...]] = {
        "give up": (On(SelfConsistency(0), names[0], names[0]),),
        "always small": (Panel(names[:1], 1),),
        "always large": (Panel(names[-1:], 1),),
        "always one arm": tuple(Panel((name,), 1) for name in names),
        "panel": tuple(Panel(panel, 2) for panel in islice(panels, _PANELS)),
    }
    fixed = set(families)
    for rung, cap in enumerate(caps):
        own = _pair_families(cap, revises=revises, verifies=verifies)
        for family, rules in own.items():
            if family in fixed:
                continue
            arms = [(names[rung], names[rung])]
            if family in CASCADES:
                arms = [pair for pair in pairs if pair[0] == names[rung]]
            elif family == "revise-n":
                arms = [(names[rung], names[then]) for then in config.revisers]
                arms = arms if config.names_revisers or not rung else []
            name = "self-consistency" if family.startswith("self-consistency") else family
            added = tuple(On(rule, *pair) for rule in rules for pair in arms)
            families[name] = families.get(name, ()) + added
    return {family: tuple(dict.fromkeys(rules)) for family, rules in families.items() if rules}


STATIC = ("give up", "always small", "always large", "always one arm", "self-consistency")
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
    "LinUCB router",
    "difficulty bins",
)
SELECTOR = "plan selector"
CASCADES = ("vote cascade", "adaptive cascade", "logprob cascade", "verifier cascade")
