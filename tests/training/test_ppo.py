"""PPO: closed forms, a known optimum, same seed same bits, exact resume."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from controller.errors import ConfigError
from controller.policy.network import PolicyConfig, PolicyNetwork
from controller.policy.rules import AdaptiveCascade, RulePolicy
from envs.reward import LogUniform
from envs.vector import ComputeVectorEnv
from training.compare.simulate import play
from training.learn.config import PPOConfig
from training.ppo import PPO, EpisodeTotals, compute_gae

SHORT = PPOConfig(total_steps=64 * 16 * 6, num_envs=64, num_steps=16)


def make(validation, config, ppo=SHORT, **kwargs):
    return PPO(ComputeVectorEnv(validation.table, config, ppo.num_envs, **kwargs), ppo)


def weights(ppo):
    return torch.cat([p.detach().flatten() for p in ppo.policy.parameters()])


def test_gae_at_lambda_1_is_return_less_value():
    rewards = torch.tensor([[1.0], [2.0], [4.0]])
    values = torch.tensor([[0.5], [0.25], [0.125]])
    dones = torch.tensor([[0.0], [1.0], [0.0]])
    advantages = compute_gae(rewards, values, dones, torch.tensor([8.0]), 1.0)
    np.testing.assert_allclose(advantages[:, 0], [3 - 0.5, 2 - 0.25, 12 - 0.125])


def test_gae_at_lambda_0_is_the_one_step_error():
    rewards, values = torch.ones(3, 2), torch.arange(6.0).reshape(3, 2)
    advantages = compute_gae(rewards, values, torch.zeros(3, 2), torch.full((2,), 9.0), 0.0)
    following = torch.cat([values[1:], torch.full((1, 2), 9.0)])
    np.testing.assert_allclose(advantages, rewards + following - values)


def test_forbidden_actions_have_no_probability():
    policy = PolicyNetwork(PolicyConfig(num_features=3, num_actions=4))
    mask = torch.tensor([[True, False, True, False]])
    probabilities = policy.log_probs(torch.ones(1, 3), mask).exp()
    assert probabilities[0, 1] == probabilities[0, 3] == 0
    assert probabilities.sum().item() == pytest.approx(1.0)


def test_same_seed_same_bits(validation, config):
    first, second = make(validation, config), make(validation, config)
    first.train()
    second.train()
    assert torch.equal(weights(first), weights(second))
    other = make(validation, config, replace(SHORT, seed=1))
    other.train()
    assert not torch.equal(weights(first), weights(other))


def test_resumes_to_the_bit(validation, config, tmp_path):
    whole, half = make(validation, config), make(validation, config)
    whole.train()
    half.train(stop=lambda: half.update == 3)
    half.save(tmp_path, {"note": 1}, {"kept": torch.ones(2)})
    resumed = make(validation, config)
    notes, extra = resumed.resume(tmp_path)
    assert notes == {"note": 1}
    assert torch.equal(extra["kept"], torch.ones(2))
    resumed.train()
    assert torch.equal(weights(whole), weights(resumed))
    with pytest.raises(ConfigError, match="use the same settings"):
        make(validation, config, replace(SHORT, clip=0.3)).resume(tmp_path)


def test_finds_the_known_optimum_at_an_absurd_price(validation, config):
    """When one token costs more than a right answer is worth, giving up is optimal."""
    prices = LogUniform(low=1.0, high=1.0)
    ppo = make(validation, config, replace(SHORT, total_steps=64 * 16 * 20), prices=prices)
    ppo.train()
    played = play(ppo.policy, validation.table, config, price=1.0, repeats=1)
    assert played.cost.sum() == 0


def test_a_clone_does_what_its_prior_does(validation, config):
    cloning = replace(SHORT, total_steps=64 * 16 * 40, cloning_share=1.0)
    ppo, prior = make(validation, config, cloning), RulePolicy(AdaptiveCascade(0.9, 4))
    ppo.train(prior=prior)
    price = float(ppo.env.prices.grid(3)[1])
    clone, original = (
        play(policy, validation.table, config, price=price, repeats=2)
        for policy in (ppo.policy, prior)
    )
    assert clone.right.mean() == pytest.approx(original.right.mean(), abs=0.02)
    assert clone.cost.mean() == pytest.approx(original.cost.mean(), rel=0.1)


def test_the_truth_explains_what_no_observation_can(validation, config):
    """The critic of a training predicts returns that the policy's own values cannot."""
    ppo = make(validation, config, replace(SHORT, total_steps=64 * 16 * 40))
    explained = []
    ppo.train(lambda steps, metrics: explained.append(metrics["losses/explained_variance"]))
    rollout = ppo.collect(EpisodeTotals()).flat()
    with torch.no_grad():
        blind = rollout.returns - ppo.policy.value(rollout.observations)
    assert np.mean(explained[-5:]) > 1 - float(blind.var() / rollout.returns.var()) + 0.1


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="gae_lambda: expected at least 0 and at most 1, found 2"):
        PPOConfig(gae_lambda=2)
    with pytest.raises(ConfigError, match="num_minibatches: expected a divisor"):
        PPOConfig(num_envs=3, num_steps=5, num_minibatches=4)


@pytest.mark.parametrize("options", [{"autoreset_mode": "NextStep"}, {"max_episode_steps": 3}])
def test_environments_that_it_would_learn_wrong_from_are_refused(validation, config, options):
    with pytest.raises(ConfigError, match="autoreset in the same step and no time limit"):
        make(validation, config, **options)
