"""The policy network."""

import numpy as np
import pytest
import torch

from controller.errors import ConfigError
from controller.policy.deciders import PolicyDecider
from controller.policy.network import PolicyConfig, PolicyNetwork
from controller.process.observation import NUM_FEATURES, OBSERVATION_NAMES


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


def test_the_decider_judges_as_the_network_does():
    policy = network(ignored_features=("vote_share",))
    observation, mask = torch.randn(1, NUM_FEATURES), torch.tensor([[1, 1, 0, 1, 0]]).bool()
    probabilities, value = PolicyDecider(policy).judge(observation.numpy(), mask.numpy())
    expected = policy.log_probs(observation, mask)[0].exp().detach().numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert value == pytest.approx(float(policy.value(observation)), abs=1e-5)
