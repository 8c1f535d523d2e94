"""The policy network."""

import numpy as np
import pytest
import torch

from controller.errors import ConfigError
from controller.granularity import granularity_of
from controller.policy.deciders import PolicyDecider
from controller.policy.network import PolicyConfig, PolicyNetwork, Tanh
from controller.process.observation import NUM_FEATURES, OBSERVATION_NAMES


def network(**changes):
    torch.manual_seed(0)
    return PolicyNetwork(PolicyConfig(num_features=NUM_FEATURES, num_actions=5, **changes))


def shared(process, **changes):
    """A network with shared weights that likes some actions better than others."""
    torch.manual_seed(0)
    features, actions = len(granularity_of(process).features), len(process.actions)
    shape = PolicyConfig(num_features=features, num_actions=actions, network="shared", **changes)
    policy = PolicyNetwork(shape, process)
    torch.nn.init.normal_(policy.actor.score.weight)
    return policy


def apart(policy):
    """The same once it has learnt something of each action."""
    torch.nn.init.normal_(policy.actor.apart)
    return policy


@pytest.fixture(params=["flat", "shared", "menu"])
def policy(request, config, menu_config):
    ignored = {"ignored_features": ("vote_share", "log_price")}
    if request.param == "flat":
        return network(**ignored)
    return apart(shared(menu_config if request.param == "menu" else config, **ignored))


def inputs(policy, rows):
    """Observations and masks of which STOP is always allowed."""
    shape = policy.config
    mask = torch.rand(rows, shape.num_actions) < 0.6
    mask[:, 0] = True
    return torch.randn(rows, shape.num_features), mask


def test_ignored_features_change_nothing(policy):
    observation, mask = inputs(policy, 7)
    changed = observation.clone()
    for name in ("vote_share", "log_price"):
        changed[:, OBSERVATION_NAMES.index(name)] += 3.0
    assert torch.equal(policy.log_probs(observation, mask), policy.log_probs(changed, mask))
    assert torch.equal(policy.value(observation), policy.value(changed))
    seeing = network()
    observation, changed = observation[:, :NUM_FEATURES], changed[:, :NUM_FEATURES]
    assert not torch.equal(seeing.value(observation), seeing.value(changed))


def test_gradients_are_those_of_the_hyperbolic_tangent():
    inputs = torch.linspace(-12, 12, 1001, requires_grad=True)
    fast, plain = Tanh()(inputs), torch.tanh(inputs)
    torch.testing.assert_close(fast, plain, atol=1e-6, rtol=0)
    (found,), (expected,) = (torch.autograd.grad(y.sum(), inputs) for y in (fast, plain))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    with torch.no_grad():
        assert torch.equal(Tanh()(inputs), plain)


def test_unknown_features_and_networks_are_refused(menu_config):
    with pytest.raises(ConfigError, match="ignored_features: expected names of"):
        network(ignored_features=("weather",))
    with pytest.raises(ConfigError, match=r"network: expected one of .*'shared'.* found 'deep'"):
        network(network="deep")
    with pytest.raises(ConfigError, match="network: expected flat inside attempts, found shared"):
        network(network="shared")


def test_the_decider_judges_as_the_network_does(policy):
    observations, masks = inputs(policy, 100)
    expected = policy.log_probs(observations, masks).exp().detach().numpy()
    values, decider = policy.value(observations).tolist(), PolicyDecider(policy)
    for row in range(len(masks)):
        seen, mask = observations[row : row + 1].numpy(), masks[row : row + 1].numpy()
        probabilities, value = decider.judge(seen, mask)
        np.testing.assert_allclose(probabilities, expected[row], atol=1e-5)
        assert probabilities.argmax() == expected[row].argmax()
        assert value == pytest.approx(values[row], abs=1e-5)


@pytest.fixture
def of_arms(menu_config):
    """Which features are of an arm, and which actions ask it."""
    features, actions = granularity_of(menu_config).features, menu_config.actions
    return {
        arm: (
            [place for place, name in enumerate(features) if name.startswith(f"{arm}: ")],
            [place for place, action in enumerate(actions) if action.arm == arm],
        )
        for arm in menu_config.arm_names
    }


def test_arms_of_which_the_same_is_seen_are_scored_alike(menu_config, of_arms):
    policy = shared(menu_config)
    observation = inputs(policy, 7)[0]
    mask = torch.ones(7, len(menu_config.actions), dtype=torch.bool)
    (ant, asking_ant), (cat, asking_cat) = of_arms["ant"], of_arms["cat"]
    swapped = observation.clone()
    swapped[:, ant + cat] = observation[:, cat + ant]
    before, after = policy.log_probs(observation, mask), policy.log_probs(swapped, mask)
    assert not torch.allclose(before[:, asking_ant], before[:, asking_cat])
    torch.testing.assert_close(
        after[:, asking_ant + asking_cat], before[:, asking_cat + asking_ant]
    )


def test_nothing_that_is_seen_of_a_missing_arm_matters(menu_config, of_arms):
    policy = apart(shared(menu_config))
    observation = inputs(policy, 7)[0]
    mask = torch.ones(7, len(menu_config.actions), dtype=torch.bool)
    seen, asking = of_arms["cat"]
    mask[:, asking] = False
    changed = observation.clone()
    changed[:, seen] += 3.0
    assert torch.equal(policy.log_probs(observation, mask), policy.log_probs(changed, mask))
    mask[:, asking] = True
    assert not torch.allclose(policy.log_probs(observation, mask), policy.log_probs(changed, mask))
