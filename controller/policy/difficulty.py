"""How hard a question looks, and how long its attempts, before anything has been written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from controller.errors import CheckpointError
from controller.policy.training_range import MARGIN
from controller.process.wording import (
    NUM_SHAPE_FEATURES,
    NUM_TEXT_FEATURES,
    shape_features,
    text_features,
)

Reads = Literal["words", "shape", "prompt"]
"""What difficulty is read from."""

_STRANGE = 3
"""Shapes outside of their ranges that make a wording strange: 0.1% of held-out questions of five
recorded sets have so many; greetings, trivia and bare sums have 4 to 7 on the bundled set."""


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """A read-out of prompt features: a ReLU network, or a single linear layer.

    Attributes:
        mean, scale: (H,) of the features that it was fitted on.
        weights: of each layer, (inputs, outputs); the first has H inputs, the last R outputs, or
            2R with those of lengths.
        biases: of each layer, (outputs,).
        reads: what its features are: `words` and `shape` are told by the wording, which costs
            nothing, `prompt` is the small model's hidden state at the end of the prompt with the
            shape of the wording.
        low, high: ranges of the shapes that it was fitted on, (S,), of `shape_features`. How hard a
            question with another one is, is unknown. None for no such ranges.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    weights: tuple[NDArray[np.float32], ...]
    biases: tuple[NDArray[np.float32], ...]
    reads: Reads = "prompt"
    low: NDArray[np.float32] | None = None
    high: NDArray[np.float32] | None = None

    @property
    def is_free(self) -> bool:
        """Whether no model has to read the prompt for it."""
        return self.reads != "prompt"

    def of_question(
        self, text: str, hidden: NDArray[np.float32] | None
    ) -> NDArray[np.float64] | None:
        """`outlook` of a question.

        Args:
            text: the question.
            hidden: the small model's hidden state at the end of its prompt, None if unknown.

        Returns:
            (1, R or 2R), or None if it reads the hidden state and that is unknown.
        """
        if self.reads == "words":
            features = text_features(text)
        elif self.reads == "shape":
            features = shape_features(text)
        elif hidden is not None:
            features = np.concatenate([hidden, shape_features(text)])
        else:
            return None
        return self.outlook(features[None])

    def outlook(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """What is to be expected of an attempt of each rung.

        Args:
            features: (n, H).

        Returns:
            (n, R) log-odds that it is right, or (n, 2R) with the natural logarithms of its length
            over the rung's mean length after them; NaN where the shape is unlike those that it
            was fitted on.
        """
        values = ((features - self.mean) / self.scale).astype(np.float64)  # (n, H)
        for layer, (weight, bias) in enumerate(zip(self._weights, self.biases, strict=True)):
            if layer:
                values = np.maximum(values, 0.0)
            # einsum sums in one order whatever n is, where a matrix product may not.
            values = np.einsum("nh,hr->nr", values, weight) + bias
        values[self._outside(features) > 0] = np.nan
        return values

    def is_strange(self, text: str) -> bool:
        """Whether a question's wording is unlike all that it was fitted on."""
        return bool(self._outside(shape_features(text)[None])[0] >= _STRANGE)

    def _outside(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        """How many shapes leave their ranges by a margin, or by one of a kind not seen, (n,)."""
        if self.low is None or self.high is None:
            return np.zeros(len(features), np.int64)
        shapes, spread = features[:, -NUM_SHAPE_FEATURES:], self.high - self.low
        margin = np.where(spread > 0, MARGIN * spread, np.log(2))
        outside = (shapes < self.low - margin) | (shapes > self.high + margin)
        return np.asarray(outside.sum(1))

    @cached_property
    def _weights(self) -> tuple[NDArray[np.float64], ...]:
        return tuple(weight.astype(np.float64) for weight in self.weights)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """All numbers by name, as a checkpoint holds them."""
        arrays = {"mean": self.mean, "scale": self.scale}
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            arrays |= {f"{layer}/weight": weight, f"{layer}/bias": bias}
        if self.low is not None and self.high is not None:
            arrays |= {"low": self.low, "high": self.high}
        return arrays

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, NDArray[np.float32]],
        num_rungs: int,
        directory: Path,
        *,
        reads: Reads,
    ) -> Difficulty:
        """The reverse of `arrays`.

        Args:
            arrays: by name.
            num_rungs: R.
            directory: of the checkpoint, for messages.
            reads: as in the attribute.

        Raises:
            CheckpointError: some are missing, or do not fit each other or the ladder.
        """
        ranges = {name: arrays[name] for name in ("low", "high") if name in arrays}
        arrays = {name: array for name, array in arrays.items() if name not in ranges}
        layers = range(max(1, (len(arrays) - 2) // 2))
        names = ["mean", "scale", *(f"{n}/{kind}" for n in layers for kind in ("weight", "bias"))]
        if set(names) != set(arrays):
            raise CheckpointError(
                f"{directory}: expected tensors {names} under difficulty/, found {sorted(arrays)}"
            )
        mean, scale, *rest = (arrays[name] for name in names)
        weights, biases = tuple(rest[::2]), tuple(rest[1::2])
        wanted = {"words": NUM_TEXT_FEATURES, "shape": NUM_SHAPE_FEATURES, "prompt": mean.size}
        # It comes from a file, where it may be anything.
        if not isinstance(reads, str) or mean.size != wanted.get(reads):
            raise CheckpointError(
                f"{directory}: expected a read-out of any of {wanted}, found {reads!r} with "
                f"{mean.shape}; train again"
            )
        shapes = [array.shape for array in (scale, *biases)]
        widths = [mean.size, *(bias.size for bias in biases)]
        if (
            shapes != [(width,) for width in widths]
            or [weight.shape for weight in weights] != list(pairwise(widths))
            or widths[-1] not in (num_rungs, 2 * num_rungs)
        ):
            raise CheckpointError(
                f"{directory}: difficulty/* do not fit {num_rungs} rungs and {mean.size} features: "
                f"found scale and biases {shapes}, weights {[weight.shape for weight in weights]}"
            )
        if ranges and (
            mean.size < NUM_SHAPE_FEATURES
            or [array.shape for array in ranges.values()] != [(NUM_SHAPE_FEATURES,)] * 2
            or not (ranges["low"] <= ranges["high"]).all()
        ):
            raise CheckpointError(
                f"{directory}: expected difficulty/low and difficulty/high, {NUM_SHAPE_FEATURES} "
                f"numbers each, one not above the other, found {ranges}; train again"
            )
        return cls(mean=mean, scale=scale, weights=weights, biases=biases, reads=reads, **ranges)
