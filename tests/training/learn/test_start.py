"""Trainings that start from another controller."""

from dataclasses import replace

import pytest
import torch

from controller.checkpoint import load_checkpoint
from controller.errors import ConfigError
from controller.granularity import granularity_of
from training.learn.config import PPOConfig, TrainConfig
from training.learn.resume import start_from
from training.learn.train import ControllerTraining, prepare

SETTINGS = TrainConfig(
    ladder=("ant", "cow", "whale"), ppo=PPOConfig(total_steps=2 * 16 * 64, num_envs=64)
)
WIDER = ("ant", "cat", "cow", "whale")


@pytest.fixture(scope="module")
def begin(menu):
    """Begins a training; what trainings of one ladder start from is prepared once."""
    ladders = (SETTINGS.ladder, WIDER)
    prepared = {ladder: prepare(menu, replace(SETTINGS, ladder=ladder)) for ladder in ladders}
    return lambda config, out: ControllerTraining(menu, config, out, prepared[config.ladder])


@pytest.fixture(scope="module", params=["flat", "shared"])
def before(request, begin, tmp_path_factory):
    """Directory of a controller of three arms, and its settings."""
    out = tmp_path_factory.mktemp("before")
    config = replace(SETTINGS, ppo=replace(SETTINGS.ppo, network=request.param))
    begin(config, out).run()
    return out, config


def test_arms_are_matched_by_name_and_the_network_is_that_of_the_source(before, begin, tmp_path):
    out, config = before
    config = replace(config, start=str(out), ladder=WIDER, ppo=replace(config.ppo, network="auto"))
    training = begin(config, tmp_path)
    assert training.ppo.policy.config.network == load_checkpoint(out).policy.config.network
    assert training.started == f"starts from {out}: knows ant, cow, whale; new: cat"


def test_known_arms_are_decided_about_as_before_while_a_new_one_is_missing(before, begin, tmp_path):
    out, config = before
    training = begin(replace(config, start=str(out), ladder=WIDER), tmp_path)
    source, process = load_checkpoint(out), training.prepared.process
    theirs, own = source.granularity.features, granularity_of(process).features
    seen, wider = torch.randn(7, len(theirs)), torch.zeros(7, len(own))
    wider[:, [own.index(name) for name in theirs]] = seen
    allowed = torch.ones(7, len(source.config.actions), dtype=torch.bool)
    mask = torch.tensor([action.arm != "cat" for action in process.actions]).expand(7, -1)
    torch.testing.assert_close(
        training.ppo.policy.log_probs(wider, mask)[mask],
        source.policy.log_probs(seen, allowed).flatten(),
    )


def test_the_same_menu_goes_on_from_the_weights(before, begin, tmp_path):
    out, config = before
    other = replace(config, start=str(out), ppo=replace(config.ppo, seed=1))
    source, training = begin(config, out), begin(other, tmp_path)
    for left, right in zip(
        source.ppo.policy.parameters(), training.ppo.policy.parameters(), strict=True
    ):
        assert torch.equal(left, right)


def test_open_steps_are_a_tenth():
    assert replace(SETTINGS, start="x", ppo=PPOConfig()).suited(0, 0).ppo.total_steps == 22_500


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
def test_networks_of_another_shape_are_refused(before, begin, tmp_path, changes, message):
    out, config = before
    other = replace(config, start=str(out), ppo=replace(config.ppo, **changes))
    with pytest.raises(ConfigError, match=message):
        begin(other, tmp_path)


def test_menus_without_an_arm_in_common_are_refused(before, begin, tmp_path):
    out, config = before
    training = begin(config, out)
    others = tuple(replace(arm, name=arm.name.upper()) for arm in training.prepared.process.menu)
    process = replace(training.prepared.process, arms=others)
    with pytest.raises(ConfigError, match=r"some of the arms of .*ant, cow, whale; found ANT, COW"):
        start_from(training.ppo.policy, process, load_checkpoint(out))
