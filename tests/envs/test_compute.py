"""Scalar and vector environments over the bundled traces."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import envs
from controller.backends.base import run_now
from controller.errors import ConfigError, IllegalActionError
from controller.granularity import granularity_of
from controller.process.types import Question
from envs.compute import ComputeEnv
from envs.reward import ROUND_PRICES, LogUniform, utility
from envs.traces.derive import derive_config
from envs.traces.format import TraceSet
from envs.traces.recorded import Recorded, read_recorded
from envs.traces.table import build_table
from envs.vector import ComputeVectorEnv
from tests.conftest import CHECKPOINTS
from tests.menus import write_menu
from training.learn.calibration import with_calibration

N = 8


def scalar(validation: Recorded, config, **kwargs) -> ComputeEnv:
    return ComputeEnv(validation.questions, validation.backend, config, validation.grader, **kwargs)


def legal(mask, rng):
    return (rng.random(mask.shape) * mask).argmax(-1)


def test_passes_gymnasiums_checker(validation, config):
    check_env(scalar(validation, config, illegal="stop"), skip_render_check=True)


def test_passes_stable_baselines3s_checker(validation, config):
    sb3_check_env(scalar(validation, config, illegal="stop"), warn=False)


def test_make_and_make_vec():
    env = gymnasium.make(envs.COMPUTE_ID, traces=str(CHECKPOINTS / "traces"), split="validation")
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert info["action_mask"].dtype == np.int8
    many = gymnasium.make_vec(
        envs.COMPUTE_ID, num_envs=3, traces=str(CHECKPOINTS / "traces"), split="validation"
    )
    observations, _ = many.reset(seed=0)
    np.testing.assert_array_equal(observations[0], observation)


def check_same(recorded: Recorded, config, ranges) -> None:
    """Raise unless scalar and vector environments play the same episodes, bit for bit."""
    vector = ComputeVectorEnv(recorded.table, config, N, **ranges)
    scalars = [scalar(recorded, config, **ranges) for _ in range(N)]
    observations, info = vector.reset(seed=7)
    seen = [env.reset(seed=7 + i) for i, env in enumerate(scalars)]
    rng, finished = np.random.default_rng(0), 0
    for _ in range(60):
        np.testing.assert_array_equal(observations, [o for o, _ in seen])
        np.testing.assert_array_equal(info["action_mask"], [i["action_mask"] for _, i in seen])
        actions = legal(info["action_mask"], rng)
        observations, rewards, done, _, info = vector.step(actions)
        for i, env in enumerate(scalars):
            observation, reward, terminated, truncated, single = env.step(actions[i])
            assert (reward, terminated, truncated) == (rewards[i], done[i], False)
            if terminated:
                finished += 1
                np.testing.assert_array_equal(observation, info["final_obs"][i])
                assert single["right"] == info["final_info"]["right"][i]
                assert single["cost"] == info["final_info"]["cost"][i]
                observation, single = env.reset()
            seen[i] = observation, single
    assert finished > N


def careful(step):
    return utility(step) - 0.7 * step.wrong


@pytest.mark.parametrize(
    ("budgets", "reward"), [(None, careful), (LogUniform(low=10, high=5000), utility)]
)
@pytest.mark.parametrize("sample_widths", [(1,), (1, 4)])
def test_scalar_and_vector_give_the_same_episodes_bit_for_bit(
    validation, config, budgets, reward, sample_widths
):
    config = replace(config, sample_widths=sample_widths)
    ranges = {"budgets": budgets, "round_prices": ROUND_PRICES, "reward": reward}
    check_same(validation, config, ranges)


@pytest.mark.parametrize("budgets", [None, LogUniform(low=10, high=5000)])
@pytest.mark.parametrize("prompt_shares", [(), (0.25, 0.5, 0.1, 0.2)])
def test_so_do_those_of_a_menu(menu, menu_config, budgets, prompt_shares):
    recorded = read_recorded(menu, ["validation"], list(menu_config.arm_names))
    cost = replace(menu_config.cost, prompt_shares=prompt_shares)
    menu_config = replace(menu_config, cost=cost)
    check_same(recorded, menu_config, {"budgets": budgets, "round_prices": ROUND_PRICES})


@pytest.mark.parametrize("budgets", [None, LogUniform(low=10, high=5000)])
def test_so_do_those_of_arms_that_revise_what_others_wrote(tmp_path, budgets):
    menu = TraceSet.read(write_menu(tmp_path / "menu", 60, revisers=("cat", "whale")))
    table = build_table(menu, ["train"], [model.name for model in menu.models()])
    config = derive_config(table, menu.models(), menu.arms())
    assert [n for n in config.actions.names if "REVISE" in n] == ["REVISE(cat)", "REVISE(whale)"]
    recorded = read_recorded(menu, ["validation"], list(config.arm_names))
    check_same(recorded, config, {"budgets": budgets, "round_prices": ROUND_PRICES})


@pytest.mark.parametrize("budgets", [None, LogUniform(low=10, high=5000)])
@pytest.mark.parametrize("verifier", ["ant", "whale"])
def test_so_do_those_of_an_arm_that_verifies(tmp_path, verifier, budgets):
    menu = TraceSet.read(
        write_menu(tmp_path / "menu", 60, revisers=("cat", "whale"), verifier=verifier)
    )
    table = build_table(menu, ["train"], [model.name for model in menu.models()])
    config = derive_config(table, menu.models(), menu.arms())
    _, config = with_calibration(table, config)
    assert (config.arm_names[config.verifier], config.verification_overhead) == (verifier, 25)
    recorded = read_recorded(menu, ["validation"], list(config.arm_names))
    check_same(recorded, config, {"budgets": budgets, "round_prices": ROUND_PRICES})


def test_so_do_those_of_an_arm_that_thinks(tmp_path):
    """The share of the latest attempt is seen."""
    menu = TraceSet.read(write_menu(tmp_path / "menu", 60, thinker="cow"))
    table = build_table(menu, ["train"], [model.name for model in menu.models()])
    config = derive_config(table, menu.models(), menu.arms())
    recorded = read_recorded(menu, ["validation"], list(config.arm_names))
    check_same(recorded, config, {})
    env = scalar(recorded, config)
    assert granularity_of(config).features[-1] == "last_thinking"
    observation, _ = env.reset(seed=0)
    assert observation[-1] == 0
    observation, *_ = env.step(config.actions.names.index("ESCALATE(cow)"))
    assert observation[-1] == pytest.approx(0.5, abs=0.05)
    observation, *_ = env.step(config.actions.names.index("SAMPLE(cat)"))
    assert observation[-1] == 0


def test_references_never_reach_the_observation(validation, config):
    shuffled = np.random.default_rng(0).permutation(len(validation.questions))
    swapped = tuple(
        replace(q, reference=validation.questions[j].reference)
        for q, j in zip(validation.questions, shuffled, strict=True)
    )
    table = replace(validation.table, answer_correct=~validation.table.answer_correct)
    first = ComputeVectorEnv(validation.table, config, N)
    second = ComputeVectorEnv(table, config, N)
    envs_ = (
        scalar(validation, config),
        ComputeEnv(swapped, validation.backend, config, validation.grader),
    )
    results = [env.reset(seed=3) for env in (first, second)]
    singles = [env.reset(seed=3)[0] for env in envs_]
    rng = np.random.default_rng(1)
    for _ in range(40):
        np.testing.assert_array_equal(results[0][0], results[1][0])
        np.testing.assert_array_equal(*singles)
        actions = legal(results[0][1]["action_mask"], rng)
        results = [(o, i) for o, *_, i in (env.step(actions) for env in (first, second))]
        singles = [env.reset()[0] for env in envs_]


def test_reward_is_accuracy_less_price_times_cost(validation, config):
    env = scalar(validation, config)
    rng, total = np.random.default_rng(0), 0.0
    _, info = env.reset(seed=1, options={"question": 5, "price": 2e-4})
    while True:
        _, reward, terminated, _, info = env.step(legal(info["action_mask"], rng))
        total += reward
        if terminated:
            break
    assert total == pytest.approx(info["right"] - 2e-4 * info["cost"])


def test_a_reward_of_ones_own_tells_wrong_answers_from_none(validation, config):
    env = scalar(validation, config, reward=careful)
    env.reset(seed=0)
    assert env.step(0)[1] == 0.0  # given up
    wrong = False
    for seed in range(50):
        env.reset(seed=seed, options={"price": 1e-9})
        env.step(1)
        if env.episode is not None and env.episode.answer:
            *_, info = stopped = env.step(0)
            wrong |= not info["right"]
            assert stopped[1] == pytest.approx(1.0 if info["right"] else -0.7, abs=1e-6)
    assert wrong
    odd = scalar(validation, config, reward=lambda step: 1.0)
    odd.reset(seed=0)
    with pytest.raises(ConfigError, match=r"reward: expected finite numbers of shape \(1,\)"):
        odd.step(0)


def test_budget_is_never_exceeded(validation, config):
    config = replace(config, reads_prompt=True, sample_widths=(1, 4))
    log_odds = np.zeros(validation.table.prompt_tokens.shape)
    budgets = LogUniform(low=1, high=5000)
    env = ComputeVectorEnv(validation.table, config, 8192, budgets=budgets, difficulty=log_odds)
    _, info = env.reset(seed=0)
    rng, episodes = np.random.default_rng(0), 0
    while episodes < 100_000:
        *_, info = env.step(legal(info["action_mask"], rng))
        final = info["final_info"]
        assert (env.replay.episodes.spent <= env.replay.episodes.budget).all()
        assert (final["cost"] <= final["budget"])[info["_final_info"]].all()
        episodes += int((info["_final_info"] & np.isfinite(final["budget"])).sum())


def test_every_recorded_sample_comes_once(validation, config):
    env = scalar(validation, config)
    env.reset(seed=0)
    sample = 1
    while env.action_masks()[sample]:
        env.step(sample)
        if env.episode is None:
            break
        indices = [attempt.attempt_id for attempt in env.episode.attempts]
        assert len(set(indices)) == len(indices)


def test_illegal_action_is_refused_with_a_reason(validation, config):
    env = scalar(validation, config)
    env.reset(seed=0)
    revise = 2
    assert not env.action_masks()[revise]
    with pytest.raises(IllegalActionError, match="expected one of"):
        env.step(revise)
    vector = ComputeVectorEnv(validation.table, config, 2)
    vector.reset(seed=0)
    with pytest.raises(IllegalActionError, match="environment 0: expected"):
        vector.step(np.array([revise, 0]))


def test_giving_up_is_free_and_wrong(validation, config):
    env = scalar(validation, config)
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(0)
    assert (reward, terminated, info["answer"], info["right"]) == (0.0, True, None, False)


def test_render_shows_each_decision(validation, config, capsys):
    env = scalar(validation, config, render_mode="ansi")
    env.reset(seed=0)
    env.step(1)
    env.step(0)
    text = env.render()
    assert "SAMPLE" in text
    assert "STOP" in text
    assert "answer" in text
    human = scalar(validation, config, render_mode="human")
    human.reset(seed=0)
    human.step(0)
    assert "STOP" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="render_mode"):
        scalar(validation, config, render_mode="gif")


def test_state_can_be_restored(validation, config):
    env = ComputeVectorEnv(validation.table, config, N)
    _, info = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        *_, info = env.step(legal(info["action_mask"], rng))
    state = {name: array.copy() for name, array in env.state().items()}
    actions = legal(info["action_mask"], rng)
    expected = env.step(actions)[:3]
    again = ComputeVectorEnv(validation.table, config, N)
    again.reset(seed=99)
    again.restore(state)
    for left, right in zip(expected, again.step(actions)[:3], strict=True):
        np.testing.assert_array_equal(left, right)
    del state["episodes/counts"]
    with pytest.raises(ConfigError, match="expected episodes/counts, found none: another version"):
        again.restore(state)


def test_questions_must_be_recorded(validation):
    with pytest.raises(Exception, match="recorded question"):
        run_now(validation.backend.prompt_states([Question(question_id="nope", text="?")]))


def test_picture_shows_more_after_a_step(validation, config):
    env = scalar(validation, config, render_mode="rgb_array")
    with pytest.raises(IllegalActionError, match="render: expected a reset first"):
        env.render()
    env.reset(seed=0)
    before = env.render()
    env.step(1)
    after = env.render()
    assert before.shape == after.shape == (480, 800, 3)
    assert before.dtype == np.uint8
    ink = [(picture < 128).any(2).sum() for picture in (before, after)]
    assert 0 < ink[0] < ink[1]
    for _ in range(40):
        env.reset()
        while env.episode is not None:
            env.step(int(np.flatnonzero(env.action_masks())[-1]))
            assert env.render().shape == after.shape
