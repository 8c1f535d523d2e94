"""The state inside one attempt, segment by segment."""

from dataclasses import replace

import numpy as np
import pytest

from controller.errors import ConfigError
from controller.process.cost import CostModel
from controller.segments.episodes import (
    ESCALATE,
    REVISE,
    SAMPLE,
    SEGMENT,
    STOP,
    TO_END,
    SegmentConfig,
    SegmentEpisodes,
)

ROW = np.zeros(1, np.int64)
CONFIG = SegmentConfig(
    cost=CostModel(weights=(1.0, 10.0)),
    draws=(2, 1),
    max_tokens=40,
    max_segment_tokens=8,
    max_forced_tokens=4,
    mean_segment_tokens=6.0,
    mean_forced_tokens=3.0,
    mean_rest_tokens=20.0,
    cost_unit=20.0,
)


def begun(budget=np.inf):
    episodes = SegmentEpisodes(CONFIG, 1)
    episodes.reset(
        ROW,
        price=np.array([1e-3]),
        budget=np.array([budget]),
        prompt_tokens=np.array([[5, 7]]),
        difficulty=np.full((1, 2), np.nan),
        value=np.array([np.nan]),
    )
    return episodes


def write(episodes, action, tokens=6, done=False, logprob=-0.5):
    segment = np.zeros(1, SEGMENT)
    segment["num_tokens"], segment["small_tokens"], segment["forced_tokens"] = tokens, 9, 3
    segment["mean_logprob"], segment["min_logprob"], segment["value"] = logprob, logprob, np.nan
    segment["answer"], segment["done"] = 3, done
    episodes.record(ROW, np.array([action]), segment)


def allowed(episodes):
    return np.flatnonzero(episodes.mask()[0]).tolist()


def test_a_redone_segment_costs_its_tokens_and_takes_the_place_of_the_last():
    episodes = begun()
    write(episodes, SAMPLE, logprob=-3.0)
    assert allowed(episodes) == [STOP, SAMPLE, REVISE, ESCALATE, TO_END]
    write(episodes, REVISE, tokens=4)
    assert episodes.spent[0] == 5 + 6 + 4
    assert (episodes.written[0], episodes.segments[0], episodes.draw[0]) == (4, 1, 1)
    assert episodes.logprob[0] == episodes.least_logprob[0] == -0.5
    assert allowed(episodes) == [STOP, SAMPLE]  # two draws are all, and nobody takes over now


def test_the_large_model_reads_what_there_is_and_hands_back_what_it_wrote():
    episodes = begun()
    write(episodes, SAMPLE)
    write(episodes, ESCALATE, tokens=8)
    assert episodes.spent[0] == 11 + 10 * (7 + 6 + 8) + 9
    assert allowed(episodes) == [STOP, SAMPLE]
    write(episodes, SAMPLE, done=True)
    assert episodes.answer[0] == 3
    assert allowed(episodes) == [STOP]


def test_stopping_before_the_end_forces_an_answer():
    episodes = begun()
    assert len(episodes.unanswered(ROW)) == 0  # nothing written: it gives up
    write(episodes, SAMPLE)
    assert episodes.unanswered(ROW).tolist() == [0]
    episodes.force(ROW, np.array([1]), np.array([3]))
    assert (episodes.answer[0], episodes.spent[0], episodes.rounds[0]) == (1, 5 + 6 + 3, 2)


def test_a_budget_keeps_what_forcing_an_answer_takes():
    assert allowed(begun(5 + 8 + 4)) == [STOP, SAMPLE]
    assert allowed(begun(5 + 8 + 3)) == [STOP]


def test_expected_costs_are_those_of_the_names():
    costs = dict(zip(CONFIG.priced, begun().expected_cost()[:, 0].tolist(), strict=True))
    assert costs == {
        "sample": 6.0,
        "force": 3.0,
        "escalate": 10 * (7 + 6.0) + 6,
        "escalate_to_end": 10 * (7 + 20.0),
    }


def test_lengths_and_draws_are_positive():
    with pytest.raises(ConfigError, match="mean_rest_tokens: expected more than 0"):
        replace(CONFIG, mean_rest_tokens=0.0)
    with pytest.raises(ConfigError, match="draws"):
        replace(CONFIG, draws=())
