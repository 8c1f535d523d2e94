"""Hand-made rules for control inside one attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from controller.process.lockstep import Bools, Ints, chance
from controller.segments.episodes import ESCALATE, REVISE, SAMPLE, STOP, TO_END, SegmentEpisodes

Wishes = Callable[..., Ints]
"""From episodes and settings to wanted actions, (N,)."""


@dataclass(frozen=True)
class SegmentRule:
    """Plays a rule: its wish, given its settings, where that is allowed, else SAMPLE, else STOP."""

    wishes: Wishes
    settings: tuple[float, ...] = ()

    def act(self, episodes: SegmentEpisodes, mask: Bools) -> Ints:
        """The rule's action per episode, (N,)."""
        wanted = self.wishes(episodes, *self.settings)
        on = np.where(mask[:, SAMPLE], SAMPLE, STOP)
        return np.where(mask[np.arange(len(wanted)), wanted], wanted, on)

    def __str__(self) -> str:
        return f"{self.wishes.__name__}({', '.join(map(str, self.settings))})"


def always(episodes: SegmentEpisodes, action: int) -> Ints:
    """STOP gives up, SAMPLE and ESCALATE(end) make whole attempts."""
    return np.full(episodes.num_episodes, action)


def fixed_length(episodes: SegmentEpisodes, segments: int) -> Ints:
    """Budget forcing: answer after so many segments (s1, Muennighoff et al. 2025, 2501.19393)."""
    return np.where(episodes.segments < segments, SAMPLE, STOP)


def confident_stop(episodes: SegmentEpisodes, threshold: float) -> Ints:
    """Answer as soon as a segment's least log-probability is high enough.

    As in early exits by confidence, for instance DEER (Yang et al. 2025, arXiv 2504.15895).
    """
    return np.where(episodes.last_min_logprob >= threshold, STOP, SAMPLE)


def redo_unlikely(episodes: SegmentEpisodes, threshold: float, draws: int) -> Ints:
    """Redo, up to so many draws, every segment whose least log-probability is too low."""
    low = episodes.last_min_logprob < threshold
    return np.where(low & (episodes.draw + 1 < draws), REVISE, SAMPLE)


def take_over_unlikely(episodes: SegmentEpisodes, threshold: float, action: int) -> Ints:
    """Let the large model go on after a segment in which the small one was not confident.

    SpecReason (Pan et al. 2025, arXiv 2504.07891) with the writer's own least log-probability
    as the judge.
    """
    return np.where(episodes.last_min_logprob < threshold, action, SAMPLE)


def prompt_router(episodes: SegmentEpisodes, advantage: float, floor: float) -> Ints:
    """Small model, large model if it is more often right by so much, or no answer below `floor`."""
    right = chance(episodes.difficulty)  # (N, R)
    fresh, hopeless = episodes.fresh, right.max(1) < floor
    large = fresh & ~hopeless & (right[:, -1] - right[:, 0] >= advantage)
    return np.where(fresh & hopeless, STOP, np.where(large, TO_END, SAMPLE))


_THRESHOLDS = (-0.005, -0.01, -0.02, -0.05, -0.1, -0.2, -0.3, -0.5, -0.7, -1.0, -1.5, -2.0, -3.0)
_LENGTHS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
_ADVANTAGES, _FLOORS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 1.1), (0.0, 0.1, 0.2, 0.4, 1.1)


def segment_rule_families(draws: int) -> dict[str, list[SegmentRule]]:
    """Families of rules with the settings that tuning chooses from, of up to so many draws."""
    redos = [(t, n) for t in _THRESHOLDS for n in range(2, draws + 1)]
    families: dict[str, tuple[Wishes, list[tuple[float, ...]]]] = {
        "give up": (always, [(STOP,)]),
        "always go on": (always, [(SAMPLE,)]),
        "always large": (always, [(TO_END,)]),
        "fixed length": (fixed_length, [(n,) for n in _LENGTHS]),
        "confident stop": (confident_stop, [(t,) for t in _THRESHOLDS]),
        "redo unlikely segments": (redo_unlikely, [*redos]),
        "SpecReason, a segment": (take_over_unlikely, [(t, ESCALATE) for t in _THRESHOLDS]),
        "SpecReason, to the end": (take_over_unlikely, [(t, TO_END) for t in _THRESHOLDS]),
        "prompt-only router": (prompt_router, [(a, f) for a in _ADVANTAGES for f in _FLOORS]),
    }
    return {
        name: [SegmentRule(wishes, settings) for settings in known]
        for name, (wishes, known) in families.items()
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
