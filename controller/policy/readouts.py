"""Read-outs: small models that tell from features of a prompt what attempts at it come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np

from controller.process.lockstep import Floats, Ints, Singles

Arrays = Mapping[str, Singles]
Features = Singles

_LEAST_CHANCE = 1e-3
_QUESTIONS_AT_ONCE = 4096


class Readout(Protocol):
    """From H features to values of R rungs: log-odds, and lengths after them or none."""

    @property
    def num_inputs(self) -> int:
        """H."""

    @property
    def num_outputs(self) -> int:
        """R, or 2R with lengths."""

    def __call__(self, features: Features) -> Floats:
        """(n, num_outputs) of features (n, H); the same bits whatever n is."""

    def arrays(self) -> Arrays:
        """All numbers by name, as a checkpoint holds them."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A ReLU network, or a single linear layer.

    Attributes:
        mean, scale: (H,) of the features that it was fitted on.
        weights: of each layer, (inputs, outputs).
        biases: of each layer, (outputs,).

    Raises:
        ValueError: shapes do not fit each other.
    """

    mean: Singles
    scale: Singles
    weights: tuple[Singles, ...]
    biases: tuple[Singles, ...]

    def __post_init__(self) -> None:
        widths = [self.mean.size, *(bias.size for bias in self.biases)]
        shapes = [array.shape for array in (self.mean, self.scale, *self.biases)]
        if (
            not self.weights
            or shapes != [(width,) for width in (widths[0], *widths)]
            or [weight.shape for weight in self.weights] != list(pairwise(widths))
        ):
            raise ValueError(
                f"expected layers that fit each other, found mean, scale and biases {shapes}, "
                f"weights {[weight.shape for weight in self.weights]}"
            )

    @property
    def num_inputs(self) -> int:
        """See `Readout`."""
        return self.mean.size

    @property
    def num_outputs(self) -> int:
        """See `Readout`."""
        return self.biases[-1].size

    def __call__(self, features: Features) -> Floats:
        """See `Readout`."""
        values = ((features - self.mean) / self.scale).astype(np.float64)  # (n, H)
        for layer, (weight, bias) in enumerate(zip(self._weights, self.biases, strict=True)):
            if layer:
                values = np.maximum(values, 0.0)
            # einsum sums in one order whatever n is, where a matrix product may not.
            values = np.einsum("nh,hr->nr", values, weight) + bias
        return values

    @cached_property
    def _weights(self) -> tuple[Floats, ...]:
        return tuple(weight.astype(np.float64) for weight in self.weights)

    def arrays(self) -> Arrays:
        """See `Readout`."""
        layers = enumerate(zip(self.weights, self.biases, strict=True))
        named = {f"{n}/{k}": a for n, pair in layers for k, a in zip(_PARTS, pair, strict=True)}
        return {"mean": self.mean, "scale": self.scale, **named}


@dataclass(frozen=True, kw_only=True)
class Forest:
    """Regression trees on shares of right attempts, and on lengths; the mean of all counts.

    Attributes:
        nodes: (M, 4) feature, threshold, and the places of the nodes for values up to it and above
            it; of a leaf -1, 0, and twice its row in `leaves`. Trees follow one another.
        roots: (T,) places of the first nodes.
        leaves: (L, R or 2R) shares of right attempts, then lengths.
        num_inputs, num_rungs: H and R.

    Raises:
        ValueError: nodes point to what is not there, or backwards.
    """

    nodes: Singles
    roots: Singles
    leaves: Singles
    num_inputs: int
    num_rungs: int

    def __post_init__(self) -> None:
        if not self._fits():
            raise ValueError(
                f"expected trees of {self.num_inputs} features for {self.num_rungs} rungs, found "
                f"nodes {self.nodes.shape}, roots {self.roots.shape} and leaves "
                f"{self.leaves.shape} that do not fit each other"
            )

    def _fits(self) -> bool:
        nodes, roots, leaves = self.nodes, self.roots, self.leaves
        outputs = self.num_rungs, 2 * self.num_rungs
        if (nodes.ndim, roots.ndim, leaves.ndim) != (2, 1, 2) or leaves.shape[1] not in outputs:
            return False
        if nodes.shape[1] != 4 or not roots.size:
            return False
        whole = nodes[:, [0, 2, 3]]
        if any((array != np.rint(array)).any() for array in (whole, roots)):
            return False
        feature, after = whole[:, :1], whole[:, 1:]
        # Places that only rise end every walk.
        least = np.where(feature >= 0, np.arange(len(nodes))[:, None] + 1, 0)
        most = np.where(feature >= 0, len(nodes), len(leaves))
        fits = [
            (feature >= -1) & (feature < self.num_inputs),
            (after >= least) & (after < most),
            (roots >= 0) & (roots < len(nodes)),
        ]
        return all(bool(each.all()) for each in fits)

    @property
    def num_outputs(self) -> int:
        """See `Readout`."""
        return int(self.leaves.shape[1])

    def __call__(self, features: Features) -> Floats:
        """See `Readout`."""
        starts = range(0, max(len(features), 1), _QUESTIONS_AT_ONCE)
        means = np.concatenate([self._means(features[n : n + _QUESTIONS_AT_ONCE]) for n in starts])
        chances = np.clip(means[:, : self.num_rungs], _LEAST_CHANCE, 1 - _LEAST_CHANCE)
        return np.concatenate([np.log(chances / (1 - chances)), means[:, self.num_rungs :]], 1)

    def _means(self, features: Features) -> Floats:
        """Over all trees, (n, R or 2R)."""
        feature, threshold, low, high, roots = self._columns
        rows = np.arange(len(features))
        places = np.tile(roots[:, None], len(features))  # (T, n)
        while (inner := feature[places] >= 0).any():
            above = features[rows, feature[places]] > threshold[places]
            places = np.where(inner, np.where(above, high[places], low[places]), places)
        # Trees come first, so that they are summed in one order whatever n is.
        return np.asarray(self.leaves[low[places]].sum(0, dtype=np.float64) / len(places))

    @cached_property
    def _columns(self) -> tuple[Ints, Features, Ints, Ints, Ints]:
        feature, threshold, *places = self.nodes.T
        low, high, roots = (array.astype(int) for array in (*places, self.roots))
        return feature.astype(int), threshold.copy(), low, high, roots

    def arrays(self) -> Arrays:
        """See `Readout`."""
        return {"nodes": self.nodes, "roots": self.roots, "leaves": self.leaves}


_PARTS = "weight", "bias"


def readout_of(arrays: Arrays, num_inputs: int, num_rungs: int) -> Readout:
    """The reverse of `Readout.arrays`, for H inputs and R rungs.

    Raises:
        ValueError: some are missing, or do not fit each other, H or R.
    """
    layers = range((len(arrays) - 2) // 2)
    wanted = ("mean", "scale", *(f"{n}/{part}" for n in layers for part in _PARTS))
    readout: Readout
    if set(arrays) == {"nodes", "roots", "leaves"}:
        readout = Forest(**arrays, num_inputs=num_inputs, num_rungs=num_rungs)
    elif set(arrays) == set(wanted):
        mean, scale, *rest = (arrays[name] for name in wanted)
        readout = Network(
            mean=mean, scale=scale, weights=tuple(rest[::2]), biases=tuple(rest[1::2])
        )
    else:
        raise ValueError(f"expected tensors {list(wanted)} or those of trees, found {[*arrays]}")
    if readout.num_inputs != num_inputs or readout.num_outputs not in (num_rungs, 2 * num_rungs):
        raise ValueError(
            f"expected {num_inputs} features and {num_rungs} rungs, found {readout.num_inputs} "
            f"features and {readout.num_outputs} outputs"
        )
    return readout
