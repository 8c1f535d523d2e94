"""The policy network."""

import pytest
import torch

from controller.errors import ConfigError
from controller.observation import NUM_FEATURES, OBSERVATION_NAMES
from controller.policy import PolicyConfig, PolicyNetwork


def network(**changes):
    torch.manual_seed(0)
    return PolicyNetwork(PolicyConfig(num_features=NUM_FEATURES, num_actions=5, **changes))


def test_ignored_features_change_nothing():
    policy = network(ignored_features=("vote_share", "log_price"))
    observation, mask = torch.randn(7, NUM_FEATURES), torch.ones(7, 5, dtype=torch.bool)
    changed = observation.clone()
    for name in ("vote_share", "log_price"):
        changed[:, OBSERVATION_NAMES.index(name)] += 3.0
    assert torch.equal(policy.log_probs(observation, mask), policy.log_probs(changed, mask))
    assert torch.equal(policy.value(observation), policy.value(changed))
    seeing = network()
    assert not torch.equal(seeing.value(observation), seeing.value(changed))


def test_unknown_features_are_refused():
    with pytest.raises(ConfigError, match="ignored_features: expected names of"):
        network(ignored_features=("weather",))
