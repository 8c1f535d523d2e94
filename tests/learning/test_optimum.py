"""The exact optimum agrees with closed forms, with simulation, and bounds every policy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import comb

import numpy as np
import pytest
import torch

from benchmarks.optimum import best_rules, share_of_optimum
from controller.errors import ConfigError, IllegalActionError
from controller.policy.network import PolicyConfig, PolicyNetwork
from controller.policy.rules import RulePolicy, SelfConsistency, VoteCascade
from controller.process.observation import NUM_FEATURES
from envs.draws import Streams
from envs.replay import AttemptReplay
from envs.reward import price_range
from tests.learning.belief import BeliefTree
from tests.learning.optimum import evaluate, solve
from tests.learning.synthetic import QuestionType, SyntheticFamily
from training.learn.config import PPOConfig

FAMILY = SyntheticFamily()
PRICES = price_range(FAMILY.config().cost_unit).grid(5)
FREE = np.array([1e-12])


@pytest.fixture(scope="module")
def optimum():
    return solve(FAMILY, PRICES)


def coin(right, **settings):
    """One type, one wrong answer, small model only, prompt free of charge."""
    kind = QuestionType(share=1.0, small=right, large=0.5, wrong=(1.0,))
    return SyntheticFamily(types=(kind,), **{"prompt_tokens": 0, "max_escalations": 0, **settings})


def simulate(policy, prices, *, num_questions=20_000, seed=5):
    """Utility of every episode when each question is asked at each price, (P, Q)."""
    table = FAMILY.table(num_questions, seed)
    replay = AttemptReplay(
        table, FAMILY.config(), num_questions, difficulty=FAMILY.difficulty(table)
    )
    rows, episodes, utilities = np.arange(num_questions), replay.episodes, []
    for price in prices:
        streams = Streams(np.arange(num_questions, dtype=np.uint64) + np.uint64(seed))
        infinite = np.full(num_questions, np.inf)
        replay.begin(rows, rows, np.full(num_questions, price), infinite)
        going = rows
        while len(going):
            mask = episodes.mask()
            actions = policy.act(episodes, mask)
            assert mask[rows, actions].all()
            going = going[actions[going] != 0]
            replay.take(going, actions[going], streams)
        utilities.append(replay.right() - price * episodes.spent)
    return np.array(utilities)


def test_free_samples_of_one_type_are_all_taken():
    # Majority of 5 with one wrong answer, first come first served on ties, of which an
    # odd number has none.
    majority = sum(comb(5, k) * 0.6**k * 0.4 ** (5 - k) for k in (3, 4, 5))
    solved = solve(coin(0.6, max_samples=5), FREE)
    assert solved.value[0] == pytest.approx(majority, abs=1e-9)
    assert solved.choices[0, 0, 0] == 1


def test_a_known_type_below_chance_is_sampled_once():
    # More votes of a model that is mostly wrong only make the leader more surely wrong.
    solved = solve(coin(0.3, max_samples=8), np.array([1e-6]))
    assert solved.value[0] == pytest.approx(0.3 - 160e-6)
    assert (solved.choices[1:, 0, 0] == 0).all()


def test_three_votes_are_bought_up_to_their_price():
    # Third vote after a tie wins 0.5 - 0.5; it pays to look for a 2 : 1 majority only if
    # the second vote, which alone changes nothing, is bought along with it.
    right = 0.8
    lone, majority = right, right**3 + 3 * right**2 * (1 - right)
    mean_samples = 2 + 2 * right * (1 - right)
    worth_it = (majority - lone) / (160 * (mean_samples - 1))
    family = coin(right, max_samples=3)
    cheap, dear = solve(family, np.array([0.99, 1.01]) * worth_it).value
    assert cheap == pytest.approx(majority - 0.99 * worth_it * 160 * mean_samples)
    assert dear == pytest.approx(lone - 1.01 * worth_it * 160)


def test_certain_answers_are_asked_for_once():
    solved = solve(coin(1.0), np.array([1e-3, 1.0]))
    assert solved.value == pytest.approx([1 - 0.16, 0.0])


def test_huge_price_gives_up():
    price = np.array([10.0])
    assert solve(coin(0.9), price).value[0] == 0
    solved = solve(FAMILY, price)
    assert (solved.choices == 0).all()
    # The prompt has been read by then.
    assert solved.value[0] == pytest.approx(-10.0 * FAMILY.prompt_tokens)


def test_large_model_is_asked_where_the_small_one_is_hopeless():
    kind = QuestionType(share=1.0, small=0.0, large=1.0, wrong=(1.0,))
    family = SyntheticFamily(types=(kind,), prompt_tokens=0)
    solved = solve(family, np.array([1e-5]))
    assert solved.value[0] == pytest.approx(1 - 1e-5 * 160 * family.large_cost)
    assert solved.choices[0, 0, 0] == 2


def test_reach_is_the_sum_over_children(optimum):
    tree = optimum.tree
    for rung in (0, 1):
        parents = tree.children[:, rung, 0] >= 0
        total = tree.reach[tree.children[parents, rung]].sum(1)
        assert np.allclose(total, tree.reach[parents], atol=1e-15)
    assert tree.reach[0].sum() == pytest.approx(1)
    assert (tree.right <= tree.reach + 1e-15).all()


def test_live_episodes_stand_where_the_tree_says(optimum):
    tree, episodes = optimum.tree, optimum.tree.episodes()
    state, agreed = np.array(list(tree.histories)).T
    assert (tree.locate(episodes) == state).all()
    assert (episodes.last_agrees == agreed).all()
    config = FAMILY.config()
    kinds = [config.actions.position(kind) for kind in ("sample", "escalate")]
    assert (episodes.mask()[:, kinds] == (tree.children[state][..., 0] >= 0)).all()
    costs = np.stack(episodes.expected_cost(), 1)[:, [0, 2]]
    assert np.allclose(costs, tree.cost[state])


def test_value_is_what_simulating_the_optimum_gives(optimum):
    utilities = simulate(optimum, PRICES)
    errors = utilities.std(1) / utilities.shape[1] ** 0.5
    assert (np.abs(utilities.mean(1) - optimum.value) < 4 * errors).all()


def test_exact_evaluation_agrees_with_simulation(optimum):
    policy = network(3)
    utilities = simulate(policy, PRICES[1:4])
    errors = utilities.std(1) / utilities.shape[1] ** 0.5
    exact = evaluate(optimum.tree, policy, PRICES[1:4])
    assert (np.abs(utilities.mean(1) - exact) < 4 * errors + 1e-9).all()


def test_evaluating_the_optimum_gives_its_value(optimum):
    assert evaluate(optimum.tree, optimum, PRICES) == pytest.approx(optimum.value, abs=1e-12)


def network(seed):
    """An untrained policy with decided opinions."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shape = PolicyConfig(num_features=NUM_FEATURES, num_actions=4, hidden_sizes=(16,))
        policy = PolicyNetwork(shape)
        torch.nn.init.normal_(policy.actor[-1].weight)
    return policy


def test_nothing_exceeds_the_optimum(optimum):
    rules = [SelfConsistency(n) for n in range(9)] + [VoteCascade(3, 0.8)]
    policies = [network(seed) for seed in range(10)] + [RulePolicy(rule) for rule in rules]
    for policy in policies:
        assert (evaluate(optimum.tree, policy, PRICES) <= optimum.value + 1e-12).all()
    assert best_rules(optimum.tree, PRICES[3:4]) < optimum.value[3]


def test_optimum_falls_and_bends_with_the_price():
    # A maximum of functions that are linear in the price is convex.
    prices = np.linspace(1e-5, 1e-3, 30)
    value = solve(FAMILY, prices).value
    assert (np.diff(value) < 0).all()
    assert (np.diff(value, 2) > -1e-12).all()


def test_every_action_matters_over_the_default_prices():
    solved = solve(FAMILY, PRICES)
    at_once = solved.choices[0]
    assert set(at_once.ravel()) == {0, 1, 2}
    assert solved.value.min() > 0.1


def test_every_optimum_price_is_solved_alone_as_together(optimum):
    assert solve(FAMILY, PRICES[2:3]).value[0] == pytest.approx(optimum.value[2], abs=1e-14)


def test_unsolved_prices_are_refused(optimum):
    with pytest.raises(ConfigError, match="price"):
        evaluate(optimum.tree, optimum, PRICES[:1] * 1.01)
    with pytest.raises(ConfigError, match="prices"):
        solve(FAMILY, np.array([0.0]))


def test_too_many_answers_are_refused():
    kind = QuestionType(share=1.0, small=0.5, large=0.5, wrong=(0.1,) * 10)
    with pytest.raises(ConfigError, match="wrong"):
        BeliefTree.build(SyntheticFamily(types=(kind,)))


@dataclass
class Always:
    """One action, whatever the mask says."""

    action: int

    def act(self, episodes, mask):
        return np.full(len(mask), self.action)


def test_forbidden_actions_are_refused(optimum):
    with pytest.raises(IllegalActionError, match="Always"):
        evaluate(optimum.tree, Always(2), PRICES)


def test_a_trained_policy_comes_near_the_optimum_and_not_beyond():
    ppo = PPOConfig(total_steps=100_000, num_envs=512, num_steps=8, hidden_sizes=(32,))
    short = replace(FAMILY, max_samples=3)
    for seed in (0, 1):
        found = share_of_optimum(seed, ppo, family=short, num_questions=2_000, num_prices=3)
        assert found["worst"] <= found["mean"] <= 1
        assert found["mean"] > 0.6
        assert found["best_rule_mean"] < 1
