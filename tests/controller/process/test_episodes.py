"""The state of episodes, attempt by attempt."""

from dataclasses import replace

import numpy as np
import pytest

from controller.errors import ConfigError
from controller.process.episodes import (
    NO_ANSWER,
    AttemptColumns,
    Episodes,
    score_weight,
)

ROW = np.zeros(1, np.int64)


def begin(episodes, budget=np.inf):
    episodes.reset(
        ROW,
        price=np.array([1e-3]),
        budget=np.array([budget]),
        prompt_tokens=np.array([[5, 7]]),
        limits=np.array([[4, 2]]),
        difficulty=np.full((1, 2), np.nan),
    )


def begun(process, budget=np.inf):
    episodes = Episodes(process, 1, 4)
    begin(episodes, budget)
    return episodes


def attempt(episodes, answer, rung=0, tokens=10, logprob=-0.5, thought=0):
    episodes.record(
        ROW,
        np.array([False]),
        AttemptColumns(
            rung=np.array([rung]),
            answer=np.array([answer]),
            prompt_tokens=np.array([(5, 7)[rung]]),
            completion_tokens=np.array([tokens]),
            reasoning_tokens=np.array([thought]),
            mean_logprob=np.array([logprob]),
            min_logprob=np.array([-1.0]),
            cut=np.array([False]),
            scoreable=np.array([True]),
            first_child=ROW[:, None],
            num_children=ROW[:, None],
        ),
    )
    episodes.finish_round(ROW)


def test_thinking_is_a_share_of_what_was_written(process):
    """Some servers count it beside the tokens that were written, none of which there may be."""
    episodes = begun(process)
    for thought, tokens, share in ((3, 12, 0.25), (30, 12, 1.0), (0, 12, 0.0), (4, 0, 0.0)):
        attempt(episodes, 0, tokens=tokens, thought=thought)
        assert episodes.last_thinking[0] == share


def test_the_majority_leads_and_a_large_answer_outvotes_it(process):
    episodes = begun(process)
    for answer in (0, 1, 1):
        attempt(episodes, answer)
    assert (episodes.leader[0], episodes.top[0], episodes.second[0]) == (1, 2, 1)
    attempt(episodes, 2, rung=1)
    assert (episodes.leader[0], episodes.top[0], episodes.second[0]) == (2, 3, 2)


SURE = (0.0, -0.5, 2.0, 0.0, -1.0, -0.5, 0.0, 1.0)
"""Tie breaks: a small attempt by its log-probability, a large one by its length."""


@pytest.mark.parametrize(
    ("attempts", "leader"),
    [
        ([(0, -0.5), (1, -0.4)], 1),
        ([(0, -0.4), (1, -0.5)], 0),
        ([(0, np.nan), (1, -0.6)], 0),  # unknown counts as usual
        ([(0, np.nan), (1, -0.4)], 1),
        ([(0, -0.5), (1, -0.4), (0, -0.9)], 0),  # more votes count before
        ([(0, -0.5), (1, -0.2), (0, -0.9), (1, -0.9), (0, -0.1), (1, -0.2)], 0),
    ],
)
def test_on_a_tie_the_surer_answer_leads(process, attempts, leader):
    episodes = begun(replace(process, tie_breaks=SURE))
    for answer, logprob in attempts:
        attempt(episodes, answer, logprob=logprob)
    assert episodes.leader[0] == leader


def test_ties_between_arms_are_broken_by_what_each_is_known_for(process):
    """A large attempt of e tokens is as sure as a usual small one."""
    for tokens, leader in ((2, 0), (4, 1)):
        episodes = begun(replace(process, tie_breaks=SURE, vote_weights=(1, 1)))
        attempt(episodes, 0)
        attempt(episodes, 1, rung=1, tokens=tokens)
        assert episodes.leader[0] == leader


def test_without_tie_breaks_the_larger_model_then_the_first_leads(process):
    episodes = begun(replace(process, vote_weights=(1, 1)))
    attempt(episodes, 0)
    attempt(episodes, 1, logprob=-0.1)
    assert episodes.leader[0] == 0
    attempt(episodes, 2, rung=1)
    assert episodes.leader[0] == 2
    with pytest.raises(ConfigError, match="tie_breaks: expected 8 numbers, or none"):
        replace(process, tie_breaks=(1.0,))


def verified(episodes, *scores):
    count = len(scores)
    episodes.score(np.repeat(ROW, count), np.arange(count), np.zeros(count, int), np.array(scores))
    episodes.finish_verification(ROW)


@pytest.mark.parametrize(
    ("scores", "leader"), [((0.9, 0.9, 0.9), 1), ((0.0, 0.0, 0.0), 1), ((0.2, 0.2, 0.3), 2)]
)
def test_ties_that_verification_leaves_are_broken_as_before_it(process, scores, leader):
    episodes = begun(replace(process, tie_breaks=SURE))
    for answer, logprob in enumerate((-0.9, -0.1, -0.5)):
        attempt(episodes, answer, logprob=logprob)
    verified(episodes, *scores)
    assert episodes.leader[0] == leader
    assert episodes.top[0] >= episodes.second[0]


@pytest.mark.parametrize(("tokens", "leader"), [(99, 2), (1, 1)])
def test_a_leader_by_verification_gives_way_to_a_surer_answer(process, tokens, leader):
    episodes = begun(replace(process, vote_weights=(1, 1), tie_breaks=SURE))
    attempt(episodes, 0)
    attempt(episodes, 1)
    verified(episodes, 0.2, 0.5)
    assert episodes.leader[0] == 1
    attempt(episodes, 2, rung=1, tokens=tokens)
    assert episodes.leader[0] == leader


def test_an_answer_that_overtakes_is_as_sure_as_its_surest_attempt(process):
    episodes = begun(replace(process, tie_breaks=SURE))
    for answer, logprob in ((0, -0.2), (1, -0.1), (1, -0.9), (0, -0.5)):
        attempt(episodes, answer, logprob=logprob)
    assert episodes.leader[0] == 1
    attempt(episodes, 0, logprob=-0.2)
    attempt(episodes, 1, logprob=-0.9)  # it comes level, and was surer
    assert episodes.leader[0] == 1
    begin(episodes)
    attempt(episodes, 0, logprob=-0.4)
    attempt(episodes, 1, logprob=-0.5)
    assert episodes.leader[0] == 0  # how sure answers were of another question is forgotten


def test_each_models_prompt_is_paid_for_once(process):
    episodes = begun(process)
    attempt(episodes, 0)
    attempt(episodes, 0)
    assert episodes.spent[0] == 5 + 10 + 10
    attempt(episodes, 0, rung=1, tokens=20)
    assert episodes.spent[0] == 25 + 10 * (7 + 20)
    assert (episodes.tokens[0], episodes.rounds[0]) == (25 + 27, 3)


def test_an_attempt_without_an_answer_counts_and_does_not_vote(process):
    episodes = begun(process)
    attempt(episodes, NO_ANSWER)
    assert (episodes.num_attempts[0], episodes.unanswered[0], episodes.leader[0]) == (1, 1, -1)


def test_a_verifiers_scores_turn_the_vote(process):
    episodes = begun(process)
    attempt(episodes, 0)
    attempt(episodes, 0)
    attempt(episodes, 1)
    rows, rungs = np.zeros(3, np.int64), np.zeros(3, np.int64)
    episodes.score(rows, np.array([0, 0, 1]), rungs, np.array([0.1, 0.1, 0.9]))
    episodes.finish_verification(ROW)
    assert episodes.leader[0] == 1
    assert episodes.top[0] == score_weight(np.array(0.9))
    assert episodes.spent[0] == 5 + 30 + 3 * (5 + 10)
    assert episodes.unverified[0] == 0


def test_a_budget_leaves_what_it_surely_covers(process):
    names = process.actions.names
    allowed = [name for name, ok in zip(names, begun(process, 5 + 32).mask()[0], strict=True) if ok]
    assert allowed == ["STOP", "SAMPLE"]
    assert begun(process, 36).mask()[0].tolist() == [True] + [False] * (len(names) - 1)


def test_a_part_has_the_same_names_for_some_rows(process):
    episodes = Episodes(process, 3, 4)
    episodes.spent[:] = 1, 2, 3
    part = episodes.part(np.array([2, 0]))
    assert part.spent.tolist() == [3, 1]
    assert (part.mask() == episodes.mask()[[2, 0]]).all()
    assert episodes.part(None) is episodes
    assert part.part(np.array([1])).place == (episodes, [0])
    assert part.part(np.array([1])).known_of_leader.tolist() == part.known_of_leader[:, 1:].tolist()
    with pytest.raises(AttributeError, match="spend"):
        _ = episodes.spend


def test_numbers_per_rung_must_fit_the_ladder(process):
    with pytest.raises(ConfigError, match="vote_weights: expected 2 positive numbers"):
        replace(process, vote_weights=(1,))
