"""What callers register takes part in trainings, checkpoints and decisions."""

import sys

import numpy as np
import pytest
import torch

from controller.checkpoint import load_checkpoint
from controller.errors import CheckpointError, ConfigError
from controller.policy.deciders import PolicyDecider
from controller.policy.network import NETWORKS, PolicyConfig, PolicyNetwork, register_network
from controller.process.actions import OWN_ACTIONS
from controller.process.features import FLAG, OWN_FEATURES, Feature, FromWording
from controller.registry import IMPORTED
from envs.traces.format import TraceSet
from tests.conftest import CHECKPOINTS
from training.learn.config import LEARNERS, PPOConfig, TrainConfig
from training.learn.train import ControllerTraining

EXAMPLES = str(CHECKPOINTS.parent / "examples")
OWN = ("own_feature", "own_learner")


@pytest.fixture(scope="module")
def run(few, tmp_path_factory):
    """Directory of a controller with a feature, an action, a network and a learner of examples."""
    out = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(EXAMPLES)
        patched.setenv(IMPORTED, ",".join(OWN))
        config = TrainConfig(
            own_features=("digits",),
            own_actions=("settle",),
            learner="reinforce",
            ppo=PPOConfig(total_steps=3 * 64 * 16, num_envs=64, network="wide_and_deep"),
        )
        ControllerTraining(TraceSet.read(few), config, out).run()
    return out


def test_a_checkpoint_keeps_all_of_it(run):
    checkpoint = load_checkpoint(run)
    assert checkpoint.granularity.features[-2:] == ("settle_price", "digits")
    assert checkpoint.config.actions.names[-1] == "SETTLE"
    assert checkpoint.training["config"]["learner"] == "reinforce"
    assert "the large model answers what attempts disagree about" in (run / "README.md").read_text()


def test_live_decisions_are_those_of_the_network(run):
    policy = load_checkpoint(run).policy
    observation = torch.randn(1, policy.config.num_features)
    mask = torch.arange(policy.config.num_actions)[None] != 2
    odds, value = PolicyDecider(policy).judge(observation.numpy(), mask.numpy())
    np.testing.assert_array_equal(odds > 0, mask[0])
    expected = policy.log_probs(observation, mask)[0].exp().detach()
    np.testing.assert_allclose(odds, expected, rtol=1e-5)
    assert value == pytest.approx(policy.value(observation).item())


@pytest.mark.parametrize(
    ("registry", "name"),
    [(OWN_FEATURES, "digits"), (OWN_ACTIONS, "settle"), (NETWORKS, "wide_and_deep")],
)
def test_a_checkpoint_that_needs_something_unregistered_is_refused(
    run, registry, name, monkeypatch
):
    monkeypatch.delitem(registry, name)
    with pytest.raises(CheckpointError, match=f"expected one of .*found '{name}'; import what"):
        load_checkpoint(run)
    monkeypatch.setenv(IMPORTED, "no_such_module")
    with pytest.raises(CheckpointError, match="ALLOT_IMPORT: expected modules, found No module"):
        load_checkpoint(run)
    monkeypatch.syspath_prepend(EXAMPLES)
    for module in OWN:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setenv(IMPORTED, ",".join(OWN))
    load_checkpoint(run)


def test_another_feature_under_the_same_name_is_refused(run, monkeypatch):
    other = Feature("digits", "wording", "", FLAG, FromWording(len), "whether there are any")
    monkeypatch.setitem(OWN_FEATURES, "digits", other)
    with pytest.raises(CheckpointError, match="units and scales of training"):
        load_checkpoint(run)


def test_unknown_names_and_unfit_weights_are_refused(monkeypatch):
    for changes in ({"learner": "luck"}, {"ppo": {"network": "luck"}}):
        with pytest.raises(ConfigError, match=r"expected one of .* found 'luck'"):
            TrainConfig(**{k: PPOConfig(**v) if k == "ppo" else v for k, v in changes.items()})
    with pytest.raises(ConfigError, match="learner: expected an identifier other than"):
        LEARNERS.register("ppo", object)
    monkeypatch.setitem(NETWORKS, "norm", None)
    register_network("norm", lambda shape, process: torch.nn.BatchNorm1d(shape.num_features))
    with pytest.raises(ConfigError, match=r"network norm: expected float32 .* found running_mean"):
        PolicyNetwork(PolicyConfig(num_features=3, num_actions=3, network="norm"))
