"""Compute at equal accuracy: how much a controller needs of what others do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controller.process.lockstep import Floats
from training.compare.evaluate import Comparison
from training.compare.results import CONTROLLER, EqualAccuracy, Headline, Ratio
from training.compare.simulate import Played

_HEADLINE = np.array([1, 2, 3]) / 3
_CURVE = np.arange(1, 7) / 6
_BESIDE = np.arange(5) / 4
"""Where accuracies lie between what one small attempt reaches and the most that is reached."""
_CHEAPER = "whichever is cheaper"


def cost_at_accuracy(accuracy: Floats, cost: Floats, targets: Floats) -> Floats:
    """Least mean cost at which mixtures of operating points reach accuracies, (B, A); or inf.

    Between two operating points one may toss a coin for each question, so the frontier
    is the lower convex hull of (accuracy, cost), the free point (0, 0) included.

    Args:
        accuracy: of P operating points, (B, P).
        cost: the same.
        targets: (B, A).
    """
    found: Floats = np.where(targets > 0, np.inf, 0.0)
    x, y = np.zeros((2, len(targets), 1))
    # From each corner of the hull to the next one: where it rises least.
    while (further := accuracy > x).any():
        slopes = np.divide(cost - y, accuracy - x, out=np.full(cost.shape, np.inf), where=further)
        corner = slopes.argmin(1)[:, None]
        slope = np.take_along_axis(slopes, corner, 1)
        end = np.where(
            np.any(further, 1, keepdims=True), np.take_along_axis(accuracy, corner, 1), x
        )
        between = (targets > x) & (targets <= end)
        with np.errstate(invalid="ignore"):  # of rows that are at their last corner
            found[between] = (y + slope * (targets - x))[between]
        x, y = end, np.where(end > x, np.take_along_axis(cost, corner, 1), y)
    return found


@dataclass(frozen=True)
class _Reached:
    """Operating points of some policies, (B, N) each: the questions are weighted B times."""

    accuracy: Floats
    cost: Floats

    @property
    def top(self) -> Floats:
        """The highest accuracy, (B,)."""
        return self.accuracy.max(1)

    def costs(self, accuracies: Floats) -> Floats:
        """Compute at so many accuracies, (B, A) each."""
        return cost_at_accuracy(self.accuracy, self.cost, accuracies)


class _Contest:
    """What was played, on the questions as they are and on each resample of them.

    Resampled questions are harder or easier, so each resample has accuracies of its own.
    """

    def __init__(self, comparison: Comparison, weights: Floats) -> None:
        num_questions = weights.shape[1]
        self.weights = np.vstack([np.full(num_questions, 1 / num_questions), weights])  # (1 + B, Q)
        self.played = comparison.played
        self.controller = self.reached([CONTROLLER])
        self.single = self.weights @ self.played[comparison.learning.single][0].right  # (1 + B,)

    def reached(self, names: Sequence[str]) -> _Reached:
        played: list[Played] = [p for name in names for p in self.played[name]]
        right, cost = (np.stack([getattr(p, q) for p in played]) for q in ("right", "cost"))
        return _Reached(self.weights @ right.T, self.weights @ cost.T)

    def between(self, top: Floats, shares: Floats) -> Floats:
        """Accuracies from what one small attempt reaches to the top, (1 + B, A)."""
        return self.single[:, None] + np.maximum(top - self.single, 0)[:, None] * shares


def _over(ours: Floats, theirs: Floats) -> Floats:
    """Ratios of compute; NaN where either does not reach the accuracy."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.isfinite(ours) & np.isfinite(theirs), ours / theirs, np.nan)


def _interval(ratios: Floats) -> tuple[float, float]:
    """Of the first ratio, from all, (1 + B,)."""
    if np.isnan(ratios[0]):
        return float("nan"), float("nan")
    low, high = np.nanquantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def _kinds(comparison: Comparison) -> dict[str, list[str]]:
    """Names of what was played by kind of rule, and other controllers."""
    names = comparison.played
    kinds = {
        "self-consistency": [n for n in names if n.startswith("self-consistency-")],
        "verified best of N": [
            n for n in names if n.startswith("verified best of ") and n[-1] != "n"
        ],
        **comparison.learning.kinds,
        **{name: [name] for name in comparison.others},
    }
    found = {kind: [n for n in members if n in names] for kind, members in kinds.items()}
    return {kind: members for kind, members in found.items() if members}


def headline(comparison: Comparison, weights: Floats) -> dict[str, Headline]:
    """The controller's compute over that of each kind of rule, for resamples' weights (B, Q).

    The ratio is the geometric mean over three accuracies up to the highest that both the
    controller and the best of these rules reach; or at that one, where all of the kind cost the
    same. It is NaN where that is none at all.
    """
    contest, found = _Contest(comparison, weights), {}
    for kind, members in _kinds(comparison).items():
        theirs = contest.reached(members)
        top = np.minimum(contest.controller.top, theirs.top)
        accuracies = contest.between(top, _HEADLINE)
        one_cost = np.ptp(theirs.cost, axis=1) == 0
        single = one_cost | (top <= contest.single)
        accuracies = np.where(single[:, None], top[:, None], accuracies)
        ratios = _over(contest.controller.costs(accuracies), theirs.costs(accuracies))
        mean = np.where(top > 0, np.exp(np.log(ratios).mean(1)), np.nan)
        found[kind] = Headline(
            ratio=float(mean[0]),
            interval=_interval(mean),
            accuracies=tuple(np.unique(accuracies[0]).tolist()),
        )
    return found


def equal_accuracy(comparison: Comparison, weights: Floats) -> tuple[EqualAccuracy, ...]:
    """Compute of all controllers over that of the first other one; nothing without others."""
    if not comparison.others:
        return ()
    contest = _Contest(comparison, weights)
    base, *more = comparison.others
    kinds = {name: [name] for name in (CONTROLLER, *more)}
    kinds[_CHEAPER] = [*kinds, base]
    reached = {kind: contest.reached(members) for kind, members in kinds.items()}
    theirs = contest.reached([base])
    tops = [theirs.top, *(reached[name].top for name in (CONTROLLER, *more))]
    accuracies = contest.between(np.min(tops, axis=0), _BESIDE)
    costs = theirs.costs(accuracies)
    return _rows(accuracies[0], {k: _over(r.costs(accuracies), costs) for k, r in reached.items()})


def by_accuracy(comparison: Comparison, weights: Floats) -> tuple[EqualAccuracy, ...]:
    """The controller's compute over that of each kind of rule, up to what the former reaches."""
    contest = _Contest(comparison, weights)
    accuracies = contest.between(contest.controller.top, _CURVE)
    ours = contest.controller.costs(accuracies)
    kinds = _kinds(comparison)
    return _rows(
        accuracies[0],
        {k: _over(ours, contest.reached(names).costs(accuracies)) for k, names in kinds.items()},
    )


def _rows(accuracies: Floats, ratios: dict[str, Floats]) -> tuple[EqualAccuracy, ...]:
    """A row for each accuracy, (A,), from ratios by name, (1 + B, A)."""
    return tuple(
        EqualAccuracy(
            accuracy=float(accuracy),
            compute={
                name: Ratio(ratio=float(column[0]), interval=_interval(column))
                for name, column in ((name, found[:, i]) for name, found in ratios.items())
            },
        )
        for i, accuracy in enumerate(accuracies)
    )
