"""The ledger's counts and weights."""

import pytest

from controller.errors import ConfigError
from controller.process.cost import CostModel, Usage


def test_usages_add_up_and_come_apart():
    first = Usage(prefill_tokens=5, decoded_tokens=3, wall_s=0.5)
    second = Usage(decoded_tokens=4, verifier_tokens=9)
    assert (first + second).processed_tokens == 21
    assert first + second - second == first


def test_cached_tokens_went_through_no_model():
    assert Usage(cached_tokens=100, cancelled_tokens=2).processed_tokens == 2


@pytest.mark.parametrize("weights", [(), (2.0,), (1.0, 0.0)])
def test_weights_are_relative_to_the_small_model(weights):
    with pytest.raises(ConfigError, match=r"weights: expected 1\.0 for the small model"):
        CostModel(weights=weights)
