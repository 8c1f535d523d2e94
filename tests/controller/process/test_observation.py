"""What a policy sees of a state that is known by hand."""

import numpy as np
import pytest

from controller.process.observation import FEATURES, OBSERVATION_NAMES, leader_stays, observe
from tests.controller.process.test_episodes import attempt, begun


def seen(episodes):
    return dict(zip(OBSERVATION_NAMES, observe(episodes)[0].tolist(), strict=True))


def test_before_the_first_attempt_nothing_is_known_but_the_terms(process):
    features = seen(begun(process))
    assert features["log_price"] == pytest.approx(np.log10(1e-3 * 20))
    assert features["prompt_length"] == pytest.approx(5 / 20)
    assert features["sample_price"] == pytest.approx(np.log10(1e-3 * (5 + 10)))
    assert features["escalate_price"] == pytest.approx(np.log10(1e-3 * 10 * (7 + 20)))
    for name in FEATURES.groups["votes"]:
        assert features[name] == (0.5 if name == "leader_stays" else 0)


def test_votes_and_logprobs_are_shares_and_means(process):
    episodes = begun(process)
    for answer in (0, 1, 1, 1):
        attempt(episodes, answer)
    features = seen(episodes)
    assert (features["vote_share"], features["vote_margin"]) == (0.75, 0.5)
    assert features["mean_logprob"] == features["last_mean_logprob"] == -0.5
    assert features["samples"] == 4 / 8
    assert features["small_length"] == pytest.approx(10 / 20)


def test_leader_stays_is_even_without_votes_and_grows_with_them():
    stays = leader_stays(np.array([0.0, 1.0, 3.0, 3.0]), np.array([0.0, 0.0, 0.0, 3.0]))
    assert stays == pytest.approx([0.5, 0.75, 1 - 0.5**4, 0.5])


def test_an_uncounted_prompt_is_not_told(process):
    episodes = begun(process)
    episodes.prompt_counted[:] = False
    assert seen(episodes)["prompt_length"] == seen(episodes)["prompt_known"] == 0
