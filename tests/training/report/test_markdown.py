"""A comparison as Markdown."""

import math
from dataclasses import replace

from tests.training.compare import test_results
from training.compare.results import EqualAccuracy, Headline, Ratio, SeedFigure, Seeds
from training.report.markdown import headline_rows, price_rows, results_markdown, seed_rows


def results():
    ratio = Ratio(ratio=0.8, interval=(0.7, 0.9))
    row = EqualAccuracy(accuracy=0.5, compute={"controller": ratio})
    return replace(test_results.results(), equal_accuracy=(row,))


def test_a_row_per_price_names_the_rule_that_is_led_least():
    first, second = price_rows(results())
    assert first == ("1.0e-04", "60.0%", "100", "0.500", "rule", "-0.200", "-0.300 to -0.100")
    assert second[4] == "another"


def test_pages_say_the_command_and_how_many_questions_differ():
    page = results_markdown(results(), "allot evaluate x", 2)
    assert "4 held-out questions (3 if" in page
    assert "controllers of\n2 seeds pooled" in page
    assert "    allot evaluate x" in page
    assert "Behind a rule beyond its interval, and by more than 0.001: rule at 1.0e-04." in page
    assert "## Against other" in page
    assert "| 50.0% | 80% (70% to 90%) |" in page
    assert "## Seeds" not in page


def test_what_is_not_reached_has_no_share():
    none = Headline(ratio=math.nan, interval=(math.nan, math.nan), accuracies=(0.0,))
    found = replace(results(), headline={"always large": none})
    assert [*headline_rows(found)] == [("always large", "not reached", "", "0.0%")]


def test_seeds_are_told_with_both_intervals():
    figure = SeedFigure(value=0.5, interval=(0.4, 0.6), stratified=(0.45, 0.55))
    seeds = Seeds(utility=((0.5,), (0.5,)), mean=figure, iqm=figure)
    assert next(seed_rows(seeds)) == ("mean", "0.5000", "0.4000 to 0.6000", "0.4500 to 0.5500")
    assert "## Seeds" in results_markdown(replace(results(), seeds=seeds), "c", 2)
