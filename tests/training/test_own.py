"""What callers register takes part in trainings, checkpoints and decisions."""

import sys
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch

from controller.checkpoint import load_checkpoint
from controller.errors import CheckpointError, ConfigError
from controller.policy.deciders import PolicyDecider
from controller.policy.network import NETWORKS, PolicyConfig, PolicyNetwork, register_network
from controller.process.actions import (
    OWN_ACTIONS,
    ActionKind,
    ActionSpec,
    Tier,
    attempting,
    register_action,
)
from controller.process.features import (
    FLAG,
    LOG10,
    OWN_FEATURES,
    PLAIN,
    Feature,
    FromWording,
    register_feature,
)
from controller.registry import IMPORTED
from envs.traces.format import TraceSet
from tests.conftest import CHECKPOINTS
from training.learn.config import LEARNERS, PPOConfig, TrainConfig
from training.learn.train import ControllerTraining
from training.ppo import PPO

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
    generator = torch.Generator().manual_seed(0)
    observation = torch.randn(1, policy.config.num_features, generator=generator)
    mask = torch.arange(policy.config.num_actions)[None] != 2
    odds, value = PolicyDecider(policy).judge(observation.numpy(), mask.numpy())
    np.testing.assert_array_equal(odds > 0, mask[0])
    expected = policy.log_probs(observation, mask)[0].exp().detach()
    np.testing.assert_allclose(odds, expected, rtol=1e-5)
    assert value == pytest.approx(policy.value(observation).item(), rel=1e-6, abs=1e-6)


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


class Blind(torch.nn.Linear):
    def forward(self, seen, mask):
        return super().forward(seen)


class Undecided(Blind):
    def forward(self, seen, mask):
        return super().forward(seen, mask) * torch.nan


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (lambda shape, _: torch.nn.Linear(shape.num_features, shape.num_actions), "positional"),
        (lambda shape, _: Blind(shape.num_features + 1, shape.num_actions), "cannot be multiplied"),
        (lambda shape, _: Blind(shape.num_features, shape.num_actions + 1), r"shape \(2, 4\)"),
        (lambda shape, _: Undecided(shape.num_features, shape.num_actions), "those of shape"),
    ],
)
def test_networks_that_make_no_logits_are_refused(monkeypatch, build, found):
    monkeypatch.setitem(NETWORKS, "odd", None)
    register_network("odd", build)
    with pytest.raises(ConfigError, match=rf"network odd: expected finite logits .*{found}"):
        PolicyNetwork(PolicyConfig(num_features=5, num_actions=3, network="odd"))


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"losses/entropy": float("nan")}, "update 1: expected a finite entropy, found nan"),
        (None, "expected metrics by name, found None"),
    ],
)
def test_learners_that_tell_nothing_are_refused(monkeypatch, few, tmp_path, metrics, message):
    monkeypatch.setitem(LEARNERS, "odd", None)
    LEARNERS.register("odd", type("Odd", (PPO,), {"improve": lambda self: metrics}))
    config = TrainConfig(learner="odd", ppo=PPOConfig(total_steps=1024, num_envs=64))
    with pytest.raises(ConfigError, match=message):
        ControllerTraining(TraceSet.read(few), config, tmp_path).run()


@pytest.fixture
def make(few):
    """Makes three environments with something registered, which is forgotten afterwards."""
    yield partial(gymnasium.make_vec, "envs:allot/Compute-v0", num_envs=3, traces=str(few))
    OWN_FEATURES.pop("odd", None)
    OWN_ACTIONS.pop("again", None)


@pytest.mark.parametrize(
    ("scale", "column", "message"),
    [
        (PLAIN, lambda s: 1.0, r"numbers of shape \(3,\), one of each episode, found 1.0"),
        (PLAIN, lambda s: np.zeros(7), r"numbers of shape \(3,\)"),
        (PLAIN, lambda s: s.e.rounds * np.nan, r"finite numbers, found \[nan nan nan\]"),
        pytest.param(
            LOG10,
            lambda s: s.e.rounds * 0.0,
            r"finite numbers, found \[-inf -inf -inf\] after its scale, log10",
            marks=pytest.mark.filterwarnings("ignore:divide by zero"),
        ),
        (PLAIN, FromWording(lambda text: None), "finite numbers"),
        (PLAIN, lambda s: np.full(3, "2"), r"numbers of shape \(3,\)"),
    ],
)
def test_features_are_a_finite_number_of_each_episode(make, scale, column, message):
    register_feature(Feature("odd", "own", "", scale, column, "odd"))
    with pytest.raises(ConfigError, match=f"feature odd: expected {message}"):
        make(own_features=["odd"]).reset(seed=0)


@pytest.mark.parametrize("read", [str, lambda text: [1, 2]])
def test_a_wording_is_told_by_a_number(make, read):
    register_feature(Feature("odd", "own", "", PLAIN, FromWording(read), "odd"))
    with pytest.raises(ConfigError, match="own_features: expected a number of each text, found"):
        make(own_features=["odd"])


def test_names_of_features_are_several():
    with pytest.raises(ConfigError, match=r"own_features: expected a tuple of .*, found 'odd'"):
        gymnasium.make("envs:allot/Compute-v0", own_features="odd")


def sampling(**changes):
    fields = {"legal": lambda e, width, rung: e.rounds >= 0, "cost": attempting} | changes
    return ActionSpec(meaning="", tier=Tier.SMALL, attempt=ActionKind.SAMPLE, **fields)


def test_an_action_is_legal_only_while_attempts_are_left(make):
    register_action("again", sampling())
    env = make(own_actions=("again",))
    _, info = env.reset(seed=0)
    sample = env.config.actions.names.index("SAMPLE")
    for _ in range(40):
        mask = info["action_mask"]
        np.testing.assert_array_equal(mask[:, -1], mask[:, sample])
        *_, info = env.step(np.where(mask[:, -1], mask.shape[1] - 1, 0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"legal": lambda e, width: e.rounds > 0}, "`legal` .* found parameters .'e', 'width'."),
        ({"cost": None}, "`cost` with a parameter `rung`, .* found parameters None"),
    ],
)
def test_functions_of_an_action_are_told_whom_it_asks(changes, message):
    with pytest.raises(ConfigError, match=f"odd: expected a function {message}"):
        register_action("odd", sampling(**changes))
