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
from controller.loading import load_backend
from controller.policy.difficulty import Difficulty
from controller.policy.network import PolicyConfig, PolicyNetwork
from controller.policy.readouts import Network
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
        ({"difficulty_reads": ["words"]}, "expected 299 features and 2 rungs, found 5 features"),
        ({"difficulty_reads": ["minds"]}, "expected to read any of .* found 'minds'"),
        ({"difficulty_reads": [["words"]]}, r"expected to read any of .* found \['words'\]"),
        ({"difficulty_reads": ["prompt"] * 2}, "do not fit a controller of 2 rungs"),
        ({"difficulty_reads": []}, "do not fit a controller of 2 rungs"),
    ],
)
def test_wrong_settings_are_refused(saved, changes, message):
    edit(saved[1], **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved[1])


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
        del weights[f"difficulty/0/{name}"]
        if shape:
            weights[f"difficulty/0/{name}"] = torch.zeros(shape)
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
