"""Sessions: the environment is Gymnasium's, closed form and simulation agree, and notes pay."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs  # noqa: F401 - registers
from controller.errors import ConfigError, IllegalActionError, TraceFormatError
from envs.sessions.environment import SessionEnv, SessionVectorEnv
from envs.sessions.state import ACTIONS, LOOK_UP, Planned
from envs.sessions.table import LEVELS, VOTERS, read_sessions
from envs.sessions.terms import ClosedForm, Expected
from envs.traces.format import TraceSet
from tests.conftest import CHECKPOINTS

TRACES = TraceSet.read(CHECKPOINTS / "sessions")


@pytest.fixture(scope="module")
def table():
    return read_sessions(TRACES, ["validation"])


def legal(mask, rng):
    return (rng.random(mask.shape) * mask).argmax(-1)


def terms(count, **given):
    told = {
        "questions": 4.0,
        "predictability": 0.8,
        "wake_price": 3e-4,
        "idle_price": 3e-5,
        "step_price": 1e-4,
    } | given
    return Expected(**{name: np.full(count, value) for name, value in told.items()})


def mean_reward(table, policy, num_envs=4096, steps=60, **options):
    """Mean and standard error of the reward of whole sessions."""
    env = SessionVectorEnv(table, num_envs, options)
    env.reset(seed=0)
    totals, found = np.zeros(num_envs), []
    for _ in range(steps):
        _, reward, over, _, _ = env.step(policy.act(env.replay, env.replay.mask()))
        totals += reward
        found += totals[over].tolist()
        totals[over] = 0.0
    return np.mean(found), np.std(found) / len(found) ** 0.5


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
    with pytest.raises(IllegalActionError, match="found look up"):
        env.step(np.int64(LOOK_UP))


@pytest.mark.parametrize("idle_price", [1e-5, 3e-4])
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_the_closed_form_is_what_sessions_bring(table, level, idle_price):
    given = {"questions": 5.0, "predictability": 0.7, "idle_price": idle_price}
    exact, kinds = ClosedForm(table), np.arange(len(table.kinds))
    expected = terms(len(kinds), **given)
    worth, p = exact.answering(kinds, expected).max(0), 0.7
    without = 5.0 * (p * worth[:, 0] + (1 - p) * worth[:, 1])
    told = (without + exact.levels(kinds, expected)[level]).mean()
    found, error = mean_reward(
        table, Planned(exact, level), wake_price=3e-4, step_price=1e-4, **given
    )
    assert abs(found - told) < 4 * error


def test_preparing_pays_from_the_break_even_on(table):
    exact, kinds = ClosedForm(table), np.arange(len(table.kinds))
    least = exact.break_even(kinds, terms(len(kinds)))
    assert np.isfinite(least).any()
    for kind in kinds:
        for level in np.flatnonzero(np.isfinite(least[:, kind])):
            around = terms(2, questions=1.0)
            around.questions[:] = least[level, kind] * np.array([0.99, 1.01])
            below, above = exact.levels(np.full(2, kind), around)[level + 1]
            assert below < 0 < above


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


@pytest.mark.parametrize("options", [{"questions": 99}, {"context": -1}, {"price": 1.0}])
def test_what_a_session_cannot_be_is_refused(table, options):
    with pytest.raises(ConfigError, match="expected"):
        SessionEnv(table).reset(seed=0, options=options)
