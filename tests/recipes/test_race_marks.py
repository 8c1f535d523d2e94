"""What is known of samples side by side at their marks."""

import numpy as np
import pytest

from recipes.race import (
    FEATURES,
    Marks,
    keep_mask,
    keeps,
    kv_token_steps,
    signals,
    strongest,
)


def marks_of(answers, running, mean=None, written=8):
    """One race at a mark; samples that do not run have ended."""
    running = np.array([running], bool)
    samples = running.shape[1]
    told = np.zeros((1, samples)) if mean is None else np.array([mean])
    return Marks(
        prompt_tokens=np.array([10]),
        written=np.array([written]),
        running=running,
        ended=~running,
        answer=np.array([answers]),
        mean=told,
        last=told,
        lowest=told,
        places=np.full((1, samples), 4),
        shared=np.full((1, samples, samples), 4) - 2 * (1 - np.eye(samples, dtype=int)),
    )


def test_signals_are_those_of_the_tokens_one_by_one():
    rng = np.random.default_rng(0)
    for length in (1, 7, 8, 9, 23, 24):
        tokens = -rng.random(length)
        parts = [tokens[i : i + 8].mean() for i in range(0, length, 8)]
        groups = np.array([*parts, *[9.0] * (4 - len(parts))])
        found = signals(groups[None], np.array([length]), 8)[:, 0]  # (3, M + 1)
        assert (found[:, 0] == 0).all()
        for mark in range(1, 5):
            seen = -(-min(length, mark * 8) // 8)
            assert found[0, mark] == pytest.approx(tokens[: mark * 8].mean())
            assert found[1, mark] == parts[seen - 1]
            assert found[2, mark] == min(parts[:seen])


def test_held_tokens_are_those_of_each_step():
    for begin, end in ((0, 8), (8, 16), (16, 19), (5, 5)):
        held = sum(10 + token for token in range(begin + 1, end + 1))
        assert kv_token_steps(np.array(10), np.array(begin), np.array(end)) == held


def test_the_likelier_answer_leads_where_votes_tie():
    found = marks_of([0, 1, 1, 0, -1], [0] * 5, [-1.0, -0.1, -0.1, -1.0, 0.0])
    answer, votes, second, _ = found.poll
    assert (answer[0], votes[0], second[0]) == (1, 2, 2)
    assert marks_of([-1, -1], [0, 1]).poll[0][0] == -1


@pytest.mark.parametrize(("running", "settled"), [(1, True), (2, False)])
def test_a_vote_is_settled_if_those_that_run_cannot_turn_it(running, settled):
    found = marks_of([0, 0, 0, 1, *[-1] * running], [0] * 4 + [1] * running)
    assert found.settled[0] == settled


def test_the_strongest_of_those_that_run_go_on():
    found = marks_of([-1] * 5, [1, 1, 0, 1, 1])
    values = np.array([[0.0, 2.0, 9.0, 1.0, 2.0]])
    kept = strongest(found, values, np.array([2]))[0]
    assert kept.tolist() == [False, True, False, False, True]
    assert strongest(found, values, np.array([16]))[0].sum() == 4


def test_counts_that_keep_all_are_one_action():
    counts = keeps(16)
    allowed = keep_mask(marks_of([-1] * 16, [1] * 5 + [0] * 11), counts)[0]
    assert [count for count, ok in zip(counts, allowed, strict=True) if ok] == [0, 1, 2, 3, 4, 6]


def test_what_a_policy_sees_has_a_name_each_and_is_finite():
    for found in (marks_of([-1] * 4, [1] * 4, written=0), marks_of([0, 1, 1, -1], [0] * 4)):
        seen = found.observe(np.array([1e-3]), np.zeros((1, 4)))
        assert seen.shape == (1, len(FEATURES))
        assert np.isfinite(seen).all()
