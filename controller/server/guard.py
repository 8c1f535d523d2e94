"""How often the guard overrules a policy, and when that is too often."""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass, field

_log = logging.getLogger("allot.service")

WINDOW, ENOUGH, TOO_OFTEN = 200, 20, 0.05


@dataclass
class GuardWatch:
    """The last questions of an arm.

    Attributes:
        arm: its name, for the log.
        last: feature by which each question strayed; None where the policy decided.
        overruled: whether the guard overrules too often.
    """

    arm: str
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
        log = _log.warning if overruled else _log.info
        fields = {"arm": self.arm, "share": round(self.share, 3), "feature": self.feature}
        log("guard_overrules" if overruled else "guard_is_quiet", extra={"fields": fields})

    @property
    def warnings(self) -> tuple[str, ...]:
        """What people should know; empty while the policy decides."""
        if not self.overruled:
            return ()
        return (
            f"{self.arm}: the guard overrules the policy on {self.share:.0%} of the last "
            f"{len(self.last)} questions, most often because {self.feature} is outside its range "
            "of training; record, train and serve with the same servers, prompts and settings",
        )
