"""Compute at equal accuracy, and steps from a fixed plan to the controller, of hand-made plays."""

from math import inf, isnan

import numpy as np
import pytest

from controller.policy.rules import SELECTOR
from training.compare.equal_accuracy import by_accuracy, cost_at_accuracy, equal_accuracy, headline
from training.compare.evaluate import Comparison
from training.compare.results import CONTROLLER
from training.compare.simulate import Played
from training.compare.summary import Bootstrap, summarise
from training.granularity import ATTEMPTS

PRICES = np.array([1e-4, 1e-3])
NUM_QUESTIONS = 200


def played(right, cost):
    """One play: so large a share of the questions is right, each at the same cost."""
    q = NUM_QUESTIONS
    hit = (np.arange(q) < round(right * q)).astype(float)
    nothing = np.zeros(q)
    actions = np.zeros((q, 4))
    return Played(right=hit, cost=np.full(q, cost), tokens=nothing, rounds=nothing, actions=actions)


def comparison(**more):
    """A controller at half of what the selector needs; wordless and wordy rules below that."""
    plays = {
        CONTROLLER: [played(0.8, 100.0), played(0.6, 30.0)],
        "give up": [played(0.0, 0.0)] * 2,
        "always small": [played(0.4, 10.0)] * 2,
        "always large": [played(0.7, 150.0)] * 2,
        "wording router": [played(0.7, 100.0), played(0.5, 30.0)],
        SELECTOR: [played(0.8, 200.0), played(0.6, 60.0)],
        **more,
    }
    expected = {
        "always small": [0.3, 0.39],
        "always large": [0.6, 0.2],
        "wording router": [0.5] * 2,
    }
    return Comparison(
        learning=ATTEMPTS,
        prices=PRICES,
        played=plays,
        settings={},
        expected={name: np.array(row) for name, row in (expected | {SELECTOR: [0.6, 0.5]}).items()},
        oracles={},
        levels=np.zeros(NUM_QUESTIONS, np.int64),
        promises=None,
        seeds=np.zeros((1, 2)),
        others=tuple(more),
    )


WEIGHTS = Bootstrap(NUM_QUESTIONS, 50).weights


def test_between_operating_points_a_coin_is_tossed():
    accuracy, cost = np.array([[0.4, 0.8]]), np.array([[10.0, 90.0]])
    wanted = np.array([[0.6, 0.2, 0.9, 0.0]])
    assert cost_at_accuracy(accuracy, cost, wanted) == pytest.approx(np.array([[50, 5, inf, 0]]))


def test_a_headline_is_the_mean_ratio_over_accuracies_that_both_reach():
    found = headline(comparison(), WEIGHTS)
    assert found[SELECTOR].ratio == pytest.approx(0.5)
    assert found[SELECTOR].accuracies == pytest.approx((0.4 + 0.4 / 3, 0.4 + 0.8 / 3, 0.8))
    # All of one cost: at the accuracy that it has, where the controller mixes its two points.
    assert found["always large"].accuracies == pytest.approx((0.7,))
    assert found["always large"].ratio == pytest.approx(65 / 150)
    low, high = found["always large"].interval
    assert low < found["always large"].ratio < high < 1


def test_at_each_accuracy_by_itself_what_is_not_reached_has_no_ratio():
    rows = by_accuracy(comparison(), WEIGHTS)
    assert [row.accuracy for row in rows] == pytest.approx(0.4 + 0.4 * np.arange(1, 7) / 6)
    assert [row.compute[SELECTOR].ratio for row in rows] == pytest.approx([0.5] * 6)
    large = [row.compute["always large"].ratio for row in rows]
    assert [isnan(ratio) for ratio in large] == [False] * 4 + [True] * 2


def test_other_controllers_are_what_compute_is_relative_to():
    other = comparison(other=[played(0.8, 400.0), played(0.6, 120.0)])
    rows = equal_accuracy(other, WEIGHTS)
    assert [row.compute[CONTROLLER].ratio for row in rows] == pytest.approx([0.25] * 5)
    assert rows[0].compute["whichever is cheaper"].ratio == pytest.approx(0.25)
    assert not equal_accuracy(comparison(), WEIGHTS)


def test_steps_go_from_what_was_best_beforehand_to_the_controller():
    found = summarise(comparison(), ())
    assert found.chosen == ("always large", "wording router")
    assert [step.policies for step in found.steps] == [
        ("always large", "always small"),
        ("wording router",),
        (SELECTOR,),
        (CONTROLLER,),
    ]
    last = found.steps[-1]
    assert last.gain == pytest.approx((100 * 1e-4 + 30 * 1e-3) / 2)
    assert sum(step.gain for step in found.steps) == pytest.approx(last.utility)


def test_a_trifle_is_not_called_behind():
    near = comparison(rule=[played(0.8, 99.0), played(0.6, 20.0)])
    rows = summarise(near, ()).lead["rule"]
    assert [row.interval[1] < 0 for row in rows] == [True, True]
    assert [row.behind for row in rows] == [False, True]
