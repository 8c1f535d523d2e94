"""Checkpoints: round trip, and refusal of wrong or hostile ones."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from controller.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from controller.errors import CheckpointError
from controller.granularity import granularity_of
from controller.loading import load_backend
from controller.policy.difficulty import Difficulty
from controller.policy.network import PolicyConfig, PolicyNetwork
from controller.policy.readouts import Forest, Network
from controller.process.observation import NUM_FEATURES
from controller.process.wording import NUM_SHAPE_FEATURES
from tests.conftest import CHECKPOINTS


@pytest.fixture
def saved(tmp_path, config, traces):
    generator = np.random.default_rng(0)
    checkpoint = Checkpoint(
        policy=PolicyNetwork(
            PolicyConfig(num_features=NUM_FEATURES, num_actions=len(config.actions))
        ),
        config=config,
        models=traces.models(),
        price_range=(1e-5, 1e-2),
        difficulty=Difficulty.alone(
            Network(
                mean=generator.random(5, np.float32),
                scale=generator.random(5, np.float32),
                weights=(
                    generator.random((5, 3), np.float32),
                    generator.random((3, 2), np.float32),
                ),
                biases=(generator.random(3, np.float32), generator.random(2, np.float32)),
            ),
            "prompt",
        ),
        training={"questions": 3},
    )
    save_checkpoint(checkpoint, tmp_path, "# card")
    return checkpoint, tmp_path


def edit(path, **changes):
    settings = json.loads((path / "controller.json").read_text())
    (path / "controller.json").write_text(json.dumps({**settings, **changes}))


def test_whoever_may_read_the_directory_may_read_all_of_it(saved):
    _, directory = saved
    modes = {path.stat().st_mode for path in directory.iterdir()}
    (directory / "new").touch()
    assert modes == {(directory / "new").stat().st_mode}


def test_round_trip(saved):
    checkpoint, path = saved
    loaded = load_checkpoint(path)
    assert loaded.config == checkpoint.config
    assert loaded.models == checkpoint.models
    assert loaded.price_range == checkpoint.price_range
    for left, right in zip(loaded.policy.parameters(), checkpoint.policy.parameters(), strict=True):
        assert torch.equal(left, right)
    hidden = np.ones((3, 5), np.float32)
    np.testing.assert_array_equal(
        *(c.difficulty.outlook(lambda _: hidden) for c in (loaded, checkpoint))
    )
    assert (path / "README.md").read_text() == "# card\n"


def test_a_file_that_is_copied_over_changes_nothing_that_was_loaded(saved):
    loaded, weights = load_checkpoint(saved[1]), saved[1] / "controller.safetensors"
    before = [parameter.clone() for parameter in loaded.policy.parameters()]
    with weights.open("r+b") as file:
        file.write(b"\0" * weights.stat().st_size)
    for left, right in zip(loaded.policy.parameters(), before, strict=True):
        assert torch.equal(left, right)
    assert np.isfinite(loaded.difficulty.readouts[0].weights[0]).all()
    assert loaded.difficulty.readouts[0].weights[0].any()


def test_a_menu_is_kept_with_the_network_that_scores_its_actions(tmp_path, menu, menu_config):
    features, actions = len(granularity_of(menu_config).features), len(menu_config.actions)
    shape = PolicyConfig(num_features=features, num_actions=actions, network="shared")
    policy = PolicyNetwork(shape, menu_config)
    checkpoint = Checkpoint(
        policy=policy, config=menu_config, models=menu.models(), price_range=(1e-5, 1e-2)
    )
    save_checkpoint(checkpoint, tmp_path)
    loaded = load_checkpoint(tmp_path).policy
    assert loaded.config == shape
    seen, mask = torch.randn(5, features), torch.ones(5, actions, dtype=torch.bool)
    assert torch.equal(loaded.log_probs(seen, mask), policy.log_probs(seen, mask))
    edit(tmp_path, policy={**vars(shape), "network": "deep"})
    with pytest.raises(CheckpointError, match=r"network: expected one of .* found 'deep'"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 1}, "expected version 4, found 1"),
        ({"observation": ["made", "up"]}, "observation version"),
        ({"actions": ["STOP"]}, "expected actions"),
        ({"policy": {"num_features": 3, "num_actions": 10**9, "hidden_sizes": [8]}}, "sizes of 1"),
        ({"policy": {"num_features": 3, "num_actions": 4, "hidden_sizes": [8]}}, "features"),
        ({"process": {"cost": {"weights": [1.0, -3.0]}}}, "positive number per rung"),
        ({"price_range": [1]}, "settings of a controller"),
        ({"difficulty_reads": "words"}, "expected 299 features and 2 rungs, found 5 features"),
        ({"difficulty_reads": "minds"}, "expected to read any of .* found 'minds'"),
        ({"difficulty_reads": [["words"]]}, "do not fit a controller of 2 rungs"),
        ({"difficulty_reads": ["prompt"] * 2}, "do not fit a controller of 2 rungs"),
        ({"difficulty_reads": []}, "do not fit a controller of 2 rungs"),
    ],
)
def test_wrong_settings_are_refused(saved, changes, message):
    edit(saved[1], **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved[1])


@pytest.fixture
def stacked(saved):
    """With a stack of a network and trees."""
    checkpoint, path = saved
    network = checkpoint.difficulty.readouts[0]
    trees = Forest(
        nodes=np.array([[4, 0.5, 1, 2], [-1, 0, 0, 0], [-1, 0, 1, 1]], np.float32),
        roots=np.zeros(1, np.float32),
        leaves=np.array([[0.2, 0.3], [0.6, 0.7]], np.float32),
        num_inputs=NUM_SHAPE_FEATURES,
        num_rungs=2,
    )
    readout = Difficulty(
        readouts=(network, trees),
        reads=("prompt", "shape"),
        weights=np.array([[0.5, 0.1], [0.7, 0.9]], np.float32),
        bias=np.array([0.1, -0.1], np.float32),
    )
    save_checkpoint(replace(checkpoint, difficulty=readout), path)
    return readout, path


def test_a_stack_of_read_outs_comes_back(stacked):
    readout, path = stacked
    seen = {"prompt": np.ones((3, 5), np.float32), "shape": np.stack([SHAPES, -SHAPES, SHAPES])}
    loaded = load_checkpoint(path).difficulty
    np.testing.assert_array_equal(loaded.outlook(seen.get), readout.outlook(seen.get))
    single = [r(seen[reads]) for r, reads in zip(readout.readouts, readout.reads, strict=True)]
    expected = sum(w * s for w, s in zip(readout.weights, single, strict=True)) + readout.bias
    np.testing.assert_allclose(loaded.outlook(seen.get), expected, rtol=1e-6)
    assert loaded.outlook({"shape": seen["shape"]}.get) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": (1, 2)}, "a weight each"),
        ({"bias": (3,)}, "a weight each"),
        ({"1/nodes": (3, 4)}, "that do not fit each other"),
        ({"1/leaves": None}, "those of trees"),
        ({"2/nodes": (3, 4)}, "do not fit a controller of 2 rungs"),
    ],
)
def test_stacks_that_do_not_fit_are_refused(stacked, changes, message):
    file = stacked[1] / "controller.safetensors"
    weights = load_file(file)
    for name, shape in changes.items():
        weights.pop(f"difficulty/{name}", None)
        if shape:
            weights[f"difficulty/{name}"] = torch.full(shape, 7.0)
    save_file(weights, file)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(stacked[1])


SHAPES = np.arange(NUM_SHAPE_FEATURES, dtype=np.float32)


@pytest.fixture
def ranged(saved):
    """With a read-out of wordings in a range."""
    checkpoint, path = saved
    layer = Network(
        mean=0 * SHAPES,
        scale=0 * SHAPES + 1,
        weights=(np.ones((len(SHAPES), 2), np.float32),),
        biases=(np.zeros(2, np.float32),),
    )
    readout = replace(Difficulty.alone(layer, "shape"), low=0 * SHAPES, high=SHAPES)
    save_checkpoint(replace(checkpoint, difficulty=readout), path)
    return path


def test_ranges_of_wordings_come_back(ranged):
    readout = load_checkpoint(ranged).difficulty
    shapes = np.stack([SHAPES, 1.2 * SHAPES, 1.3 * SHAPES, -SHAPES])
    known = readout.outlook(lambda _: shapes)
    assert np.isnan(known[:, 0]).tolist() == [False, False, True, True]


@pytest.mark.parametrize("ranges", [{"low": SHAPES[1:]}, {"high": -SHAPES}, {"high": None}])
def test_wrong_ranges_of_wordings_are_refused(ranged, ranges):
    weights = load_file(ranged / "controller.safetensors")
    for name, array in ranges.items():
        del weights[f"difficulty/{name}"]
        if array is not None:
            weights[f"difficulty/{name}"] = torch.from_numpy(array)
    save_file(weights, ranged / "controller.safetensors")
    with pytest.raises(CheckpointError, match="expected low and high"):
        load_checkpoint(ranged)


def test_ranges_of_no_wordings_are_refused(saved):
    _, path = saved
    ranges = {f"difficulty/{name}": torch.tensor(SHAPES) for name in ("low", "high")}
    weights = load_file(path / "controller.safetensors")
    save_file({**weights, **ranges}, path / "controller.safetensors")
    with pytest.raises(CheckpointError, match="expected low and high"):
        load_checkpoint(path)


def test_missing_truncated_and_garbage_files_are_refused(saved, tmp_path):
    _, path = saved
    with pytest.raises(CheckpointError, match="allot train"):
        load_checkpoint(path / "nowhere")
    weights = path / "controller.safetensors"
    whole = weights.read_bytes()
    for broken in (whole[: len(whole) // 2], b"\x80\x04pickle?", b""):
        weights.write_bytes(broken)
        with pytest.raises(CheckpointError, match="safetensors"):
            load_checkpoint(path)
    weights.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(path)
    (path / "controller.json").write_text("{")
    with pytest.raises(CheckpointError, match="expected JSON"):
        load_checkpoint(path)


def test_hostile_weights_are_refused(saved):
    _, path = saved
    weights = load_file(path / "controller.safetensors")
    name = next(iter(weights))
    for tensor, message in (
        (torch.full_like(weights[name], torch.nan), "finite"),
        (torch.zeros(2**24 + 1, 1), "expected at most 67108864 bytes"),
        (torch.zeros(1, 1, 1), "over the limit"),
        (torch.zeros(1), "do not fit"),
    ):
        save_file({**weights, name: tensor}, path / "controller.safetensors")
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"1/weight": None}, "expected tensors"),
        ({"scale": (4,)}, "do not fit"),
        ({"mean": (2, 5)}, "layers that fit each other"),
        ({"0/weight": (5, 4)}, "do not fit"),
        ({"1/bias": (1, 2)}, "do not fit"),
        ({"1/weight": (3, 5), "1/bias": (5,)}, "2 rungs, found 5 features and 5 outputs"),
    ],
)
def test_read_outs_that_do_not_fit_are_refused(saved, changes, message):
    file = saved[1] / "controller.safetensors"
    weights = load_file(file)
    for name, shape in changes.items():
        del weights[f"difficulty/{name}"]
        if shape:
            weights[f"difficulty/{name}"] = torch.zeros(shape)
    save_file(weights, file)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved[1])


def test_bundled_controller_refuses_other_models(tmp_path):
    shutil.copytree(CHECKPOINTS / "controller", tmp_path / "controller")
    for name in ("small", "large", "reviser", "verifier"):
        shutil.copytree(CHECKPOINTS / name, tmp_path / name)
    weights = load_file(tmp_path / "small" / "model.safetensors")
    first = sorted(weights)[0]
    weights[first] = weights[first] + 1
    save_file(weights, tmp_path / "small" / "model.safetensors", metadata={"format": "pt"})
    checkpoint = load_checkpoint(tmp_path / "controller")
    with pytest.raises(CheckpointError, match="with digest"):
        load_backend(checkpoint)
