"""What a comparison found, as every renderer takes it and evaluation.json holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter

from controller.card import Interval, Measured, Number
from controller.process.cost import TOKENS, InCurrency

CONTROLLER = "controller"

QUANTITIES = ("accuracy", "cost", "utility")


@dataclass(frozen=True, kw_only=True)
class Point(Measured):
    """A policy at one price; means per question.

    Attributes:
        tokens: processed by all models.
        serial_rounds: steps that wait for one another.
        counts: steps by kind, by the names of `Results.tally`.
        setting: of a rule that was tuned for this price.
    """

    tokens: float
    serial_rounds: float
    counts: Mapping[str, float]
    setting: str | None = None

    def measured(self, quantity: str) -> tuple[float, float, float]:
        """One of `QUANTITIES` with the ends of its interval."""
        return getattr(self, quantity), *getattr(self, f"{quantity}_interval")


@dataclass(frozen=True, kw_only=True)
class Lead:
    """Utility of the controller less that of another policy at one price.

    Attributes:
        price: accuracy per small-model token.
        lead, interval: the difference, question by question.
        behind: whether all of the interval is below zero, and the lead by more than a trifle.
    """

    price: float
    lead: float
    interval: Interval
    behind: bool

    @property
    def measured(self) -> tuple[float, float, float]:
        """The lead with the ends of its interval."""
        return self.lead, *self.interval


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Compute relative to another's at the same accuracy; NaN where none is reached."""

    ratio: Number
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Headline(Ratio):
    """Compute over that of a kind of rule: the geometric mean over some accuracies."""

    accuracies: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class EqualAccuracy:
    """Ratios of compute at one accuracy, by name."""

    accuracy: float
    compute: Mapping[str, Ratio]


@dataclass(frozen=True, kw_only=True)
class LeadPart:
    """What one policy brings over the next less informed one.

    Attributes:
        name: of what is added.
        policies: that play it, one a price, without repetition.
        utility: mean over questions and prices.
        gain, interval: over the step before, question by question.
    """

    name: str
    policies: tuple[str, ...]
    utility: float
    gain: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class KeptCost:
    """A mean cost that was asked for, in small-model tokens.

    Attributes:
        asked, paid: on the test questions, streamed once.
        deviation: of what was paid, relative to what was asked.
        fixed: the same at the fixed price that brings the cost on the calibration's questions.
    """

    asked: float
    paid: float
    deviation: float
    fixed: float


@dataclass(frozen=True, kw_only=True)
class KeptAccuracy:
    """An accuracy that was asked for, the price chosen for it, and the accuracy found there."""

    asked: float
    price: float
    found: float


@dataclass(frozen=True, kw_only=True)
class Promises:
    """What the first controller was asked for instead of a price, and what became of it."""

    mean_cost: tuple[KeptCost, ...] = ()
    accuracy: tuple[KeptAccuracy, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SeedFigure:
    """A statistic over seeds and prices.

    Attributes:
        value: of all of them.
        interval: resamples whole seeds: a controller plays all prices, so its utilities go up and
            down together.
        stratified: resamples the seeds of each price by themselves, as rliable does for trainings
            that are independent from task to task.
    """

    value: float
    interval: Interval
    stratified: Interval


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Mean utilities, S x P by seed and price; of two seeds on, what they amount to."""

    utility: tuple[tuple[float, ...], ...]
    mean: SeedFigure | None = None
    iqm: SeedFigure | None = None

    @property
    def statistics(self) -> dict[str, SeedFigure]:
        """`mean` and `iqm`, the interquartile mean, where there are several seeds."""
        found = {"mean": self.mean, "iqm": self.iqm}
        return {name: figure for name, figure in found.items() if figure is not None}


@dataclass(frozen=True, kw_only=True)
class Results(InCurrency):
    """All figures of a comparison.

    Attributes:
        num_questions: of the test split.
        num_distinct: of them that ask something else, not the same in other words or order.
        prices: P of them.
        policies: by name, P points each.
        lead: by name of another policy, P leads of the controller.
        oracles: as `policies`, for what knows more than can be seen.
        gap_closed: P shares of the utility between the best static mixture and the informed
            oracle that the controller gains; empty without oracles.
        headline: by kind of rule.
        promises: None for a controller that is asked for prices only.
        seeds: of the controller.
        tally: names of `Point.counts`.
        others: names in `policies` of other controllers.
        equal_accuracy: all controllers over the first other one, from what one small attempt
            reaches up to what all reach; empty without others.
        by_accuracy: the controller over each kind of rule, up to what the controller reaches.
        chosen: the rule that did best at each price on the questions that rules are tuned on.
        steps: from the best fixed plan to the controller; empty where no rule reads prompts.
    """

    num_questions: int
    num_distinct: int
    prices: tuple[float, ...]
    policies: Mapping[str, tuple[Point, ...]]
    lead: Mapping[str, tuple[Lead, ...]]
    oracles: Mapping[str, tuple[Point, ...]]
    gap_closed: tuple[float, ...]
    headline: Mapping[str, Headline]
    promises: Promises | None
    seeds: Seeds
    tally: tuple[str, ...]
    others: tuple[str, ...]
    equal_accuracy: tuple[EqualAccuracy, ...] = ()
    by_accuracy: tuple[EqualAccuracy, ...] = ()
    chosen: tuple[str, ...] = ()
    steps: tuple[LeadPart, ...] = ()

    def cost_text(self, cost: float) -> str:
        """A cost in the currency."""
        return self.currency.text(cost)

    def price_text(self, price: float) -> str:
        """A price; in dollars and seconds, what a right answer is worth at it."""
        return f"{price:.1e}" if self.currency == TOKENS else self.cost_text(1 / price)

    @property
    def price_title(self) -> str:
        """What `price_text` tells."""
        return "price" if self.currency == TOKENS else "worth"

    @property
    def controller(self) -> tuple[Point, ...]:
        """The controller's points."""
        return self.policies[CONTROLLER]

    @property
    def everyone(self) -> dict[str, tuple[Point, ...]]:
        """Points of all policies and oracles."""
        return {**self.policies, **self.oracles}

    @property
    def rule_leads(self) -> dict[str, tuple[Lead, ...]]:
        """The controller's leads over rules; other controllers are none."""
        return {name: leads for name, leads in self.lead.items() if name not in self.others}

    def closest_rule(self, i: int) -> tuple[str, Lead]:
        """The rule that the controller leads least at price number i, and that lead."""
        leads = ((name, rows[i]) for name, rows in self.rule_leads.items())
        return min(leads, key=lambda entry: entry[1].lead)

    @property
    def verdict(self) -> str:
        """How the controller stands against the best rule at each price, in a sentence."""
        closest = [self.closest_rule(i)[1] for i in range(len(self.prices))]
        ahead = sum(lead.interval[0] > 0 for lead in closest)
        behind = sum(lead.behind for lead in closest)
        level = len(closest) - ahead - behind
        means = {name: fmean(row.lead for row in rows) for name, rows in self.rule_leads.items()}
        strongest = min(means, key=lambda name: means[name])
        return (
            f"Against the best of {len(means)} tuned rules at each of {len(closest)} prices the "
            f"controller is ahead at {ahead or 'none'}, level at {level or 'none'} and behind "
            f"at {behind or 'none'} (paired 95% intervals); over the strongest of them, "
            f"{strongest}, its mean lead is {100 * means[strongest]:+.1f} points of utility."
        )

    @property
    def behind(self) -> str:
        """Where the controller is behind a rule beyond its interval, in words."""
        places = [
            f"{name} at {self.price_text(row.price)}"
            for name, rows in self.rule_leads.items()
            for row in rows
            if row.behind
        ]
        return ", ".join(places) or "nowhere"

    def to_json(self) -> dict[str, Any]:
        """Plain values; counts stand beside a point's other figures."""
        entry: dict[str, Any] = json.loads(_RESULTS.dump_json(self))
        for point in _points(entry):
            point |= point.pop("counts")
        return entry

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Results:
        """From what `to_json` gave. Raises ValueError: it is something else."""
        for point in _points(entry):
            point["counts"] = {name: point[name] for name in entry["tally"]}
        return _RESULTS.validate_python(entry)


_RESULTS = TypeAdapter(Results)


def _points(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = (*entry["policies"].values(), *entry["oracles"].values())
    return [point for row in rows for point in row]
