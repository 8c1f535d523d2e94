"""Features: what a policy sees is a table, from which names, documentation and groups follow."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from operator import itemgetter
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Rows = NDArray[np.int64] | slice

TERMS, COUNTS = "price and budget", "what was done"
"""Groups that tell what is asked for and what was done, where others are signals."""

LENGTHS, LOGPROBS = "lengths", "log-probabilities"

_PER_DECADE = np.float32(1 / np.log(10))


@dataclass(frozen=True, kw_only=True, eq=False)
class Scale:
    """How numbers become a feature.

    Attributes:
        text: says so.
        apply: does so to the columns of several features in one call, since at batch 1 a call
            takes longer than its arithmetic; None where the columns are features already.
    """

    text: str
    apply: Callable[[Sequence[Any]], Array] | None = None


def counted(part: float, text: str) -> Scale:
    """Counts, of which each adds `part`."""
    return Scale(text=text, apply=lambda columns: part * _rows(columns))


def _rows(columns: Sequence[Array]) -> Array:
    """Columns (n,) as (k, n); quicker than `np.array`, which looks at every entry first."""
    return np.concatenate(columns).reshape(len(columns), len(columns[0]))


def log10(values: Array) -> NDArray[np.float32]:
    """Through float32, whose logarithm NumPy computes several numbers at a time."""
    return np.log(values.astype(np.float32)) * _PER_DECADE


def quotient(sums: Array, counts: Array) -> Array:
    """Sums per count, 0 where nothing was counted."""
    return sums / np.maximum(counts, 1)


def is_known(values: Array) -> Array:
    """Whether they are numbers: NaN alone differs from itself."""
    return np.equal(values, values)


def _quotients(pairs: Sequence[tuple[Array, Array]]) -> Array:
    sums, counts = zip(*pairs, strict=True)
    return quotient(_rows(sums), _rows(counts))


def _known(columns: Sequence[Array]) -> Array:
    values = _rows(columns)
    return np.where(np.isnan(values), 0.0, values)


FLAG = Scale(text="0 or 1")
PLAIN = Scale(text="as it is")
PER_UNIT = Scale(text="per cost of a typical small attempt")
LOG10 = Scale(text="log10", apply=lambda columns: log10(_rows(columns)))
QUOTIENT = Scale(text="quotient; 0 where nothing was counted", apply=_quotients)
KNOWN = Scale(text="as it is; 0 where unknown", apply=_known)

S = TypeVar("S", contravariant=True)


@dataclass(frozen=True, kw_only=True)
class Feature(Generic[S]):
    """One number that a policy sees.

    Attributes:
        name: in observations, checkpoints and reports.
        group: features that are seen, or for an ablation not seen, together.
        unit: of what `column` gives.
        scale: from there to the number that is seen.
        meaning: in words.
        column: from what is seen of n episodes to (n,), or for QUOTIENT (sums, counts).
    """

    name: str
    group: str
    unit: str
    scale: Scale
    meaning: str
    column: Callable[[S], Any]


def _picker(places: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """Picks some of a list, at the speed of C."""
    if len(places) == 1:
        return lambda values: (values[places[0]],)
    return itemgetter(*places)


class FeatureTable(Generic[S]):
    """Entry i of an observation is the feature that stands at i.

    Args:
        version: goes up whenever a feature comes, goes or changes; see `digest`.
        features: in order.
    """

    def __init__(self, version: int, *features: Feature[S]) -> None:
        self.version, self.features = version, features
        self.names = tuple(feature.name for feature in features)
        self._columns = [feature.column for feature in features]
        self._together: list[tuple[Callable[[Sequence[Any]], Array], Callable[[Any], Any]]] = []
        # Scaled features are added after all columns, and then put where they stand.
        places, added = list(range(len(features))), count(len(features))
        for scale in dict.fromkeys(feature.scale for feature in features):
            if scale.apply is not None:
                chosen = [i for i, feature in enumerate(features) if feature.scale is scale]
                self._together.append((scale.apply, _picker(chosen)))
                for place in chosen:
                    places[place] = next(added)
        self._order = _picker(places)

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Names of the features of each group."""
        groups = dict.fromkeys(feature.group for feature in self.features)
        return {g: tuple(f.name for f in self.features if f.group == g) for g in groups}

    @property
    def digest(self) -> str:
        """Of names, units and scales, in order."""
        said = [(f.name, f.unit, f.scale.text) for f in self.features]
        return hashlib.sha256(repr(said).encode()).hexdigest()[:16]

    def observe(
        self, seen: S, num_rows: int, rows: Rows, out: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Observations of n episodes.

        Args:
            seen: of the episodes.
            num_rows: n.
            rows: where they stand in `out`.
            out: (N, D) observations, in which those of `rows` are replaced.

        Returns:
            `out`, or without it these observations alone, (n, D) float32.
        """
        given = [column(seen) for column in self._columns]
        made = given.copy()
        for apply, pick in self._together:
            made.extend(apply(pick(given)))
        columns = self._order(made)
        if out is None:
            # Features lie side by side in memory: they are computed one after the other.
            return np.concatenate(columns, dtype=np.float32).reshape(len(columns), num_rows).T
        for feature, column in zip(out.T, columns, strict=True):
            feature[rows] = column
        return out


class Asked(Protocol):
    """What episodes of any granularity are about, (n,) each; see `controller.process.episodes`."""

    @property
    def unit(self) -> float:
        """Cost of a typical small attempt."""
        ...

    @property
    def price(self) -> Array:
        """Accuracy per unit cost."""
        ...

    @property
    def bounded(self) -> Array:
        """Whether cost has a hard cap."""
        ...

    @property
    def left(self) -> Array:
        """What is left of it, in cost of typical small attempts; 0 without a cap."""
        ...

    @property
    def difficulty(self) -> Array:
        """Log-odds per rung that an attempt is right, (n, R); NaN if unknown."""
        ...


LOG_PRICE = Feature[Asked](
    name="log_price",
    group=TERMS,
    unit="accuracy per cost of a typical small attempt",
    scale=LOG10,
    meaning="price of compute",
    column=lambda seen: seen.price * seen.unit,
)
BUDGET_KNOWN = Feature[Asked](
    name="budget_known",
    group=TERMS,
    unit="",
    scale=FLAG,
    meaning="whether cost has a hard cap",
    column=lambda seen: seen.bounded,
)
LOG_BUDGET_LEFT = Feature[Asked](
    name="log_budget_left",
    group=TERMS,
    unit="typical small attempts",
    scale=Scale(text="ln(1 + x)"),
    meaning="what is left of the hard cap; 0 without one",
    column=lambda seen: np.log1p(np.maximum(seen.left, 0.0)),
)
_DIFFICULTY = "difficulty of the question"
DIFFICULTY_KNOWN = Feature[Asked](
    name="difficulty_known",
    group=_DIFFICULTY,
    unit="",
    scale=FLAG,
    meaning="whether the prompt was read for how hard the question is",
    column=lambda seen: is_known(seen.difficulty[:, 0]),
)
SMALL_DIFFICULTY = Feature[Asked](
    name="small_difficulty",
    group=_DIFFICULTY,
    unit="log-odds",
    scale=KNOWN,
    meaning="that an attempt of the small model is right, read from the prompt",
    column=lambda seen: seen.difficulty[:, 0],
)
LARGE_DIFFICULTY = Feature[Asked](
    name="large_difficulty",
    group=_DIFFICULTY,
    unit="log-odds",
    scale=KNOWN,
    meaning="that an attempt of the largest model is right, read from the prompt",
    column=lambda seen: seen.difficulty[:, -1],
)


def cost_feature(name: str, of: str, column: Callable[[S], Array]) -> Feature[S]:
    """What an action or the like is expected to cost, at the episode's price."""
    return Feature(
        name=name,
        group="expected cost of actions",
        unit="accuracy",
        scale=LOG10,
        meaning=f"price x expected cost of {of}",
        column=column,
    )
