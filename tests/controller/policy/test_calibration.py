"""Prices from targets."""

from dataclasses import replace

import numpy as np
import pytest

from controller.bundled import bundled
from controller.checkpoint import load_checkpoint
from controller.errors import CheckpointError, ConfigError
from controller.policy.calibration import Calibration
from controller.policy.pricing import Pricing, Tally
from controller.process.terms import Terms

PRICES = (1e-4, 1e-3, 1e-2)


def calibration(right=(90, 80, 40), cost=(1000.0, 300.0, 50.0)):
    return Calibration(prices=PRICES, cost=cost, right=right, questions=100)


def test_cost_is_interpolated_and_monotone():
    known = calibration()
    assert known.price_for_cost(300.0) == pytest.approx(1e-3)
    prices = [known.price_for_cost(cost) for cost in (50, 100, 500, 1000)]
    assert prices == sorted(prices, reverse=True)
    with pytest.raises(ConfigError, match="expected 50 to 1000 small-model tokens"):
        known.price_for_cost(2000)


def test_accuracy_picks_the_highest_price_that_can_be_relied_on():
    known = calibration()
    assert known.price_for_accuracy(0.7) == 1e-3
    assert known.price_for_accuracy(0.84) == 1e-4
    assert known.price_for_accuracy(0.84, confidence=0.5) == 1e-4
    with pytest.raises(ConfigError, match="cannot be relied on"):
        known.price_for_accuracy(0.9)


def test_the_guarantee_holds():
    """Of many calibrations by chance, no more than 10% promise too much."""
    rng, truth, broken = np.random.default_rng(0), np.array([0.85, 0.75, 0.5]), 0
    for _ in range(1000):
        right = tuple(rng.binomial(200, truth).tolist())
        known = Calibration(prices=PRICES, cost=(3.0, 2.0, 1.0), right=right, questions=200)
        try:
            price = known.price_for_accuracy(0.76)
        except ConfigError:
            continue
        broken += truth[PRICES.index(price)] < 0.76
    assert broken <= 130


def test_nonsense_is_refused():
    with pytest.raises(CheckpointError, match="calibration: expected counts"):
        calibration(right=(90, 80, 400))
    with pytest.raises(CheckpointError, match="ascending prices"):
        Calibration(prices=(1.0, 0.5), cost=(1.0, 1.0), right=(1, 1), questions=2)


def test_a_mean_cost_is_kept_where_questions_differ_from_the_calibration():
    """Costs by chance around a curve that is half as dear again as the calibration knows."""
    rng, tally, known = np.random.default_rng(0), Tally(), calibration()
    checkpoint = replace(load_checkpoint(bundled("controller")), calibration=known)
    pricing, standing = Pricing(checkpoint, Terms(mean_cost=300.0), tally), Terms()
    first = pricing.price_for(standing)
    assert first == pytest.approx(known.price_for_cost(300.0))
    for _ in range(3000):
        log_price = np.log(pricing.price_for(standing))
        mean = 1.5 * np.interp(log_price, np.log(PRICES), known.cost)
        pricing.count(standing, rng.exponential(mean))
    questions, spent = tally.sums()
    assert spent / questions == pytest.approx(300.0, rel=0.03)
    assert pricing.price_for(standing) > first
    with pytest.raises(ConfigError, match="expected 50 to 1000"):
        Pricing(checkpoint, Terms(mean_cost=2000.0))
