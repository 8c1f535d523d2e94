"""Features: what a policy sees is a table, from which names, documentation and groups follow."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np

from controller.errors import ConfigError
from controller.process.actions import ActionSpec
from controller.process.lockstep import (
    Array,
    Floats,
    Lockstep,
    Rows,
    Singles,
    at_least,
    stacked,
    where,
)
from controller.registry import Registry

TERMS, COUNTS = "price and budget", "what was done"
"""Groups that tell what is asked for and what was done, where others are signals."""

LENGTHS, LOGPROBS = "lengths", "log-probabilities"

_PER_DECADE = np.float32(1 / np.log(10))


@dataclass(frozen=True, kw_only=True, eq=False)
class Scale:
    """How numbers become a feature.

    Attributes:
        text: says so.
        apply: does so to the columns of several features, (k, ...), in one call, since at batch 1
            a call takes longer than its arithmetic. Features of two columns bring all first ones,
            then all second ones.
    """

    text: str
    apply: Callable[[Floats], Array] = lambda columns: columns


def counted(part: float, text: str) -> Scale:
    """Counts, of which each adds `part`."""
    return Scale(text=text, apply=lambda columns: part * columns)


def _log10(columns: Floats) -> Array:
    # Through float32, whose logarithm NumPy computes several numbers at a time.
    return np.log(columns.astype(np.float32)) * _PER_DECADE


def quotient(sums: Array, counts: Array) -> Array:
    """Sums per count, 0 where nothing was counted."""
    return sums / at_least(counts, 1)


def is_known(values: Array) -> Array:
    """Whether they are numbers: NaN alone differs from itself."""
    return operator.eq(values, values)


def _quotients(columns: Floats) -> Array:
    half = len(columns) // 2
    return quotient(columns[:half], columns[half:])


FLAG = Scale(text="0 or 1")
PLAIN = Scale(text="as it is")
PER_UNIT = Scale(text="per cost of a typical small attempt")
LOG10 = Scale(text="log10", apply=_log10)
QUOTIENT = Scale(text="quotient; 0 where nothing was counted", apply=_quotients)
KNOWN = Scale(text="as it is; 0 where unknown", apply=lambda x: np.where(is_known(x), x, 0.0))


Column = str | Callable[[Any], Array]
"""Name of an array of the episodes, or from `Seen` to (n,), or (R, n) for a number of each arm."""


@dataclass(frozen=True)
class Feature:
    """One number that a policy sees, or one of each arm: a row of the table.

    Attributes:
        name: in observations, checkpoints and reports.
        group: features that are seen, or for an ablation not seen, together.
        unit: of the column.
        scale: from there to the number that is seen.
        column: what it is made of; of QUOTIENT sums and counts.
        meaning: in words.
        arms: of each of which there is such a number.
    """

    name: str
    group: str
    unit: str
    scale: Scale
    column: Column | tuple[Column, Column]
    meaning: str
    arms: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """In observations."""
        return tuple(f"{arm}: {self.name}" for arm in self.arms) or (self.name,)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Its columns, one or two."""
        return self.column if isinstance(self.column, tuple) else (self.column,)


@dataclass(frozen=True)
class FromWording:
    """A column that a question's wording tells, before its first attempt.

    Attributes:
        read: from the text to the number; called once per question.
    """

    read: Callable[[str], float]

    def __call__(self, seen: Seen) -> Array:
        """(n,)."""
        return seen.e.readings.T[seen.e.config.readings.index(self.read)]


class Seen:
    """What columns are computed from, of n episodes.

    Attributes:
        e: the episodes.
        unit: cost of a typical small attempt.
        bounded: whether cost has a hard cap, (n,).
        left: of that cap, in units; 0 without one, (n,).
        costs: price x expected cost of the actions that have one, (P, n).
    """

    def __init__(self, episodes: Any) -> None:
        e = self.e = episodes
        # As a number of NumPy's, which its whole numbers are divided by at eight times the speed.
        self.unit = np.float64(e.config.cost_unit)
        self.bounded = e.budget < np.inf
        self.left = where(self.bounded, e.budget - e.spent, 0.0) / self.unit
        self.costs = e.price * np.maximum(e.expected_cost(), 1.0)


def _getter(of: Any, wanted: Sequence[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Gets several things in one call, at the speed of C."""
    if len(wanted) > 1:
        return of(*wanted)
    return lambda whole: tuple(of(name)(whole) for name in wanted)


class FeatureTable:
    """Entry i of an observation is the feature that stands at i.

    The version goes up whenever a feature comes, goes or changes; see `digest`. The last `added`
    ones are from outside, and checked whenever they are computed.
    """

    def __init__(
        self, version: int, *features: Feature, seen: type[Seen] = Seen, added: int = 0
    ) -> None:
        self.version, self.features, self._seen = version, features, seen
        self._added = features[len(features) - added :]
        self.names = tuple(chain(*(feature.names for feature in features)))
        if repeated := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise ConfigError(f"features: expected distinct names, found {repeated} twice")
        widths: dict[Column, int] = {c: len(f.names) for f in features for c in f.columns}
        named = [column for column in widths if isinstance(column, str)]
        self._named = _getter(attrgetter, named)
        computed = [column for column in widths if not isinstance(column, str)]
        self._computed = [column for column in computed if widths[column] == 1]
        self._of_arms = [column for column in computed if widths[column] > 1]
        places: dict[Column, range] = {}
        given: list[Column] = [*named, *self._computed, *self._of_arms]
        end = 0
        for column in given:
            places[column] = range(end, end := end + widths[column])
        self._scaled: list[tuple[Callable[[Floats], Array], slice]] = []
        wanted: list[int] = []
        made: list[str] = []
        for apply in dict.fromkeys(feature.scale.apply for feature in features):
            chosen, start = [f for f in features if f.scale.apply is apply], len(wanted)
            for column in chain(*zip(*(feature.columns for feature in chosen), strict=True)):
                wanted += places[column]
            self._scaled.append((apply, slice(start, len(wanted))))
            made += chain(*(feature.names for feature in chosen))
        self._pick = _getter(itemgetter, wanted)
        self._order = np.array([made.index(name) for name in self.names])

    def __len__(self) -> int:
        return len(self.names)

    def followed_by(self, *more: Feature, outside: int = 0) -> FeatureTable:
        """The same with further features at the end, the last `outside` ones from outside."""
        return FeatureTable(self.version, *self.features, *more, seen=self._seen, added=outside)

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Names of the features of each group."""
        groups = dict.fromkeys(feature.group for feature in self.features)
        return {g: tuple(chain(*(f.names for f in self.features if f.group == g))) for g in groups}

    @property
    def digest(self) -> str:
        """Of names, units and scales, in order."""
        said = [(name, f.unit, f.scale.text) for f in self.features for name in f.names]
        return hashlib.sha256(repr(said).encode()).hexdigest()[:16]

    def observe(self, episodes: Lockstep, rows: Rows = None, out: Singles | None = None) -> Singles:
        """Observations of `rows`, (n, D) float32, or `out`, (N, D), with these in their places.

        Raises:
            ConfigError: a feature from outside is no finite number of each episode.
        """
        e = episodes.looked_at(rows)
        seen = self._seen(e)
        computed = [column(seen) for column in self._computed]
        if self._added:
            self._check_shapes(dict(zip(self._computed, computed, strict=True)), seen)
        given = [*self._named(e), *computed]
        for column in self._of_arms:
            given.extend(column(seen))
        whole = stacked(self._pick(given), np.float64)
        made = [apply(whole[rows]) for apply, rows in self._scaled]
        # Features lie side by side in memory: they are computed one after the other.
        columns = np.concatenate(made, dtype=np.float32).reshape(len(self.names), -1)[self._order]
        for place, feature in enumerate(self._added, -len(self._added)):
            column = columns[place]
            if not np.isfinite(column).all():
                raise ConfigError(
                    f"feature {feature.name}: expected finite numbers, found {column} after its "
                    f"scale, {feature.scale.text}"
                )
        if out is None:
            return columns.T
        for feature, column in zip(out.T, columns, strict=True):
            feature[rows] = column
        return out

    def _check_shapes(self, columns: Mapping[Column, Any], seen: Seen) -> None:
        """Refuse columns from outside that are no number of each episode."""
        wanted = np.shape(seen.bounded)
        for feature in self._added:
            for column in feature.columns:
                found = np.asarray(columns.get(column, seen.bounded))
                if found.shape != wanted or found.dtype.kind not in "biuf":
                    raise ConfigError(
                        f"feature {feature.name}: expected numbers of shape {wanted}, one of each "
                        f"episode, found {found}"
                    )


OWN_FEATURES: Registry[Feature] = Registry("own_features")
"""Features that callers added; processes that name them show them after the others."""


def register_feature(feature: Feature) -> Feature:
    """Add a feature of whole attempts from outside: `EpisodeConfig(own_features=(name,))` shows it.

    Its column is made of `controller.process.episodes.Episodes`, or of the wording (`FromWording`).

    Raises:
        ConfigError: the name is no identifier, or the feature is one of each arm.
    """
    if feature.arms:
        raise ConfigError(f"{feature.name}: expected no `arms`, found {feature.arms}")
    return OWN_FEATURES.register(feature.name, feature)


THINKING = register_feature(
    Feature(
        "last_thinking",
        LENGTHS,
        "share of tokens",
        PLAIN,
        "last_thinking",
        "of the latest attempt, those that were thinking",
    )
).name
"""Seen where attempts that think were recorded."""

_DIFFICULTY = "difficulty of the question"

# fmt: off
LOG_PRICE = Feature(
    "log_price", TERMS, "accuracy per cost of a typical small attempt", LOG10,
    lambda s: s.e.price * s.unit, "price of compute")
BUDGET = (
    Feature("budget_known", TERMS, "", FLAG, lambda s: s.bounded, "whether cost has a hard cap"),
    Feature("log_budget_left", TERMS, "typical small attempts", Scale(text="ln(1 + x)"),
            lambda s: np.log1p(at_least(s.left, 0.0)),
            "what is left of the hard cap; 0 without one"),
)
DIFFICULTY = (
    Feature("difficulty_known", _DIFFICULTY, "", FLAG, lambda s: is_known(s.e.difficulty.T[0]),
            "whether the prompt was read for how hard the question is"),
    Feature("small_difficulty", _DIFFICULTY, "log-odds", KNOWN, lambda s: s.e.difficulty.T[0],
            "that an attempt of the small model is right, read from the prompt"),
    Feature("large_difficulty", _DIFFICULTY, "log-odds", KNOWN, lambda s: s.e.difficulty.T[-1],
            "that an attempt of the largest model is right, read from the prompt"),
)
# fmt: on


def last_logprobs(of: str) -> tuple[Feature, Feature, Feature]:
    """What is known of the tokens that were written last, by what they make up."""
    # fmt: off
    return (
        Feature("logprob_known", LOGPROBS, "", FLAG, lambda s: is_known(s.e.last_logprob),
                f"whether log-probabilities of the {of} are known"),
        Feature("last_mean_logprob", LOGPROBS, "nats", KNOWN, "last_logprob",
                f"mean log-probability of the {of}'s tokens"),
        Feature("last_min_logprob", LOGPROBS, "nats", KNOWN, "last_min_logprob",
                "the least of them"),
    )
    # fmt: on


def expected_costs(priced: Mapping[Any, ActionSpec], first: int = 0) -> tuple[Feature, ...]:
    """What actions are expected to cost, at the episode's price, from row `first` of the costs."""

    def row(place: int) -> Callable[[Seen], Array]:
        return lambda seen: seen.costs[place]

    return tuple(
        Feature(
            f"{name}_price",
            "expected cost of actions",
            "accuracy",
            LOG10,
            row(place),
            f"price x expected cost of {spec.paid_for}",
        )
        for place, (name, spec) in enumerate(priced.items(), first)
    )
