"""How hard a question looks, and how long its attempts, before anything has been written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np

from controller.errors import CheckpointError
from controller.policy.readouts import Arrays, Features, Readout, readout_of
from controller.policy.training_range import MARGIN
from controller.process.lockstep import Floats, Ints, Singles
from controller.process.wording import (
    NUM_SHAPE_FEATURES,
    NUM_TEXT_FEATURES,
    shape_features,
    text_features,
)

Reads = Literal["words", "shape", "prompt"]
"""What difficulty is read from: `words` and `shape` are told by the wording, which costs nothing,
`prompt` is the small model's hidden state at the end of the prompt with the shape of the
wording."""

_STRANGE = 3
"""Shapes outside of their ranges that make a wording strange: 0.1% of held-out questions of five
recorded sets have so many; greetings, trivia and bare sums have 4 to 7 on the bundled set."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Difficulty:
    """Read-outs of prompt features, each output a weighted sum of theirs.

    Source: Wolpert 1992, "Stacked generalization"; Breiman 1996, "Stacked regressions".

    Attributes:
        readouts: M of them.
        reads: what each reads.
        weights: (M, R), or (M, 2R) with those of lengths.
        bias: (R,) or (2R,).
        low, high: ranges of the shapes that it was fitted on, (S,), of `shape_features`. How hard a
            question with another one is, is unknown. None for no such ranges.
        plans: read-outs of K plans in the place of arms, (2K,): chances that following each ends
            right, then what that costs as a share of `Plan.cost`. None for no plans.
    """

    readouts: tuple[Readout, ...]
    reads: tuple[Reads, ...]
    weights: Singles
    bias: Singles
    low: Singles | None = None
    high: Singles | None = None
    plans: Difficulty | None = None

    @classmethod
    def alone(cls, readout: Readout, reads: Reads) -> Difficulty:
        """A single read-out as it is."""
        outputs = readout.num_outputs
        return cls(
            readouts=(readout,),
            reads=(reads,),
            weights=np.ones((1, outputs), np.float32),
            bias=np.zeros(outputs, np.float32),
        )

    @property
    def is_free(self) -> bool:
        """Whether no model has to read the prompt for it."""
        return "prompt" not in self.reads

    def of_question(self, text: str, hidden: Features | None) -> Floats | None:
        """`outlook` of a question, (1, ...), and of the hidden state at its prompt's end.

        None if it reads that state, and that is not known.
        """
        reads = self.reads + (self.plans.reads if self.plans else ())
        wording = (text_features if "words" in reads else shape_features)(text)[None]
        read: dict[Reads, Features] = {
            "words": wording,
            "shape": (shape := wording[:, -NUM_SHAPE_FEATURES:]),
        }
        if hidden is not None:
            read["prompt"] = np.concatenate([hidden[None], shape], 1)
        return self.outlook(read.get)

    def outlook(self, features: Callable[[Reads], Features | None]) -> Floats | None:
        """What is to be expected of an attempt of each rung at n questions.

        Args:
            features: (n, H) of what is read, None where that is unknown.

        Returns:
            (n, R) log-odds that it is right, or (n, 2R) with the natural logarithms of its length
            over the rung's mean length after them, and then (n, 2K) log-odds of `plans`; NaN where
            the shape is unlike those that it was fitted on. None if what it reads is unknown.
        """
        read = {reads: features(reads) for reads in dict.fromkeys(self.reads)}
        known = {reads: array for reads, array in read.items() if array is not None}
        if len(known) < len(read):
            return None
        values = self.bias.astype(np.float64)
        for readout, reads, weights in zip(self.readouts, self.reads, self.weights, strict=True):
            values = values + weights.astype(np.float64) * readout(known[reads])  # (n, R or 2R)
        if self.plans is not None:
            of_plans = self.plans.outlook(features)
            if of_plans is None:
                return None
            values = np.hstack([values, of_plans])
        any_read = next(iter(known.values()))
        values[self._outside(any_read[:, -NUM_SHAPE_FEATURES:]) > 0] = np.nan
        return values

    def is_strange(self, text: str) -> bool:
        """Whether a question's wording is unlike all that it was fitted on."""
        return bool(self._outside(shape_features(text)[None])[0] >= _STRANGE)

    def _outside(self, shapes: Features) -> Ints:
        """How many shapes, (n, S), leave their ranges by a margin, or by one not seen, (n,)."""
        if self.low is None or self.high is None:
            return np.zeros(len(shapes), np.int64)
        spread = self.high - self.low
        margin = np.where(spread > 0, MARGIN * spread, np.log(2))
        outside = (shapes < self.low - margin) | (shapes > self.high + margin)
        return np.asarray(outside.sum(1))

    @property
    def kept_reads(self) -> str | list[str]:
        """`reads` as a checkpoint holds them: of a single read-out as it is, without a list.

        Checkpoints from before there were several stay the same to the byte.
        """
        alone = len(self.reads) == 1 and (self.weights == 1).all() and (self.bias == 0).all()
        return self.reads[0] if alone else list(self.reads)

    def arrays(self) -> Arrays:
        """All numbers but those of plans by name, as a checkpoint holds them."""
        alone = isinstance(self.kept_reads, str)
        arrays = {
            name if alone else f"{member}/{name}": array
            for member, readout in enumerate(self.readouts)
            for name, array in readout.arrays().items()
        }
        arrays |= {} if alone else {"weights": self.weights, "bias": self.bias}
        if self.low is not None and self.high is not None:
            arrays |= {"low": self.low, "high": self.high}
        return arrays

    @classmethod
    def from_arrays(
        cls,
        arrays: Arrays,
        num_rungs: int,
        directory: Path,
        *,
        reads: str | Sequence[str],
        name: str = "difficulty",
    ) -> Difficulty:
        """The reverse of `arrays` and `kept_reads`, for R rungs, or of plans for 2K chances.

        `directory` and `name` are for messages.

        Raises:
            CheckpointError: some are missing, or do not fit each other, the ladder or the plans.
        """
        try:
            return cls._of_arrays(dict(arrays), num_rungs, reads)
        except (LookupError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{directory}: {name}/* do not fit a controller of {num_rungs} "
                f"{'rungs' if name == 'difficulty' else 'chances'}: {error}; train again"
            ) from None

    @classmethod
    def _of_arrays(
        cls, arrays: dict[str, Features], num_rungs: int, reads: str | Sequence[str]
    ) -> Difficulty:
        ranges = {name: arrays.pop(name) for name in ("low", "high") if name in arrays}
        if isinstance(reads, str):
            found = cls.alone(*_member(arrays, reads, num_rungs))
        else:
            weights, bias = arrays.pop("weights"), arrays.pop("bias")
            parts: list[dict[str, Features]] = [{} for _ in reads]
            for name, array in arrays.items():
                place, _, part = name.partition("/")
                parts[int(place)][part] = array
            members = [_member(p, r, num_rungs) for p, r in zip(parts, reads, strict=True)]
            readouts, kinds = zip(*members, strict=True)
            if any(weights.shape != (len(members), r.num_outputs) for r in readouts) or (
                bias.shape != weights.shape[1:]
            ):
                raise ValueError(f"expected a weight each, found {weights.shape} and {bias.shape}")
            found = cls(readouts=readouts, reads=kinds, weights=weights, bias=bias)
        shapes = [array.shape for array in ranges.values()]
        least = min(readout.num_inputs for readout in found.readouts)
        if ranges and (
            shapes != [(NUM_SHAPE_FEATURES,)] * 2
            or least < NUM_SHAPE_FEATURES
            or not (ranges["low"] <= ranges["high"]).all()
        ):
            raise ValueError(
                f"expected low and high, {NUM_SHAPE_FEATURES} numbers each, one not above the "
                f"other, found {ranges} of at least {least} features"
            )
        return replace(found, low=ranges.get("low"), high=ranges.get("high"))


_WIDTHS: Mapping[str, int | None] = {
    "words": NUM_TEXT_FEATURES,
    "shape": NUM_SHAPE_FEATURES,
    "prompt": None,
}
"""Features of what is read, where that does not depend on the model."""


def _member(arrays: Arrays, reads: str, num_rungs: int) -> tuple[Readout, Reads]:
    if not isinstance(reads, str) or reads not in _WIDTHS:
        raise ValueError(f"expected to read any of {[*_WIDTHS]}, found {reads!r}")
    width = _WIDTHS[reads] or arrays["mean"].size
    return readout_of(arrays, width, num_rungs), cast("Reads", reads)
