"""What a decision process learns from its traces."""

from dataclasses import replace

import pytest

from envs.traces.derive import ASSUMED_TOKEN_COST, cost_model, derive_config, known_rates
from envs.traces.table import build_table


def test_lengths_costs_and_limits_come_from_the_train_split(tiny):
    config = derive_config(build_table(tiny, ["train"]), tiny.models())
    assert config.cost.weights == (1.0, 10.0)
    assert config.mean_completion_tokens == (pytest.approx((12 + 10 + 10 + 10 + 10) / 5), 40.0)
    assert config.cost_unit == pytest.approx(5 + 52 / 5)
    assert (config.max_samples, config.max_revisions, config.max_escalations) == (2, 4, 1)
    assert config.revision_overhead == 21 - 5 - 12
    assert config.sample_widths == (1,)
    assert (config.verifies, config.reads_logprobs, config.reads_cuts) == (False, True, False)


def test_a_large_model_of_unknown_size_is_assumed_dear_unless_told(tiny):
    small, large = tiny.models()
    unknown = [small, type(large)(name=large.name, rung=1)]
    with pytest.warns(UserWarning, match="the size of large is unknown"):
        assert cost_model(unknown).weights == (1.0, ASSUMED_TOKEN_COST)
    assert cost_model(unknown, {"large": 3}).weights == (1.0, 3.0)


def test_what_is_said_counts_before_what_the_set_tells_and_that_before_the_list(tiny):
    small, large = tiny.models()
    listed, told = replace(small, name="gpt-4o-mini"), replace(large, dollars=(3.0, 4.0))
    known = known_rates(tiny, [listed, told], "dollars", {})
    assert known == {"gpt-4o-mini": (0.15, 0.6), "large": (3.0, 4.0)}
    said = {"gpt-4o-mini": (1.0, 2.0), "large": (5.0, 6.0)}
    assert known_rates(tiny, [listed, told], "dollars", said) == said
    assert known_rates(tiny, [listed, told], "seconds", {}) == {}
