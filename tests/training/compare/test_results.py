"""Figures of a comparison: what is said of them, and that files give them back."""

import json
from dataclasses import replace
from math import isnan, nan

import numpy as np
import pytest

from controller.process.types import Question
from envs.questions.bundled import QuestionSource
from training.compare.results import CONTROLLER, Headline, Lead, Point, Results, Seeds
from training.compare.summary import Bootstrap, count_distinct


def point(price, utility=0.5, setting=None):
    measured = {"accuracy": 0.6, "cost": 100.0, "utility": utility}
    intervals = {f"{name}_interval": (value, value) for name, value in measured.items()}
    more = {"tokens": 50.0, "serial_rounds": 2.0, "counts": {"samples": 1.5}, "setting": setting}
    return Point(price=price, **measured, **intervals, **more)


def lead(price, value):
    return Lead(price=price, lead=value, interval=(value - 0.1, value + 0.1), behind=value < -0.1)


def results(prices=(1e-4, 1e-3)):
    """Of a controller that one rule is level with and another one far ahead of at first."""
    return Results(
        num_questions=4,
        num_distinct=3,
        prices=prices,
        policies={
            CONTROLLER: tuple(map(point, prices)),
            "rule": tuple(point(price, setting="n=4") for price in prices),
            "other": tuple(map(point, prices)),
        },
        lead={
            "rule": (lead(prices[0], -0.2), *(lead(price, 0.3) for price in prices[1:])),
            "another": tuple(lead(price, 0.0) for price in prices),
            "other": tuple(lead(price, -0.9) for price in prices),
        },
        oracles={},
        gap_closed=(),
        headline={"rules": Headline(ratio=nan, interval=(nan, nan), accuracies=(0.5,))},
        promises=None,
        seeds=Seeds(utility=((0.5,) * len(prices),)),
        tally=("samples",),
        others=("other",),
    )


def test_the_closest_rule_is_no_controller_and_changes_with_the_price():
    found = results()
    assert [found.closest_rule(i)[0] for i in (0, 1)] == ["rule", "another"]
    assert found.behind == "rule at 1.0e-04"


def test_a_verdict_counts_prices_and_names_the_strongest_rule():
    assert results().verdict == (
        "Against the best of 2 tuned rules at each of 2 prices the controller is ahead at none, "
        "level at 1 and behind at 1 (paired 95% intervals); over the strongest of them, another, "
        "its mean lead is +0.0 points of utility."
    )


def test_files_give_back_what_was_found():
    entry = json.loads(json.dumps(results().to_json(), allow_nan=False))
    assert entry["policies"][CONTROLLER][0]["samples"] == 1.5
    assert entry["headline"]["rules"]["ratio"] is None
    again = Results.from_json(entry)
    assert isnan(again.headline["rules"].ratio)
    assert replace(again, headline={}) == replace(results(), headline={})


def test_figures_that_are_none_are_refused():
    entry = results().to_json()
    with pytest.raises(ValueError, match="prices"):
        Results.from_json({**entry, "prices": ["dear"]})


def test_questions_that_ask_the_same_count_once():
    asked = [QuestionSource("gcd", 1)[i].question for i in range(300)]
    keys = {QuestionSource("gcd", 1)[i].key for i in range(300)}
    assert count_distinct(asked) == len(keys) < len({question.text for question in asked})
    own = [Question(question_id=f"own/{i}", text=text) for i, text in enumerate("aab")]
    assert count_distinct(own) == 2


@pytest.mark.parametrize("place", ["1/9", "6/2", "one/9", "1/2/3", "1/99999999999"])
def test_questions_of_others_that_are_numbered_alike_are_not_taken_for_bundled_ones(place):
    own = [
        Question(question_id=f"gcd/{place}", dataset="gcd", text=text, reference="1")
        for text in ("What is the gcd of 4 and 9?", "Greatest common divisor of 4 and 9?")
    ]
    assert count_distinct(own) == 2


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(size=400)
    low, high = Bootstrap(400).interval(values)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
