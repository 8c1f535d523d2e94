"""A menu with a perfect verifier: closed form, search, simulation and training agree."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.optimum import BOXES_TRAINING, share_of_boxes
from envs.reward import price_range
from tests.learning.boxes import Boxes, Weitzman
from training.compare.simulate import play

BOXES = Boxes()
PRICES = price_range(BOXES.config().cost_unit).grid(12)


@pytest.mark.parametrize("price", PRICES)
def test_the_closed_form_is_what_search_finds(price):
    found = [BOXES.solved(kind, price) for kind in range(len(BOXES.right))]
    np.testing.assert_allclose(BOXES.optimum(price), found, atol=1e-12)


@pytest.mark.parametrize("price", PRICES[::4])
def test_playing_the_optimum_brings_its_value(price):
    table = BOXES.table(20_000, seed=1)
    known = BOXES.difficulty(table)
    played = play(Weitzman(BOXES), table, BOXES.config(), price=price, difficulty=known, repeats=1)
    utility = played.utility(price)
    for kind, value in enumerate(BOXES.optimum(price)):
        own = utility[table.levels == kind + 1]
        assert abs(own.mean() - value) <= 4 * own.std() / len(own) ** 0.5


def test_a_trained_policy_comes_near_the_optimum():
    found = share_of_boxes(0, replace(BOXES_TRAINING, total_steps=200_000), num_questions=2_000)
    assert 0.93 < found["mean"] < 1.01
