"""How hard a question looks to the small model before it writes anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from controller.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """A read-out of the small model's prompt state: a ReLU network, or a single linear layer.

    Attributes:
        mean, scale: (H,) of the hidden states that it was fitted on.
        weights: of each layer, (inputs, outputs); the first has H inputs, the last R outputs.
        biases: of each layer, (outputs,).
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    weights: tuple[NDArray[np.float32], ...]
    biases: tuple[NDArray[np.float32], ...]

    def log_odds(self, hidden: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log-odds that an attempt of each rung is right.

        Args:
            hidden: (n, H).

        Returns:
            (n, R).
        """
        values = ((hidden - self.mean) / self.scale).astype(np.float64)  # (n, H)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if layer:
                values = np.maximum(values, 0.0)
            # einsum sums in one order whatever n is, where a matrix product may not.
            values = np.einsum("nh,hr->nr", values, weight.astype(np.float64)) + bias
        return values

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """All numbers by name, as a checkpoint holds them."""
        arrays = {"mean": self.mean, "scale": self.scale}
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            arrays |= {f"{layer}/weight": weight, f"{layer}/bias": bias}
        return arrays

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[np.float32]], num_rungs: int, directory: Path
    ) -> Difficulty:
        """The reverse of `arrays`.

        Args:
            arrays: by name.
            num_rungs: R.
            directory: of the checkpoint, for messages.

        Raises:
            CheckpointError: some are missing, or do not fit each other or the ladder.
        """
        layers = range(max(1, (len(arrays) - 2) // 2))
        names = ["mean", "scale", *(f"{n}/{kind}" for n in layers for kind in ("weight", "bias"))]
        if set(names) != set(arrays):
            raise CheckpointError(
                f"{directory}: expected tensors {names} under difficulty/, found {sorted(arrays)}"
            )
        mean, scale, *rest = (arrays[name] for name in names)
        weights, biases = tuple(rest[::2]), tuple(rest[1::2])
        shapes = [array.shape for array in (scale, *biases)]
        widths = [mean.size, *(bias.size for bias in biases)]
        if (
            shapes != [(width,) for width in widths]
            or [weight.shape for weight in weights] != list(pairwise(widths))
            or widths[-1] != num_rungs
        ):
            raise CheckpointError(
                f"{directory}: difficulty/* do not fit {num_rungs} rungs and {mean.size} features: "
                f"found scale and biases {shapes}, weights {[weight.shape for weight in weights]}"
            )
        return cls(mean=mean, scale=scale, weights=weights, biases=biases)
