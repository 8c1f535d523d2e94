"""Both environments are citizens of Gymnasium: registry, wrappers, autoreset modes."""

import copy
import pickle
import subprocess
import sys

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as vector_wrappers
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env

import envs
from controller.errors import ConfigError, IllegalActionError
from envs.compute import ComputeEnv
from envs.reward import LogUniform
from envs.vector import ComputeVectorEnv
from tests.conftest import CHECKPOINTS

N = 6
ARGUMENTS = {"traces": str(CHECKPOINTS / "traces"), "split": "validation"}


@pytest.fixture(scope="module")
def make(validation, config):
    """Scalar environments that share one table."""

    def build():
        return ComputeEnv(validation.questions, validation.backend, config, validation.grader)

    return build


@pytest.fixture
def many(validation, config):
    def build(**options):
        return ComputeVectorEnv(validation.table, config, N, **options)

    return build


def legal(mask, rng):
    return (rng.random(mask.shape) * mask).argmax(-1)


def play(env, steps=60, seed=0):
    """Random legal actions; (observations, rewards, infos) of every step."""
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    seen = [(observation, 0.0, info)]
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(legal(info["action_mask"], rng))
        seen.append((observation, reward, info))
        if terminated or truncated:
            observation, info = env.reset()
    return seen


def test_registered_under_a_name_that_imports_it():
    program = f"""
import gymnasium

env = gymnasium.make("envs:allot/Compute-v0", max_episode_steps=3, **{ARGUMENTS})
again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
assert env.unwrapped.questions is again.unwrapped.questions  # read once
print((env.reset(seed=1)[0] == again.reset(seed=1)[0]).all(), env.spec.max_episode_steps)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "3"], done.stderr


def test_sampling_with_the_mask_is_always_legal(make):
    env = make()
    _, info = env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(200):
        action = env.action_space.sample(mask=info["action_mask"])
        *_, terminated, _, info = env.step(action)
        if terminated:
            _, info = env.reset()


@pytest.mark.parametrize(
    "wrap",
    [
        wrappers.FlattenObservation,
        wrappers.OrderEnforcing,
        wrappers.PassiveEnvChecker,
        lambda env: wrappers.DtypeObservation(env, np.float32),
    ],
)
def test_wrappers_that_change_nothing_change_nothing(make, wrap):
    plain, wrapped = play(make()), play(wrap(make()))
    for left, right in zip(plain, wrapped, strict=True):
        np.testing.assert_array_equal(left[0], right[0])
        assert left[1] == right[1]


def test_rewards_and_observations_can_be_transformed(make):
    box = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    env = wrappers.TransformReward(make(), lambda reward: 10 * reward)
    env = wrappers.TransformObservation(env, lambda observation: observation[:3], box)
    for left, right in zip(play(make()), play(env), strict=True):
        np.testing.assert_array_equal(left[0][:3], right[0])
        assert 10 * left[1] == right[1]


def test_statistics_are_returns_and_lengths(make):
    total, length, episodes = 0.0, 0, 0
    for _, reward, info in play(wrappers.RecordEpisodeStatistics(make()))[1:]:
        total, length = total + reward, length + 1
        if "episode" in info:
            assert info["episode"]["r"] == pytest.approx(total)
            assert info["episode"]["l"] == length
            total, length, episodes = 0.0, 0, episodes + 1
    assert episodes > 5


def test_time_limit_truncates_without_an_answer(make):
    env = wrappers.TimeLimit(make(), max_episode_steps=1)
    env.reset(seed=0)
    sample = 1
    *_, terminated, truncated, info = env.step(sample)
    assert (terminated, truncated) == (False, True)
    assert "answer" not in info
    env.reset()
    assert not env.step(0)[4]["right"]


def test_masks_reach_through_wrappers(make):
    env = wrappers.RecordEpisodeStatistics(wrappers.TimeLimit(make(), 5))
    _, info = env.reset(seed=0)
    np.testing.assert_array_equal(env.get_wrapper_attr("action_masks")(), info["action_mask"])


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_vector_equals_gymnasiums_own_over_scalars(make, many, mode, limit):
    def one():
        return make() if limit is None else wrappers.TimeLimit(make(), limit)

    ours = many(autoreset_mode=mode, max_episode_steps=limit)
    theirs = SyncVectorEnv([one] * N, autoreset_mode=mode)
    assert ours.metadata["autoreset_mode"] is mode
    results = [env.reset(seed=5) for env in (ours, theirs)]
    rng, ended = np.random.default_rng(0), 0
    for _ in range(40):
        np.testing.assert_array_equal(results[0][0], results[1][0])
        masks = [np.stack(info["action_mask"]) for _, info in results]
        np.testing.assert_array_equal(*masks)
        actions = legal(masks[0], rng)
        steps = [env.step(actions) for env in (ours, theirs)]
        for left, right in zip(steps[0][1:4], steps[1][1:4], strict=True):
            np.testing.assert_array_equal(left, right)
        ended += (steps[0][2] | steps[0][3]).sum()
        results = [(step[0], step[4]) for step in steps]
    assert ended > N


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_vector_statistics_are_returns_and_lengths(many, mode):
    env = vector_wrappers.RecordEpisodeStatistics(many(autoreset_mode=mode))
    _, info = env.reset(seed=0)
    rng = np.random.default_rng(0)
    total, length, over, episodes = np.zeros(N), np.zeros(N, int), np.zeros(N, bool), 0
    for _ in range(50):
        _, rewards, terminated, _, info = env.step(legal(info["action_mask"], rng))
        total, length = total + rewards, length + ~over
        assert not rewards[over].any()
        if terminated.any():
            np.testing.assert_allclose(info["episode"]["r"][terminated], total[terminated])
            np.testing.assert_array_equal(info["episode"]["l"][terminated], length[terminated])
            total[terminated], length[terminated] = 0.0, 0
            episodes += terminated.sum()
        over = terminated if mode is AutoresetMode.NEXT_STEP else over
    assert episodes > N


def test_vector_wrappers_over_observations(many):
    env = many(autoreset_mode="NextStep")
    env = vector_wrappers.FlattenObservation(env)
    env = vector_wrappers.NormalizeObservation(env)
    env = vector_wrappers.TransformReward(env, lambda rewards: 10 * rewards)
    _, info = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        observation, _, terminated, _, info = env.step(legal(info["action_mask"], rng))
        assert np.isfinite(observation).all()
    assert set(info) >= {"action_mask", "right", "_right"} or not terminated.any()


def test_without_autoreset_only_what_is_asked_for_starts_again(many):
    env = many(autoreset_mode="Disabled")
    env.reset(seed=0)
    stop = np.zeros(N, np.int64)
    stop[2:] = 1  # SAMPLE goes on
    _, _, terminated, _, info = env.step(stop)
    np.testing.assert_array_equal(terminated, stop == 0)
    np.testing.assert_array_equal(info["_right"], terminated)
    with pytest.raises(IllegalActionError, match=r"environments \[0, 1\]: expected a reset"):
        env.step(np.ones(N, np.int64))
    before = env.replay.episodes.num_attempts.copy()
    env.reset(options={"reset_mask": terminated})
    np.testing.assert_array_equal(env.replay.episodes.num_attempts[2:], before[2:])
    assert not env.step(np.ones(N, np.int64))[2].all()


def test_vector_refuses_what_it_does_not_know(many):
    env = many()
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="expected reset_mask, found"):
        env.reset(options={"price": 1.0})
    with pytest.raises(ConfigError, match="expected bool of shape"):
        env.reset(options={"reset_mask": np.ones(N + 1, bool)})
    for steps in (0, -1, 1.5, np.nan):
        with pytest.raises(ConfigError, match="max_episode_steps: expected a whole number from 1"):
            many(max_episode_steps=steps)
    for low, high in ((-1, 5), (0, 1), (2, 1), (np.nan, 1), (1, np.inf), ("1", 2), (None, 2)):
        with pytest.raises(
            ConfigError, match=f"range: expected 0 < low <= high, found low={low!r}"
        ):
            LogUniform(low=low, high=high)


@pytest.mark.parametrize("action", [-1, 99, 1.5, "1", None, np.nan])
def test_what_stands_for_no_action_is_refused_by_both(make, many, action):
    env, vector = make(), many(illegal="stop")
    env.reset(seed=0)
    vector.reset(seed=0)
    with pytest.raises(IllegalActionError, match="action: expected a whole number from 0 to 4"):
        env.step(action)
    with pytest.raises(IllegalActionError, match="expected whole numbers from 0 to 4"):
        vector.step(np.array([1] * (N - 1) + [action], object if action is None else None))
    with pytest.raises(IllegalActionError, match=r"of shape \(6,\), found object of shape"):
        vector.step([1] * (N - 1) + [[action]])
    with pytest.raises(IllegalActionError, match=r"of shape \(6,\), found int64 of shape \(7,\)"):
        vector.step(np.ones(N + 1, np.int64))
    for flag in (True, np.True_):
        with pytest.raises(IllegalActionError, match="action: expected a whole number"):
            env.step(flag)
    assert env.step(np.array(0))[2]  # STOP is always legal


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": np.nan}, "budget: expected a number, found nan"),
        ({"budget": -1}, "budget: expected at least 0"),
        ({"budget": None}, "budget: expected a number"),
        ({"price": 0}, "price: expected at least 1e-12 and at most"),
        ({"price": "low"}, "price: expected a number"),
        ({"round_price": -1}, "round_price: expected 0, or"),
        ({"question": 10**6}, "question: expected a whole number from 0 to"),
        ({"question": -1}, "question: expected a whole number from 0 to"),
        ({"question": 1.5}, "question: expected a whole number from 0 to"),
        ({"attempt": 1}, "attempt: expected a whole number from 0 to 0"),
        ({"wording": 1}, "options: expected question, attempt, price.*found \\['wording'\\]"),
        ([("price", 1)], "options: expected question, attempt, price"),
        (5, "options: expected question, attempt, price.*found 5"),
    ],
)
def test_options_out_of_range_are_refused(make, options, message):
    with pytest.raises(ConfigError, match=message):
        make().reset(seed=0, options=options)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prices": (1e-5, 1e-2)}, r"prices: expected LogUniform.*found \(1e-05, 0.01\)"),
        ({"budgets": 5.0}, "budgets: expected LogUniform"),
        ({"budgets": (np.nan, 5.0)}, "budgets: expected LogUniform"),
        ({"reward": "utility"}, "reward: expected a function of a Step, found 'utility'"),
        ({"illegal": "ignore"}, r"illegal: expected one of \['raise', 'stop', 'penalty'\]"),
    ],
)
def test_settings_out_of_range_are_refused_by_both(validation, config, many, settings, message):
    with pytest.raises(ConfigError, match=message):
        many(**settings)
    with pytest.raises(ConfigError, match=message):
        ComputeEnv(validation.questions, validation.backend, config, validation.grader, **settings)


@pytest.mark.parametrize(("illegal", "cost"), [("stop", 0.0), ("penalty", 1.0)])
def test_a_forbidden_action_counts_as_stop_in_both(validation, config, many, illegal, cost):
    parts = validation.questions, validation.backend, config, validation.grader
    env, vector = ComputeEnv(*parts, illegal=illegal), many(illegal=illegal)
    revise = 2  # before there is an attempt
    for actions in ([1, 0], [0], [revise]):
        env.reset(seed=0)
        vector.reset(seed=0)
        for action in actions:
            _, reward, terminated, _, info = env.step(action)
            _, rewards, ended, _, infos = vector.step(np.full(N, action))
            assert (reward, terminated) == (rewards[0], ended[0])
            assert info["illegal"] == infos["illegal"][0]
        assert info["illegal"] == (actions == [revise])
        assert terminated
    assert reward == -cost


def test_an_algorithm_without_masks_can_run(validation, config):
    parts = validation.questions, validation.backend, config, validation.grader
    env = ComputeEnv(*parts, illegal="penalty")
    model = DQN("MlpPolicy", env, learning_starts=50, gamma=1.0, seed=0)
    model.learn(300)
    assert env.action_space.contains(model.predict(env.reset()[0])[0])


def test_seeds_are_as_many_as_environments(many):
    with pytest.raises(ConfigError, match=f"seed: expected {N} seeds, found 2"):
        many().reset(seed=[1, 2])
    with pytest.raises(ConfigError, match=r"seed: expected a whole number or one each, found 1\.5"):
        many().reset(seed=1.5)
    with pytest.raises(
        ConfigError, match="seed: expected a whole number of at least 0, found True"
    ):
        many().reset(seed=True)
    found = [many().reset(seed=seed)[0] for seed in (np.int64(3), 3)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("name", [envs.COMPUTE_ID, envs.SEGMENT_ID, envs.SESSION_ID])
def test_seeds_are_whole_and_traces_are_named(name):
    for seed in (-1, 1.5, True):
        with pytest.raises(ConfigError, match=f"seed: expected a whole number of.* found {seed}"):
            gymnasium.make(name).reset(seed=seed)
    with pytest.raises(ConfigError, match="seed: expected a whole number of at least 0, found -1"):
        gymnasium.make_vec(name, num_envs=2).reset(seed=[0, -1])
    for make in (gymnasium.make, gymnasium.make_vec):
        with pytest.raises(ConfigError, match=r"traces: expected the directory.*found None; leave"):
            make(name, traces=None)


@pytest.mark.parametrize("name", [envs.COMPUTE_ID, envs.SEGMENT_ID])
def test_copies_and_pickles_leave_out_what_was_recorded(name):
    env = gymnasium.make(name)
    whole = pickle.dumps(env)
    assert len(whole) < 1_000_000
    env.reset(seed=3)
    copies = [copy.deepcopy(env), cloudpickle.loads(cloudpickle.dumps(env))]
    expected = env.step(1)
    for again in copies:
        found = again.step(1)
        np.testing.assert_array_equal(found[0], expected[0])
        assert found[1:3] == expected[1:3]
    fresh = pickle.loads(whole)
    np.testing.assert_array_equal(fresh.reset(seed=3)[0], env.reset(seed=3)[0])


def test_a_pickled_vector_environment_goes_on_from_where_it_was(many):
    env = many()
    env.reset(seed=3)
    again = pickle.loads(pickle.dumps(env))
    for _ in range(3):
        for found, expected in zip(
            again.step(np.ones(N, int)), env.step(np.ones(N, int)), strict=True
        ):
            if isinstance(expected, np.ndarray):
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_signals_are_hidden_in_a_share_of_episodes(many, share):
    with pytest.raises(ConfigError, match="hide_signals: expected at least 0 and at most 1, found"):
        many(hide_signals=share)


def test_make_vec_takes_time_limit_and_mode():
    env = gymnasium.make_vec(
        envs.COMPUTE_ID, num_envs=2, max_episode_steps=1, autoreset_mode="NextStep", **ARGUMENTS
    )
    env.reset(seed=0)
    *_, truncated, _ = env.step(np.ones(2, np.int64))
    assert truncated.all()


def test_maskable_ppo_of_stable_baselines3_keeps_to_the_masks(make):
    env = make_vec_env(make, n_envs=4, seed=0)
    model = MaskablePPO("MlpPolicy", env, n_steps=32, batch_size=64, gamma=1.0, seed=0)
    model.learn(512)  # an illegal action would raise
    masks = np.stack(env.env_method("action_masks"))
    actions, _ = model.predict(env.reset(), action_masks=masks)
    assert masks[np.arange(4), actions].all()
    assert len(model.ep_info_buffer) > 10
