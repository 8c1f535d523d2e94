"""Closed form and simulation agree, and preparing pays from the break-even on."""

import numpy as np
import pytest

from envs.sessions.environment import SessionVectorEnv
from envs.sessions.table import Expected, read_sessions
from envs.traces.format import TraceSet
from recipes.break_even import ClosedForm, Planned
from tests.conftest import CHECKPOINTS


@pytest.fixture(scope="module")
def table():
    return read_sessions(TraceSet.read(CHECKPOINTS / "sessions"), ["validation"])


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
