"""Sessions: the environment is Gymnasium's, and notes are what was recorded."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs  # noqa: F401 - registers
from controller.errors import ConfigError, IllegalActionError, TraceFormatError
from envs.sessions.environment import SessionEnv, SessionVectorEnv
from envs.sessions.table import ACTIONS, LEVELS, LOOK_UP, VOTERS, read_sessions
from envs.traces.format import TraceSet
from tests.conftest import CHECKPOINTS

TRACES = TraceSet.read(CHECKPOINTS / "sessions")


@pytest.fixture(scope="module")
def table():
    return read_sessions(TRACES, ["validation"])


def legal(mask, rng):
    return (rng.random(mask.shape) * mask).argmax(-1)


def test_gymnasium_takes_it_for_an_environment():
    env = gymnasium.make("allot/Session-v0", split="validation", illegal="penalty")
    check_env(env.unwrapped)


@pytest.mark.parametrize(("illegal", "penalty"), [("stop", 0.0), ("penalty", 1.0)])
def test_a_forbidden_action_counts_as_the_first_that_is_allowed(table, illegal, penalty):
    lenient, strict = SessionEnv(table, illegal=illegal), SessionEnv(table)
    for env in (lenient, strict):
        env.reset(seed=0, options={"questions": table.most})
    for forbidden, counts_as in ((LOOK_UP, "wait"), (0, "answer(small)")):
        made = lenient.step(np.int64(forbidden))
        meant = strict.step(np.int64(ACTIONS.index(counts_as)))
        np.testing.assert_array_equal(made[0], meant[0])
        assert made[1] == meant[1] - penalty


def test_many_play_what_single_ones_play(table):
    many, rng = SessionVectorEnv(table, 5), np.random.default_rng(0)
    singles = [SessionEnv(table) for _ in range(5)]
    seen, info = many.reset(seed=3)
    alone = [env.reset(seed=3 + i) for i, env in enumerate(singles)]
    for _ in range(60):
        np.testing.assert_array_equal(seen, [observation for observation, _ in alone])
        actions = legal(info["action_mask"], rng)
        seen, rewards, over, _, info = many.step(actions)
        for i, env in enumerate(singles):
            observation, reward, ended, _, told = env.step(actions[i])
            assert (reward, ended) == (rewards[i], over[i])
            alone[i] = env.reset() if ended else (observation, told)


def test_notes_are_looked_up_only_where_they_are(table):
    env = SessionEnv(table)
    env.reset(seed=0, options={"questions": table.most, "predictability": 1.0})
    _, _, _, _, info = env.step(np.int64(ACTIONS.index("prepare(likely)")))
    assert info["action_mask"][LOOK_UP] == 1
    env.reset(seed=0, options={"questions": table.most, "predictability": 0.0})
    _, _, _, _, info = env.step(np.int64(ACTIONS.index("prepare(likely)")))
    assert info["action_mask"][LOOK_UP] == 0
    with pytest.raises(IllegalActionError, match=rf"found {LOOK_UP}"):
        env.step(np.int64(LOOK_UP))


def test_outcomes_are_those_that_were_recorded(table):
    attempts = TRACES.attempts.to_pandas().merge(TRACES.questions.to_pandas(), on="question_id")
    attempts = attempts[attempts["split"] == "validation"]
    for kind, name in enumerate(table.kinds):
        own = table.kind == kind
        large = attempts[(attempts["dataset"] == name) & (attempts["model"] == "large")]
        for level, half in ((1, slice(None, table.most)), (2, slice(table.most, None))):
            share = large[large["level"] == level]["correct"].mean()
            assert table.note_right[LEVELS.index("all"), own, half].mean() == pytest.approx(share)
            assert table.right[1, own, half].mean() == pytest.approx(share)
        small = attempts[(attempts["dataset"] == name) & (attempts["model"] == "small")]
        tokens = (small["prompt_tokens"] + small["completion_tokens"]).mean()
        assert table.cost[0, own].mean() == pytest.approx(tokens)


def test_a_note_is_another_attempt_than_the_one_made_awake(table):
    once = table.note_right[LEVELS.index("all")]
    assert (once != table.right[1]).any()
    assert table.ways > VOTERS


def test_sets_without_contexts_are_refused():
    with pytest.raises(TraceFormatError, match="about each context"):
        read_sessions(TraceSet.read(CHECKPOINTS / "traces"), ["validation"])


@pytest.mark.parametrize("price", [0.0, 1e-9, 1e-3, 10.0])
def test_idle_time_never_costs_more_than_waiting(table, price):
    for option in ("idle_price", "wake_price"):
        environment = SessionEnv(table)
        environment.reset(seed=3, options={option: price})
        expected = environment.replay.expected
        assert getattr(expected, option)[0] == price
        assert expected.idle_price[0] <= expected.wake_price[0]


@pytest.mark.parametrize(
    "options",
    [
        {"questions": 99},
        {"context": -1},
        {"context": 1.5},
        {"price": 1.0},
        {"idle_price": 2.0, "wake_price": 1.0},
    ],
)
def test_what_a_session_cannot_be_is_refused(table, options):
    with pytest.raises(ConfigError, match="expected"):
        SessionEnv(table).reset(seed=0, options=options)
