"""Both granularities, told apart by what is on disk."""

import pytest

from controller.checkpoint import load_any, load_checkpoint, load_segment_checkpoint
from controller.errors import CheckpointError, ConfigError
from controller.granularity import GRANULARITIES, SEGMENTS
from controller.loading import model_places
from tests.conftest import CHECKPOINTS

PLACES = {"attempts": CHECKPOINTS / "controller", "segments": CHECKPOINTS / "segments/controller"}


@pytest.mark.parametrize("name", GRANULARITIES)
def test_a_checkpoint_says_what_its_policy_sees_and_does(name):
    checkpoint = load_any(PLACES[name])
    granularity = checkpoint.granularity
    assert granularity is GRANULARITIES[name]
    shape = checkpoint.policy.config.num_features, checkpoint.policy.config.num_actions
    assert shape == (len(granularity.features), len(checkpoint.config.actions))


def test_a_checkpoint_of_the_other_granularity_is_refused():
    with pytest.raises(CheckpointError, match="expected a controller of whole attempts, found one"):
        load_checkpoint(PLACES["segments"])
    with pytest.raises(CheckpointError, match="expected a controller of segments"):
        load_segment_checkpoint(PLACES["attempts"])


def test_every_action_inside_an_attempt_has_a_meaning():
    actions = load_segment_checkpoint(PLACES["segments"]).config.actions
    assert set(SEGMENTS.meanings) == set(actions.names)


def test_no_arm_is_to_revise_for_a_controller_that_decides_inside_attempts():
    models = [f"{name}={CHECKPOINTS / name}" for name in ("small", "large")]
    for role in ("revises", "verifies"):
        named = [f"{models[0]},{role}=true", models[1]]
        with pytest.raises(
            ConfigError, match=f"arm small: expected {role} of arms alone.* none; le"
        ):
            model_places(named, load_any(PLACES["segments"]))
