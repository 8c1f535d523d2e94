"""Replay of traces that can be read by eye."""

import numpy as np
import pytest

from envs.draws import Hidden, Streams
from envs.replay import AttemptReplay
from envs.traces.derive import derive_config
from envs.traces.table import build_table

ROWS = np.arange(2)


@pytest.fixture
def replay(tiny):
    table = build_table(tiny, ["train"])
    replay = AttemptReplay(table, derive_config(table, tiny.models()), 2, permute=False)
    replay.begin(ROWS, ROWS, np.full(2, 1e-3), np.full(2, np.inf))
    return replay


def take(replay, rows, action):
    position = replay.config.actions.names.index(action)
    replay.take(rows, np.full(len(rows), position), Streams(np.arange(2, dtype=np.uint64)))


def test_attempts_come_in_recorded_order_and_the_leader_is_graded(replay):
    take(replay, ROWS, "SAMPLE")
    assert replay.right().tolist() == [True, False]
    assert replay.episodes.spent.tolist() == [15, 15]
    take(replay, ROWS, "ESCALATE")
    assert replay.right().tolist() == [True, True]
    assert replay.episodes.spent.tolist() == [15 + 10 * 35, 15 + 10 * 55]
    assert replay.tally["escalations"].tolist() == [1, 1]


def test_a_revision_is_of_the_leading_answers_attempt(replay):
    take(replay, ROWS[:1], "SAMPLE")
    revise = replay.config.actions.names.index("REVISE")
    assert not replay.episodes.mask()[0, revise]
    replay.episodes.leader[0] = replay.table.attempts["answer"][replay.table.stream[0, 0, 1]]
    take(replay, ROWS[:1], "SAMPLE")
    assert replay.episodes.mask()[0, revise]
    take(replay, ROWS[:1], "REVISE")
    assert replay.episodes.revisions[0] == 1
    assert replay.episodes.spent[0] == 15 + 12 + (21 + 10)


def test_hidden_signals_are_unknown(replay):
    some, price, budget = np.array([True, False]), np.full(2, 1e-3), np.full(2, np.inf)
    replay.begin(ROWS, ROWS, price, budget, hidden=Hidden(logprobs=True, prompt=some))
    take(replay, ROWS, "SAMPLE")
    assert np.isnan(replay.episodes.last_logprob).all()
    replay.begin(ROWS, ROWS, price, budget, hidden=Hidden(prompt=some))
    assert replay.episodes.prompt_counted.tolist() == [False, True]
