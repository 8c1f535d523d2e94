"""Where a policy has been in training, so that strange situations are known as such."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.errors import CheckpointError

MARGIN = 0.25
"""How far beyond a feature's range is still near, relative to the range."""


@dataclass(frozen=True, kw_only=True)
class Support:
    """Range of every feature, (D,), over the observations of training."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        fits = len(self.low) == len(self.high) and (np.array(self.low) <= self.high).all()
        if not fits:
            raise CheckpointError(
                f"support: expected ranges, low to high, found {self.low} and {self.high}"
            )

    @cached_property
    def _near(self) -> NDArray[np.float64]:
        """From where to where a feature is near its range, (2, D)."""
        low, high = np.array((self.low, self.high))
        return np.array((low - MARGIN * (high - low), high + MARGIN * (high - low)))

    @classmethod
    def of(cls, observations: NDArray[np.floating[Any]]) -> Support:
        """Of observations (..., D)."""
        flat = observations.reshape(-1, observations.shape[-1]).astype(np.float64)
        return cls(low=tuple(flat.min(0).tolist()), high=tuple(flat.max(0).tolist()))

    def stray(self, observation: Mapping[str, float]) -> str | None:
        """Name of the feature that is farthest outside; None if all are near their ranges.

        A feature that never moved in training must not move now.
        """
        seen = np.fromiter(observation.values(), np.float64)  # (D,)
        low, high = self._near
        excess = np.maximum(low - seen, seen - high)  # (D,)
        worst = int(excess.argmax())
        # Rounding alone does not make a situation strange; NaN does.
        strange = excess[worst] > 1e-6 or np.isnan(excess).any()
        return list(observation)[worst] if strange else None
