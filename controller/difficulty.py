"""How hard a question looks to the small model before it writes anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """A linear read-out of the small model's prompt state.

    Attributes:
        weight: (H, R).
        bias: (R,).
        mean, scale: (H,) of the hidden states that it was fitted on.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]

    def log_odds(self, hidden: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log-odds that an attempt of each rung is right.

        Args:
            hidden: (n, H).

        Returns:
            (n, R).
        """
        features = (hidden - self.mean) / self.scale  # (n, H)
        # einsum sums in one order whatever n is, where a matrix product may not.
        logits = np.einsum("nh,hr->nr", features.astype(np.float64), self.weight.astype(np.float64))
        return np.asarray(logits + self.bias)
