"""Figures and intervals from a comparison: paired bootstrap over questions and over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np

from controller.card import Interval
from controller.errors import ConfigError
from controller.policy.rules import ROUTERS, SELECTOR, STATIC
from controller.process.cost import TOKENS, Currency
from controller.process.lockstep import Floats
from controller.process.types import Question
from training.compare.equal_accuracy import by_accuracy, equal_accuracy, headline
from training.compare.evaluate import Comparison
from training.compare.results import (
    CONTROLLER,
    QUANTITIES,
    Lead,
    LeadPart,
    Point,
    Results,
    SeedFigure,
    Seeds,
)
from training.compare.simulate import Played

_SEED_RESAMPLES = 2000
_TRIFLE = 0.001
"""Nobody is called behind by less."""


class Bootstrap:
    """Paired bootstrap over Q questions, of B resamples.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
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
    from envs.questions.bundled import QuestionSource

    source = cache(QuestionSource)

    def asked(question: Question) -> str:
        task, _, place = question.question_id.partition("/")
        if task == question.dataset:
            # Others number their questions of the same task in the same way.
            with suppress(ConfigError, ValueError, IndexError):
                level, index = map(int, place.split("/"))
                drawn = source(task, level)[index]
                if drawn.question.text == question.text:
                    return drawn.key
        return question.text

    return len({asked(question) for question in questions})


def summarise(
    comparison: Comparison, questions: Sequence[Question], currency: Currency = TOKENS
) -> Results:
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
        headline=headline(comparison, bootstrap.weights),
        promises=comparison.promises,
        seeds=summarise_seeds(comparison.seeds),
        tally=comparison.learning.tally,
        others=comparison.others,
        equal_accuracy=equal_accuracy(comparison, bootstrap.weights),
        by_accuracy=by_accuracy(comparison, bootstrap.weights),
        chosen=_chosen(comparison, tuple(comparison.expected)),
        steps=tuple(_steps(comparison, bootstrap)),
        **({} if currency == TOKENS else {currency.name: currency.size}),
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
            price=price,
            lead=float(difference.mean()),
            interval=(low, high),
            behind=high < 0 and float(difference.mean()) <= -_TRIFLE,
        )


def _gap_closed(comparison: Comparison) -> Iterator[float]:
    static = [comparison.played[name] for name in STATIC if name in comparison.played]
    for i, price in enumerate(comparison.prices if comparison.oracles else ()):
        bottom = max(row[i].utility(price).mean() for row in static)
        top = comparison.oracles["informed oracle"][i].utility(price).mean()
        ours = comparison.played[CONTROLLER][i].utility(price).mean()
        yield float((ours - bottom) / max(top - bottom, 1e-9))


def _chosen(comparison: Comparison, families: Sequence[str]) -> tuple[str, ...]:
    """The one of some families that did best at each price on the questions it was tuned on."""
    expected = np.array([comparison.expected[family] for family in families])
    return tuple(families[i] for i in expected.argmax(0))


def _steps(comparison: Comparison, bootstrap: Bootstrap) -> Iterator[LeadPart]:
    """What is gained by reading the wording, by looking at attempts, and by PPO."""
    played, expected = comparison.played, comparison.expected
    if SELECTOR not in played:
        return
    ladder = {
        "fixed plan": _chosen(comparison, [name for name in STATIC if name in expected]),
        "and the wording": _chosen(comparison, [name for name in ROUTERS if name in expected]),
        "and rules that look at attempts": (SELECTOR,) * len(comparison.prices),
        "and PPO": (CONTROLLER,) * len(comparison.prices),
    }
    before = np.zeros(len(comparison.levels))
    for name, policies in ladder.items():
        rows = enumerate(zip(policies, comparison.prices.tolist(), strict=True))
        utility = np.mean([played[policy][i].utility(price) for i, (policy, price) in rows], 0)
        yield LeadPart(
            name=name,
            policies=tuple(dict.fromkeys(policies)),
            utility=float(utility.mean()),
            gain=float((utility - before).mean()),
            interval=bootstrap.interval(utility - before),
        )
        before = utility


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
