"""Trainings that start from another controller."""

from dataclasses import replace

import pytest
import torch

from controller.errors import ConfigError
from training.learn.config import PPOConfig, TrainConfig
from training.learn.train import ControllerTraining
from training.report.tracking import Tracker

SETTINGS = TrainConfig(
    ladder=("ant", "whale"), ppo=PPOConfig(total_steps=2 * 16 * 64, num_envs=64)
)
WIDER = ("ant", "cat", "cow", "whale")


@pytest.fixture(scope="module", params=["flat", "shared"])
def before(request, menu, tmp_path_factory):
    """Directory of a controller of two arms, and its settings."""
    out = tmp_path_factory.mktemp("before")
    config = replace(SETTINGS, ppo=replace(SETTINGS.ppo, network=request.param))
    with Tracker(out, "train", {}, mode="disabled") as tracker:
        ControllerTraining(menu, config, out).run(tracker)
    return out, config


def test_a_new_arm_is_scored_by_what_is_known_of_others(before, menu, tmp_path):
    out, config = before
    flat = config.ppo.network == "flat"
    config = replace(config, start=str(out), ladder=WIDER, ppo=replace(config.ppo, network="auto"))
    if flat:
        with pytest.raises(ConfigError, match=r"arms and actions of .*ant, whale; found ant, cat"):
            ControllerTraining(menu, config, tmp_path)
        return
    training, told = ControllerTraining(menu, config, tmp_path), []
    start = {name: weight.clone() for name, weight in training.ppo.policy.state_dict().items()}
    with Tracker(tmp_path, "train", {}, mode="disabled") as tracker:
        checkpoint = training.run(tracker, say=told.append)
    assert told[0] == f"starts from {out}: knows ant, whale; new: cat, cow"
    assert "SAMPLE(cat)" in checkpoint.config.actions.names
    weights = checkpoint.policy.state_dict()
    assert any(not torch.equal(weights[name], start[name]) for name in start)
    assert ControllerTraining(menu, config, tmp_path).finished


def test_the_same_menu_goes_on_from_the_weights(before, menu, tmp_path):
    out, config = before
    other = replace(config, start=str(out), ppo=replace(config.ppo, seed=1))
    source, training = (
        ControllerTraining(menu, config, out),
        ControllerTraining(menu, other, tmp_path),
    )
    for left, right in zip(
        source.ppo.policy.parameters(), training.ppo.policy.parameters(), strict=True
    ):
        assert torch.equal(left, right)


def test_open_steps_are_a_tenth(menu):
    assert replace(SETTINGS, start="x", ppo=PPOConfig()).suited(0).ppo.total_steps == 40_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hidden_sizes": (32, 32)},
            r"hidden_sizes: expected \(128, 128\) as of .*found \(32, 32\)",
        ),
        ({"ignored_features": ("vote_share",)}, "ignored_features: expected"),
    ],
)
def test_networks_of_another_shape_are_refused(before, menu, tmp_path, changes, message):
    out, config = before
    other = replace(config, start=str(out), ppo=replace(config.ppo, **changes))
    with pytest.raises(ConfigError, match=message):
        ControllerTraining(menu, other, tmp_path)
