"""Tables, intervals and claims from a comparison.

Intervals come from a paired bootstrap over questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.policy.rules import STATIC
from training.compare.evaluate import CONTROLLER, Comparison
from training.compare.simulate import Played
from training.learn.seeds import summarise_seeds

Floats = NDArray[np.float64]

_RESAMPLES = 200
"""For ratios of compute, which take long."""
_ACCURACIES = 5
_CHEAPER = "whichever is cheaper"


class Bootstrap:
    """Paired bootstrap over questions.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.

    Args:
        num_questions: Q.
        resamples: B.
        seed: of the resamples.
    """

    def __init__(self, num_questions: int, resamples: int = 2000, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        counts = rng.multinomial(
            num_questions, np.full(num_questions, 1 / num_questions), resamples
        )
        self.weights = counts / num_questions  # (B, Q)

    def means(self, values: Floats) -> Floats:
        """Mean of `values`, (Q,) or (Q, m), in each resample: (B,) or (B, m)."""
        return np.asarray(self.weights @ values)

    def interval(self, values: Floats) -> tuple[float, float]:
        """95% interval of the mean of `values`, (Q,)."""
        low, high = np.quantile(self.means(values), [0.025, 0.975])
        return float(low), float(high)


def cost_at_accuracy(accuracy: Floats, cost: Floats, target: float) -> float:
    """Least mean cost at which mixtures of given operating points reach an accuracy.

    Between two operating points one may toss a coin for each question, so the frontier
    is the lower convex hull of (accuracy, cost), the free point (0, 0) included.

    Args:
        accuracy: (P,).
        cost: (P,).
        target: accuracy to reach.

    Returns:
        Cost; inf if no mixture reaches the target.
    """
    x, y = np.append(accuracy, 0.0), np.append(cost, 0.0)
    reaching, below = x >= target, x < target
    if not reaching.any():
        return float("inf")
    best = float(y[reaching].min())
    if below.any():
        x_low, y_low = x[below][:, None], y[below][:, None]
        x_high, y_high = x[reaching][None], y[reaching][None]
        share = (target - x_low) / (x_high - x_low)
        best = min(best, float((y_low + share * (y_high - y_low)).min()))
    return best


def summarise(comparison: Comparison) -> dict[str, Any]:
    """Tables of a comparison, ready for JSON.

    Returns:
        `policies`: per name and price accuracy, cost and utility with 95% intervals,
        tokens, serial rounds and actions; `lead`: per rule and price, the controller's
        utility less the rule's; `headline`: the controller's compute, relative to that of
        each kind of rule, at the same accuracies; `oracles`: as `policies`, for what knows
        more than can be seen; `promises`: what was asked for instead of a price, and what
        became of it; `gap_closed`: per price, how much of the utility between the
        best static mixture and the informed oracle the controller gains; `seeds`: see
        `training.learn.seeds.summarise_seeds`; `tally`: names of counts; `others`: names of
        other controllers, and `equal_accuracy`: compute of all controllers relative to the first
        other one's at the same accuracy.
    """
    bootstrap = Bootstrap(len(comparison.levels))
    rules = [name for name in comparison.played if name != CONTROLLER]
    prices, tally = comparison.prices.tolist(), comparison.learning.tally
    summary = {
        "num_questions": len(comparison.levels),
        "prices": prices,
        "policies": {name: _rows(comparison, name, bootstrap) for name in comparison.played},
        "lead": {
            name: leads(
                comparison.played[CONTROLLER],
                comparison.played[name],
                comparison.prices,
                bootstrap,
            )
            for name in rules
        },
        "oracles": {
            name: [row(p, price, bootstrap, tally) for p, price in zip(rows, prices, strict=True)]
            for name, rows in comparison.oracles.items()
        },
        "gap_closed": _gap_closed(comparison),
        "headline": _headline(comparison, bootstrap),
        "promises": comparison.promises,
        "seeds": summarise_seeds(comparison.seeds),
        "tally": list(tally),
        "others": list(comparison.others),
    }
    if comparison.others:
        summary["equal_accuracy"] = _equal_accuracy(comparison, bootstrap)
    return summary


def _rows(comparison: Comparison, name: str, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    rows = []
    for i, (played, price) in enumerate(
        zip(comparison.played[name], comparison.prices, strict=True)
    ):
        entry = row(played, price, bootstrap, comparison.learning.tally)
        if name in comparison.settings:
            entry["setting"] = comparison.settings[name][i]
        rows.append(entry)
    return rows


def rule_leads(summary: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The controller's leads over rules; other controllers are none."""
    return {n: rows for n, rows in summary["lead"].items() if n not in summary["others"]}


def closest_rule(summary: dict[str, Any], i: int) -> tuple[str, dict[str, Any]]:
    """The rule that the controller leads least at price number i, and that lead."""
    rules = rule_leads(summary)
    return min(((name, rows[i]) for name, rows in rules.items()), key=lambda r: r[1]["lead"])


def behind(summary: dict[str, Any]) -> str:
    """Where the controller is behind a rule beyond its interval, in words."""
    places = [
        f"{name} at {row['price']:.1e}"
        for name, rows in rule_leads(summary).items()
        for row in rows
        if row["behind"]
    ]
    return ", ".join(places) or "nowhere"


def row(played: Played, price: float, bootstrap: Bootstrap, tally: Sequence[str]) -> dict[str, Any]:
    """How a policy did at a price, with 95% intervals; `tally` names what it counted."""
    found: dict[str, Any] = {"price": float(price)}
    for quantity, values in (
        ("accuracy", played.right),
        ("cost", played.cost),
        ("utility", played.utility(price)),
    ):
        found[quantity] = float(values.mean())
        found[f"{quantity}_interval"] = bootstrap.interval(values)
    return found | {
        "tokens": float(played.tokens.mean()),
        "serial_rounds": float(played.rounds.mean()),
        **dict(zip(tally, played.actions.mean(0).tolist(), strict=True)),
    }


def _gap_closed(comparison: Comparison) -> list[float]:
    shares: list[float] = []
    if not comparison.oracles:
        return shares
    for i, price in enumerate(comparison.prices):
        bottom = max(comparison.played[n][i].utility(price).mean() for n in STATIC)
        top = comparison.oracles["informed oracle"][i].utility(price).mean()
        ours = comparison.played[CONTROLLER][i].utility(price).mean()
        shares.append(float((ours - bottom) / max(top - bottom, 1e-9)))
    return shares


def leads(
    ours: Sequence[Played], theirs: Sequence[Played], prices: Floats, bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """Utility of one policy less another's at each price, (P,), with intervals."""
    rows = []
    for price, mine, other in zip(prices, ours, theirs, strict=True):
        difference = mine.utility(price) - other.utility(price)
        low, high = bootstrap.interval(difference)
        rows.append(
            {
                "price": float(price),
                "lead": float(difference.mean()),
                "interval": (low, high),
                "behind": high < 0,
            }
        )
    return rows


def points(played: Sequence[Played], weights: Floats) -> tuple[Floats, Floats]:
    """Accuracy and cost at each price, for questions weighted by `weights`, (Q,)."""
    return (
        np.array([weights @ p.right for p in played]),
        np.array([weights @ p.cost for p in played]),
    )


def _headline(comparison: Comparison, bootstrap: Bootstrap) -> dict[str, Any]:
    names = comparison.played
    kinds = {
        "self-consistency": [n for n in names if n.startswith("self-consistency-")],
        "verified best of N": [
            n for n in names if n.startswith("verified best of ") and n[-1] != "n"
        ],
        **comparison.learning.kinds,
        **{name: [name] for name in comparison.others},
    }
    return compute_at_equal_accuracy(
        comparison.played,
        CONTROLLER,
        kinds,
        single=comparison.learning.single,
        bootstrap=bootstrap,
    )


def _equal_accuracy(comparison: Comparison, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Compute at equal accuracy, from what one small attempt reaches up to what all reach.

    Resampled questions are harder or easier, so each resample has accuracies of its own.
    """
    base, *more = comparison.others
    kinds = {name: [name] for name in (CONTROLLER, *more)}
    kinds[_CHEAPER] = [*kinds, base]

    def compare(weights: Floats) -> tuple[Floats, Floats]:
        """Accuracies, (A,), and ratios, (kinds, A)."""
        reached = {name: points(comparison.played[name], weights) for name in kinds[_CHEAPER]}
        bottom = weights @ comparison.played[comparison.learning.single][0].right
        top = min(right.max() for right, _ in reached.values())
        accuracies = np.linspace(bottom, top, _ACCURACIES)

        def costs(names: Sequence[str]) -> Floats:
            known = [reached[name] for name in names]
            right, cost = (np.concatenate(parts) for parts in zip(*known, strict=True))
            return np.array([cost_at_accuracy(right, cost, accuracy) for accuracy in accuracies])

        with np.errstate(invalid="ignore"):  # where all give up, nothing is compared with nothing
            return accuracies, np.stack([costs(names) for names in kinds.values()]) / costs([base])

    accuracies, found = compare(np.full(len(comparison.levels), 1 / len(comparison.levels)))
    resampled = [compare(weights)[1] for weights in bootstrap.weights[:_RESAMPLES]]
    low, high = np.quantile([found, *resampled], [0.025, 0.975], axis=0)
    figures = np.stack([found, low, high], axis=-1)  # (kinds, A, 3)
    return [
        {
            "accuracy": float(accuracy),
            "compute": {
                kind: {"ratio": float(ratio), "interval": (float(least), float(most))}
                for kind, (ratio, least, most) in zip(kinds, at, strict=True)
            },
        }
        for accuracy, at in zip(accuracies, figures.swapaxes(0, 1), strict=True)
    ]


def compute_at_equal_accuracy(
    played: Mapping[str, Sequence[Played]],
    ours: str,
    kinds: Mapping[str, Sequence[str]],
    *,
    single: str,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """A policy's compute over that of each kind of rule, with intervals.

    Args:
        played: by policy name, one entry per price.
        ours: name of the policy.
        kinds: names of rules by kind; those that were not played are left out.
        single: name of the rule that makes one small attempt, where accuracies begin.
        bootstrap: over the questions.

    Returns:
        By kind `ratio`, its `interval` and the `accuracies` that it is the mean over.
    """
    uniform = np.full(bootstrap.weights.shape[1], 1 / bootstrap.weights.shape[1])
    headline = {}
    for kind, members in kinds.items():
        names = [name for name in members if name in played]
        if not names:
            continue
        contest = played[ours], [played[name] for name in names], played[single][0]
        accuracies, ratio = _cost_ratio(*contest, uniform)
        low = high = ratio
        if not np.isnan(ratio):
            resampled = [_cost_ratio(*contest, w)[1] for w in bootstrap.weights[:_RESAMPLES]]
            low, high = np.nanquantile(resampled, [0.025, 0.975])
        headline[kind] = {
            "ratio": ratio,
            "interval": (float(low), float(high)),
            "accuracies": accuracies,
        }
    return headline


def _cost_ratio(
    controller: Sequence[Played],
    rules: Sequence[Sequence[Played]],
    single: Played,
    weights: Floats,
) -> tuple[list[float], float]:
    """Geometric mean over accuracies of the controller's cost over the best rule's.

    The accuracies run from a third of the way between what one small attempt reaches and
    the most that both the controller and the best of these rules reach up to the latter. NaN
    where that is none at all.
    """
    ours = points(controller, weights)
    rivals = [points(rule, weights) for rule in rules]
    theirs = np.concatenate([a for a, _ in rivals]), np.concatenate([c for _, c in rivals])
    bottom = float(weights @ single.right)
    top = float(min(theirs[0].max(), ours[0].max()))
    if top <= 0:
        return [top], float("nan")
    accuracies = (
        [top]
        if len(np.unique(theirs[1])) == 1 or top <= bottom
        else np.linspace(bottom, top, 4)[1:].tolist()
    )
    ratios = [cost_at_accuracy(*ours, a) / cost_at_accuracy(*theirs, a) for a in accuracies]
    return accuracies, float(np.exp(np.mean(np.log(ratios))))
