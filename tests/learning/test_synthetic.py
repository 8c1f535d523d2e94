"""Drawn tables have the probabilities that the family says, and nothing else in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from controller.errors import ConfigError
from envs.reward import LogUniform
from envs.vector import ComputeVectorEnv
from tests.learning.synthetic import QuestionType, SyntheticFamily

FAMILY = SyntheticFamily()


@pytest.fixture(scope="module")
def table():
    return FAMILY.table(40_000, seed=1)


def test_table_is_right_as_often_as_the_family_says(table):
    right = table.answer_correct[np.arange(len(table)).repeat(10), table.attempts["answer"]]
    prior = FAMILY.prior.sum(1)
    for rung in (0, 1):
        expected = prior @ FAMILY.answer_probabilities[:, rung, 0]
        per_question = right[table.attempts["rung"] == rung].reshape(len(table), -1).mean(1)
        error = per_question.std() / len(table) ** 0.5
        assert abs(per_question.mean() - expected) < 4 * error


def test_hints_come_as_often_as_the_family_says(table):
    counts = np.bincount(table.levels - 1, minlength=FAMILY.num_hints)
    expected = FAMILY.prior.sum(0)
    assert np.abs(counts / len(table) - expected).max() < 4 * 0.5 / len(table) ** 0.5


def test_difficulty_is_the_log_odds_of_a_right_attempt_given_the_hint(table):
    right = table.answer_correct[np.arange(len(table)).repeat(10), table.attempts["answer"]]
    difficulty = FAMILY.difficulty(table)
    for hint in range(FAMILY.num_hints):
        asked = table.levels == hint + 1
        for rung in (0, 1):
            share = right[(table.attempts["rung"] == rung) & asked.repeat(10)].mean()
            expected = 1 / (1 + np.exp(-difficulty[asked][0, rung]))
            assert abs(share - expected) < 4 * 0.5 / asked.sum() ** 0.5


def test_wrong_answers_divide_as_the_family_says():
    kind = QuestionType(share=1.0, small=0.0, large=0.0, wrong=(0.7, 0.2, 0.1))
    table = SyntheticFamily(types=(kind,)).table(2_000, seed=0)
    votes = np.stack(
        [np.bincount(a, minlength=4) for a in table.attempts["answer"].reshape(2_000, 10)]
    )
    shares = np.sort(votes, axis=1)[:, ::-1].mean(0) / 10
    assert shares[0] == pytest.approx(0.7, abs=0.03)
    assert shares[3] == 0
    assert not table.answer_correct[np.arange(2_000).repeat(10), table.attempts["answer"]].any()


def test_answer_ids_tell_nothing_about_which_is_right(table):
    shares = table.answer_correct.mean(0)
    assert np.abs(shares - 1 / FAMILY.num_answers).max() < 4 * 0.5 / len(table) ** 0.5
    assert (table.answer_correct.sum(1) == 1).all()


def test_same_seed_same_table_other_seed_another():
    one, same, other = (FAMILY.table(50, seed=s) for s in (3, 3, 4))
    answers = [table.attempts["answer"] for table in (one, same, other)]
    assert (answers[0] == answers[1]).all()
    assert (one.levels == same.levels).all()
    assert (answers[0] != answers[2]).any()


def test_vector_environment_plays_it_at_constant_costs(table):
    config = FAMILY.config()
    price = LogUniform(low=1e-4, high=1e-4)
    env = ComputeVectorEnv(table, config, 8, prices=price, difficulty=FAMILY.difficulty(table))
    env.reset(seed=0)
    sample, climb = 1, len(config.actions) - 1
    paid = [-env.step(np.full(8, action))[1] / 1e-4 for action in (sample, sample, climb)]
    assert np.allclose(paid, [[200.0] * 8, [160.0] * 8, [4000.0] * 8])


def test_limits_are_those_of_the_table():
    family = replace(FAMILY, max_samples=3, max_escalations=0)
    table = family.table(10, seed=0)
    assert (table.stream_length == [3, 0]).all()


def test_one_hint_is_no_hint():
    family = SyntheticFamily(types=(QuestionType(share=1.0, small=0.5, large=0.5),))
    assert family.difficulty(family.table(5, seed=0)) is None
    assert not family.config().reads_prompt


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"share": 1.2}, "share"),
        ({"small": -0.1}, "small"),
        ({"wrong": (0.5, 0.4)}, "wrong"),
        ({"hints": ()}, "hints"),
    ],
)
def test_impossible_types_are_refused_by_name(change, named):
    with pytest.raises(ConfigError, match=named):
        QuestionType(**{"share": 1.0, "small": 0.5, "large": 0.5, **change})


def test_impossible_families_are_refused_by_name():
    half = QuestionType(share=0.5, small=0.5, large=0.5)
    with pytest.raises(ConfigError, match="shares"):
        SyntheticFamily(types=(half,))
    with pytest.raises(ConfigError, match="equally many"):
        SyntheticFamily(types=(half, replace(half, hints=(0.5, 0.5))))
    with pytest.raises(ConfigError, match="each to be given"):
        SyntheticFamily(types=(replace(half, share=1.0, hints=(1.0, 0.0)),))
    with pytest.raises(ConfigError, match="num_questions"):
        FAMILY.table(0, seed=0)
