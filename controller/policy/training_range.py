"""Where a policy has been in training, so that strange situations are known as such."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.errors import CheckpointError

MARGIN = 0.25
"""How far beyond a feature's range is still near, relative to the range."""


@dataclass(frozen=True, kw_only=True)
class Support:
    """Range of every feature, (D,), over the observations of training."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = self.low.shape
        if len(shape) != 1 or self.high.shape != shape or not (self.low <= self.high).all():
            raise CheckpointError(
                f"support: expected ranges, low to high, found {self.low} and {self.high}"
            )

    @classmethod
    def of(cls, observations: NDArray[np.floating[Any]]) -> Support:
        """Of observations (..., D)."""
        flat = observations.reshape(-1, observations.shape[-1]).astype(np.float64)
        return cls(low=flat.min(0), high=flat.max(0))

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Support:
        """From what `to_json` gave."""
        low, high = (np.array(entry[name], np.float64) for name in ("low", "high"))
        return cls(low=low, high=high)

    def to_json(self) -> dict[str, list[float]]:
        """Plain lists."""
        return {"low": self.low.tolist(), "high": self.high.tolist()}

    def merged(self, other: Support) -> Support:
        """Of both sets of observations."""
        return Support(low=np.minimum(self.low, other.low), high=np.maximum(self.high, other.high))

    def stray(self, observation: Mapping[str, float]) -> str | None:
        """Name of the feature that is farthest outside; None if all are near their ranges.

        A feature that never moved in training must not move now.
        """
        seen = np.fromiter(observation.values(), np.float64)  # (D,)
        outside = np.maximum(self.low - seen, seen - self.high)  # (D,)
        excess = outside - MARGIN * (self.high - self.low)
        worst = int(excess.argmax())
        # Rounding alone does not make a situation strange; NaN does.
        strange = excess[worst] > 1e-6 or np.isnan(excess).any()
        return list(observation)[worst] if strange else None
