"""Figures and intervals from a comparison: paired bootstrap over questions and over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.card import Interval
from controller.policy.rules import STATIC
from controller.process.types import Question
from training.compare.evaluate import Comparison
from training.compare.results import (
    CONTROLLER,
    QUANTITIES,
    EqualAccuracy,
    Headline,
    Lead,
    Point,
    Ratio,
    Results,
    SeedFigure,
    Seeds,
)
from training.compare.simulate import Played

Floats = NDArray[np.float64]

_RESAMPLES = 200
"""For ratios of compute, which take long."""
_SEED_RESAMPLES = 2000
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
        self.uniform = np.full(num_questions, 1 / num_questions)  # (Q,)
        counts = rng.multinomial(num_questions, self.uniform, resamples)
        self.weights = counts / num_questions  # (B, Q)

    def interval(self, values: Floats) -> tuple[float, float]:
        """95% interval of the mean of `values`, (Q,)."""
        low, high = np.quantile(self.weights @ values, [0.025, 0.975])
        return float(low), float(high)


def count_distinct(questions: Sequence[Question]) -> int:
    """Questions that ask something else; of bundled ones, order and wording aside."""
    from envs.questions.bundled import TASKS, QuestionSource

    sources: dict[tuple[str, str], QuestionSource] = {}

    def asked(question: Question) -> str:
        task, *numbers = question.question_id.split("/")
        if task not in TASKS or task != question.dataset or len(numbers) != 2:
            return question.text
        place = task, numbers[0]
        if place not in sources:
            sources[place] = QuestionSource(task, int(numbers[0]))
        return sources[place][int(numbers[1])].key

    return len({asked(question) for question in questions})


def cost_at_accuracy(accuracy: Floats, cost: Floats, target: float) -> float:
    """Least mean cost at which mixtures of operating points, (P,) each, reach an accuracy; or inf.

    Between two operating points one may toss a coin for each question, so the frontier
    is the lower convex hull of (accuracy, cost), the free point (0, 0) included.
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


def summarise(comparison: Comparison, questions: Sequence[Question]) -> Results:
    """All figures of a comparison on some questions."""
    bootstrap = Bootstrap(len(comparison.levels))
    played, prices = comparison.played, comparison.prices
    return Results(
        num_questions=len(comparison.levels),
        num_distinct=count_distinct(questions),
        prices=tuple(prices.tolist()),
        policies={
            name: _points(comparison, name, rows, bootstrap) for name, rows in played.items()
        },
        lead={
            name: tuple(_leads(played[CONTROLLER], rows, prices, bootstrap))
            for name, rows in played.items()
            if name != CONTROLLER
        },
        oracles={
            name: _points(comparison, name, rows, bootstrap)
            for name, rows in comparison.oracles.items()
        },
        gap_closed=tuple(_gap_closed(comparison)),
        headline=_headline(comparison, bootstrap),
        promises=comparison.promises,
        seeds=summarise_seeds(comparison.seeds),
        tally=comparison.learning.tally,
        others=comparison.others,
        equal_accuracy=_equal_accuracy(comparison, bootstrap) if comparison.others else (),
    )


def _points(
    comparison: Comparison, name: str, played: Sequence[Played], bootstrap: Bootstrap
) -> tuple[Point, ...]:
    tally, settings = comparison.learning.tally, comparison.settings.get(name)

    def point(i: int, price: float) -> Point:
        row, found = played[i], dict[str, Any]()
        measured = row.right, row.cost, row.utility(price)
        for quantity, values in zip(QUANTITIES, measured, strict=True):
            found[quantity] = float(values.mean())
            found[f"{quantity}_interval"] = bootstrap.interval(values)
        return Point(
            price=price,
            **found,
            tokens=float(row.tokens.mean()),
            serial_rounds=float(row.rounds.mean()),
            counts=dict(zip(tally, row.actions.mean(0).tolist(), strict=True)),
            setting=settings[i] if settings else None,
        )

    return tuple(point(i, price) for i, price in enumerate(comparison.prices.tolist()))


def _leads(
    ours: Sequence[Played], theirs: Sequence[Played], prices: Floats, bootstrap: Bootstrap
) -> Iterator[Lead]:
    for price, mine, other in zip(prices.tolist(), ours, theirs, strict=True):
        difference = mine.utility(price) - other.utility(price)
        low, high = bootstrap.interval(difference)
        yield Lead(
            price=price, lead=float(difference.mean()), interval=(low, high), behind=high < 0
        )


def _gap_closed(comparison: Comparison) -> Iterator[float]:
    for i, price in enumerate(comparison.prices if comparison.oracles else ()):
        bottom = max(comparison.played[n][i].utility(price).mean() for n in STATIC)
        top = comparison.oracles["informed oracle"][i].utility(price).mean()
        ours = comparison.played[CONTROLLER][i].utility(price).mean()
        yield float((ours - bottom) / max(top - bottom, 1e-9))


def _reached(played: Sequence[Played], weights: Floats) -> tuple[Floats, Floats]:
    """Accuracy and cost at each price, for questions weighted by `weights`, (Q,)."""
    return (
        np.array([weights @ p.right for p in played]),
        np.array([weights @ p.cost for p in played]),
    )


def _headline(comparison: Comparison, bootstrap: Bootstrap) -> dict[str, Headline]:
    """The controller's compute over that of each kind of rule that was played."""
    names = comparison.played
    kinds = {
        "self-consistency": [n for n in names if n.startswith("self-consistency-")],
        "verified best of N": [
            n for n in names if n.startswith("verified best of ") and n[-1] != "n"
        ],
        **comparison.learning.kinds,
        **{name: [name] for name in comparison.others},
    }
    headline = {}
    for kind, members in kinds.items():
        rivals = [names[name] for name in members if name in names]
        if not rivals:
            continue
        contest = names[CONTROLLER], rivals, names[comparison.learning.single][0]
        accuracies, ratio = _cost_ratio(*contest, bootstrap.uniform)
        low = high = ratio
        if not np.isnan(ratio):
            resamples = [_cost_ratio(*contest, w)[1] for w in bootstrap.weights[:_RESAMPLES]]
            low, high = np.nanquantile(resamples, [0.025, 0.975])
        headline[kind] = Headline(
            ratio=ratio, interval=(float(low), float(high)), accuracies=tuple(accuracies)
        )
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
    ours = _reached(controller, weights)
    theirs = _together([_reached(rule, weights) for rule in rules])
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


def _together(reached: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    right, cost = (np.concatenate(parts) for parts in zip(*reached, strict=True))
    return right, cost


def _equal_accuracy(comparison: Comparison, bootstrap: Bootstrap) -> tuple[EqualAccuracy, ...]:
    """Compute at equal accuracy, from what one small attempt reaches up to what all reach.

    Resampled questions are harder or easier, so each resample has accuracies of its own.
    """
    base, *more = comparison.others
    kinds = {name: [name] for name in (CONTROLLER, *more)}
    kinds[_CHEAPER] = [*kinds, base]

    def compare(weights: Floats) -> tuple[Floats, Floats]:
        """Accuracies, (A,), and ratios, (kinds, A)."""
        reached = {name: _reached(comparison.played[name], weights) for name in kinds[_CHEAPER]}
        bottom = weights @ comparison.played[comparison.learning.single][0].right
        top = min(right.max() for right, _ in reached.values())
        accuracies = np.linspace(bottom, top, _ACCURACIES)

        def costs(names: Sequence[str]) -> Floats:
            known = _together([reached[name] for name in names])
            return np.array([cost_at_accuracy(*known, accuracy) for accuracy in accuracies])

        with np.errstate(invalid="ignore"):  # where all give up, nothing is compared with nothing
            return accuracies, np.stack([costs(names) for names in kinds.values()]) / costs([base])

    accuracies, found = compare(bootstrap.uniform)
    resamples = [compare(weights)[1] for weights in bootstrap.weights[:_RESAMPLES]]
    low, high = np.quantile([found, *resamples], [0.025, 0.975], axis=0)
    figures = np.stack([found, low, high], axis=-1).swapaxes(0, 1).tolist()  # (A, kinds, 3)
    return tuple(
        EqualAccuracy(
            accuracy=float(accuracy),
            compute={
                kind: Ratio(ratio=ratio, interval=(low, high))
                for kind, (ratio, low, high) in zip(kinds, at, strict=True)
            },
        )
        for accuracy, at in zip(accuracies, figures, strict=True)
    )


def summarise_seeds(utility: Floats) -> Seeds:
    """Mean and interquartile mean of utility, (S, P), over seeds and prices.

    Source: Agarwal et al. 2021 (arXiv 2108.13264), sections 4.1 and 4.3.
    """
    rows = tuple(tuple(row) for row in utility.tolist())
    if len(rows) < 2:
        return Seeds(utility=rows)
    return Seeds(
        utility=rows, mean=_seed_figure(utility, _mean), iqm=_seed_figure(utility, _middle_mean)
    )


def _mean(*columns: Floats, axis: int = -1) -> Any:
    return np.mean(np.concatenate(columns, axis), axis)


def _middle_mean(*columns: Floats, axis: int = -1) -> Any:
    from scipy import stats

    return stats.trim_mean(np.concatenate(columns, axis), 0.25, axis)


def _seed_figure(utility: Floats, statistic: Any) -> SeedFigure:
    from scipy import stats

    by_price = tuple(utility.T)

    def interval(whole_seeds: bool) -> Interval:
        low, high = stats.bootstrap(
            by_price,
            statistic,
            paired=whole_seeds,
            method="percentile",
            n_resamples=_SEED_RESAMPLES,
            rng=np.random.default_rng(0),
        ).confidence_interval
        return float(low), float(high)

    return SeedFigure(
        value=float(statistic(*by_price)), interval=interval(True), stratified=interval(False)
    )
