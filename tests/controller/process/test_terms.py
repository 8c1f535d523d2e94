"""What an answer may cost, and the price that this amounts to."""

import pytest

from controller.checkpoint import load_checkpoint
from controller.errors import ConfigError
from controller.policy.pricing import Pricing
from controller.process.terms import Terms
from tests.conftest import CHECKPOINTS


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint(CHECKPOINTS / "controller")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"price": 0}, "price: expected at least 1e-12 and at most 1e\\+12, found 0"),
        ({"price": float("inf")}, "price: expected a finite number at least 1e-12"),
        ({"price": 1e-60}, "price: expected at least 1e-12"),
        ({"price": "1e-4"}, "price: expected a finite number at least 1e-12"),
        ({"round_price": -1}, "round_price: expected 0, or a number from"),
        ({"round_price": 1e-60}, "round_price: expected 0, or a number from"),
        ({"budget": float("nan")}, "budget: expected at least 0"),
        ({"price": 1, "accuracy": 0.5}, "expected at most one of them"),
        ({"mean_cost": 9, "accuracy": 0.5}, "expected at most one of them"),
    ],
)
def test_terms_out_of_range_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Terms(**wrong)


def test_a_price_stands_whatever_the_controller_would_ask(checkpoint):
    assert Pricing(checkpoint, Terms(mean_cost=300)).price_for(Terms(price=7.0)) == 7.0


def test_the_default_is_the_middle_of_the_range(checkpoint):
    low, high = checkpoint.price_range
    assert Pricing(checkpoint).price_for(Terms(budget=9)) == pytest.approx((low * high) ** 0.5)
    assert Pricing(checkpoint, Terms(price=7.0)).price_for(Terms()) == 7.0


def test_only_questions_without_a_price_move_the_one_that_is_kept(checkpoint):
    pricing = Pricing(checkpoint, Terms(mean_cost=300))
    first = pricing.price_for(Terms())
    assert first == Pricing(checkpoint).price_for(Terms(mean_cost=300))
    pricing.count(Terms(mean_cost=300), 10_000)
    assert pricing.price_for(Terms()) == first
    pricing.count(Terms(), 10_000)
    assert pricing.price_for(Terms()) > first


def test_a_price_has_to_be_found_before_it_is_used():
    assert Terms(accuracy=0.5, budget=9).at(2.0) == Terms(price=2.0, budget=9)
    with pytest.raises(ConfigError, match="price: expected one"):
        _ = Terms(accuracy=0.5).known_price
