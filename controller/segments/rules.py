"""Hand-made rules for control inside one attempt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from controller.episodes import Bools, Ints
from controller.segments.episodes import ESCALATE, REVISE, SAMPLE, STOP, TO_END, SegmentEpisodes


class SegmentRule(Protocol):
    """What to do when, by preference."""

    def wishes(self, episodes: SegmentEpisodes) -> Ints:
        """Wanted actions, (N,); where one is not allowed, the episode goes on, or else stops."""
        ...


class SegmentRulePolicy:
    """Plays a rule: its wish where that is allowed, else SAMPLE, else STOP.

    Args:
        rule: what to do when.
    """

    def __init__(self, rule: SegmentRule) -> None:
        self.rule = rule

    def act(self, episodes: SegmentEpisodes, mask: Bools) -> Ints:
        """The rule's action per episode, (N,)."""
        wanted = self.rule.wishes(episodes)
        on = np.where(mask[:, SAMPLE], SAMPLE, STOP)
        return np.where(mask[np.arange(len(wanted)), wanted], wanted, on)


@dataclass(frozen=True)
class Always:
    """One action at every step: STOP gives up, SAMPLE and ESCALATE(end) make whole attempts."""

    action: int

    def wishes(self, episodes: SegmentEpisodes) -> Ints:
        """The action, everywhere."""
        return np.full(episodes.num_episodes, self.action)


@dataclass(frozen=True)
class FixedLength:
    """Budget forcing: answer after so many segments (s1, Muennighoff et al. 2025, 2501.19393)."""

    segments: int

    def wishes(self, episodes: SegmentEpisodes) -> Ints:
        """Sample so many segments, then stop."""
        return np.where(episodes.segments < self.segments, SAMPLE, STOP)


@dataclass(frozen=True)
class ConfidentStop:
    """Answer as soon as a segment's least log-probability is high enough.

    As in early exits by confidence, for instance DEER (Yang et al. 2025, arXiv 2504.15895).
    """

    threshold: float

    def wishes(self, episodes: SegmentEpisodes) -> Ints:
        """Sample until a segment is confident, then stop."""
        return np.where(episodes.last_min_logprob >= self.threshold, STOP, SAMPLE)


@dataclass(frozen=True)
class RedoUnlikely:
    """Redo every segment whose least log-probability is below a threshold."""

    threshold: float
    draws: int

    def wishes(self, episodes: SegmentEpisodes) -> Ints:
        """Redo while below the threshold and the segment was written less often than `draws`."""
        low = episodes.last_min_logprob < self.threshold
        return np.where(low & (episodes.draw + 1 < self.draws), REVISE, SAMPLE)


@dataclass(frozen=True)
class TakeOverUnlikely:
    """The large model goes on after a segment in which the small one was not confident.

    SpecReason (Pan et al. 2025, arXiv 2504.07891) with the writer's own least log-probability
    as the judge.
    """

    threshold: float
    to_end: bool

    def wishes(self, episodes: SegmentEpisodes) -> Ints:
        """Escalate, for a segment or to the end, after a segment below the threshold."""
        low = episodes.last_min_logprob < self.threshold
        return np.where(low, TO_END if self.to_end else ESCALATE, SAMPLE)


@dataclass(frozen=True)
class PromptRouter:
    """Small model, large model or no answer, by the prompt alone."""

    advantage: float
    floor: float

    def wishes(self, episodes: SegmentEpisodes) -> Ints:
        """Give up below `floor`; escalate where the large model is so much more often right."""
        chance = 1 / (1 + np.exp(-episodes.difficulty))  # (N, R)
        fresh, hopeless = episodes.fresh, chance.max(1) < self.floor
        large = fresh & ~hopeless & (chance[:, -1] - chance[:, 0] >= self.advantage)
        return np.where(fresh & hopeless, STOP, np.where(large, TO_END, SAMPLE))


_THRESHOLDS = (-0.005, -0.01, -0.02, -0.05, -0.1, -0.2, -0.3, -0.5, -0.7, -1.0, -1.5, -2.0, -3.0)


def segment_rule_families(draws: int) -> dict[str, tuple[SegmentRule, ...]]:
    """Every family of rules with the settings that tuning chooses from.

    Args:
        draws: how often a segment may be written.
    """
    return {
        "give up": (Always(STOP),),
        "always go on": (Always(SAMPLE),),
        "always large": (Always(TO_END),),
        "fixed length": tuple(FixedLength(n) for n in (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)),
        "confident stop": tuple(ConfidentStop(t) for t in _THRESHOLDS),
        "redo unlikely segments": tuple(
            RedoUnlikely(t, n) for t in _THRESHOLDS for n in range(2, draws + 1)
        ),
        "SpecReason, a segment": tuple(TakeOverUnlikely(t, False) for t in _THRESHOLDS),
        "SpecReason, to the end": tuple(TakeOverUnlikely(t, True) for t in _THRESHOLDS),
        "prompt-only router": tuple(
            PromptRouter(a, f)
            for a in (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 1.1)
            for f in (0.0, 0.1, 0.2, 0.4, 1.1)
        ),
    }


KINDS = {
    "always large": ("always large",),
    "fixed length": ("fixed length",),
    "stop rules": ("confident stop",),
    "redoing segments": ("redo unlikely segments",),
    "cascades": ("SpecReason, a segment", "SpecReason, to the end"),
    "prompt-only rules": ("prompt-only router",),
    "static mixtures": ("give up", "always go on", "always large", "fixed length"),
}
"""Names of families by kind."""
