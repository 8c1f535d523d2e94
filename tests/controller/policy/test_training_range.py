"""What is near the observations of training, and what is not."""

import numpy as np
import pytest

from controller.checkpoint import load_checkpoint, save_checkpoint
from controller.errors import CheckpointError
from controller.loop import Controller
from controller.policy.training_range import MARGIN, Support
from controller.process.observation import OBSERVATION_NAMES
from tests.conftest import CHECKPOINTS


@pytest.fixture(scope="module")
def support():
    rng = np.random.default_rng(0)
    return Support.of(rng.uniform(0, 1, (1000, len(OBSERVATION_NAMES))))


def seen(values):
    return dict(zip(OBSERVATION_NAMES, values, strict=True))


def test_names_the_feature_that_strays(support):
    inside = np.full(len(OBSERVATION_NAMES), 0.5)
    assert support.stray(seen(inside)) is None
    for place in (3, 20):
        for value, near in ((1 + 0.9 * MARGIN, True), (1 + 1.2 * MARGIN, False), (-2, False)):
            moved = inside.copy()
            moved[place] = value
            assert support.stray(seen(moved)) == (None if near else OBSERVATION_NAMES[place])
    assert support.stray(seen(np.full(len(OBSERVATION_NAMES), np.nan))) is not None


def test_what_never_moved_must_not_move():
    constant = Support.of(np.ones((2, len(OBSERVATION_NAMES))))
    assert constant.stray(seen(np.ones(len(OBSERVATION_NAMES)))) is None
    assert constant.stray(seen(np.full(len(OBSERVATION_NAMES), 1.01))) is not None


def test_survives_a_checkpoint(tmp_path):
    checkpoint = load_checkpoint(CHECKPOINTS / "controller")
    save_checkpoint(checkpoint, tmp_path, "card")
    again = load_checkpoint(tmp_path).support
    np.testing.assert_array_equal(again.low, checkpoint.support.low)
    np.testing.assert_array_equal(again.high, checkpoint.support.high)


def test_replayed_questions_do_not_stray(validation):
    """On questions of the training's kind the policy decides, at every price."""
    checkpoint = load_checkpoint(CHECKPOINTS / "controller")
    controller = Controller(checkpoint, validation.backend)
    for question in validation.questions[::40]:
        for price in np.geomspace(*checkpoint.price_range, 5):
            for decision in controller.answer(question, price=price).decisions:
                assert checkpoint.support.stray(decision.observation) is None


def test_ranges_are_checked():
    size = len(OBSERVATION_NAMES)
    with pytest.raises(CheckpointError, match="support: expected"):
        Support(low=(1.0,) * size, high=(0.0,) * size)
    with pytest.raises(CheckpointError, match="support: expected"):
        Support(low=(0.0,), high=(1.0, 2.0))
