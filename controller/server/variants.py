"""Which controller decides: variants side by side, shadows, and a guard for strange cases."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from controller.checkpoint import Checkpoint
from controller.core import Decider
from controller.errors import ConfigError
from controller.policy.deciders import FALLBACK, Guarded, PolicyDecider, RuleDecider, named_rule
from controller.policy.pricing import Pricing
from controller.process.episodes import EpisodeConfig
from controller.server.logs import tell

WINDOW, ENOUGH, TOO_OFTEN = 200, 20, 0.05
"""Of the last questions, so many at least, the guard may decide this share."""


@dataclass
class GuardWatch:
    """The last questions of a variant, by the feature that each strayed by; None for none."""

    variant: str
    last: deque[str | None] = field(default_factory=lambda: deque(maxlen=WINDOW))
    overruled: bool = False

    @property
    def share(self) -> float:
        """Share of the questions that the guard decided."""
        return 1 - self.last.count(None) / len(self.last) if self.last else 0.0

    @property
    def feature(self) -> str | None:
        """By which most of them strayed."""
        strayed = Counter(feature for feature in self.last if feature is not None)
        return strayed.most_common(1)[0][0] if strayed else None

    def note(self, feature: str | None) -> None:
        """A question has come to an end."""
        self.last.append(feature)
        overruled = len(self.last) >= ENOUGH and self.share > TOO_OFTEN
        if overruled == self.overruled:
            return
        self.overruled = overruled
        event = "guard_overrules" if overruled else "guard_is_quiet"
        level = logging.WARNING if overruled else logging.INFO
        tell(event, level, arm=self.variant, share=round(self.share, 3), feature=self.feature)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What people should know; empty while the policy decides."""
        if not self.overruled:
            return ()
        return (
            f"{self.variant}: the guard overrules the policy on {self.share:.0%} of the last "
            f"{len(self.last)} questions, most often because {self.feature} is outside its range "
            "of training; record, train and serve with the same servers, prompts and settings",
        )


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One version that answers a share of the questions.

    Attributes:
        decider: the policy alone.
        pricing: what compute is worth if the request does not set it.
        share: of all questions, relative to the other variants'.
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
    fallback: str | None = FALLBACK

    @property
    def digest(self) -> str:
        """Of the policy's weights."""
        return self.decider.digest

    @cached_property
    def watch(self) -> GuardWatch:
        """How often the guard overrules its policy."""
        return GuardWatch(self.name)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What people should know of who decides."""
        if self.checkpoint.is_finished:
            return self.watch.warnings
        return (f"{self.name}: its training has not ended; hand-made rules decide until then",)

    @property
    def guarded(self) -> bool:
        """Whether there is a guard."""
        ranges = self.checkpoint.support
        return self.always is None and self.fallback is not None and ranges is not None

    def new_decider(self, on_stray: Callable[[str], None], rule: str | None = None) -> Decider:
        """Who decides one question: a rule if its asker names one."""
        always = rule or self.always
        if always is not None:
            return RuleDecider(named_rule(always), always, self.decider)
        if self.fallback is None:
            return self.decider
        return Guarded(self.decider, self.checkpoint, self.fallback, on_stray)


class Variants:
    """All of them; which one answers follows from a hash, so that it stays the same."""

    def __init__(self, variants: Sequence[Variant]) -> None:
        names, shares = [v.name for v in variants], [v.share for v in variants]
        if not variants or min(shares) < 0 or not 0 < sum(shares) < float("inf"):
            raise ConfigError(f"variants: expected shares of 0 or more, not all 0, found {shares}")
        if len(set(names)) < len(names):
            raise ConfigError(f"variants: expected different names, found {names}")
        self.all = tuple(variants)
        self._bounds = np.cumsum(shares) / sum(shares)

    def assign(self, key: str) -> Variant:
        """The one of a caller, conversation or question."""
        digest = hashlib.blake2b(f"allot\0{key}".encode(), digest_size=8).digest()
        place = int.from_bytes(digest, "big") / 2**64
        position = int(np.searchsorted(self._bounds, place, side="right"))
        return self.all[min(position, len(self.all) - 1)]
