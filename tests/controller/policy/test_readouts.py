"""Trees that come from files, and read-outs that are summed."""

import numpy as np
import pytest

from controller.policy.readouts import Forest, readout_of

# Two trees: one splits at 0.5 of feature 1, the other says the same of all.
NODES = np.array([[1, 0.5, 1, 2], [-1, 0, 0, 0], [-1, 0, 1, 1], [-1, 0, 2, 2]], np.float32)
ROOTS = np.array([0, 3], np.float32)
LEAVES = np.array([[0.2, 1.0], [0.6, 3.0], [0.4, 5.0]], np.float32)
TREES = {"nodes": NODES, "roots": ROOTS, "leaves": LEAVES}


def test_trees_tell_the_mean_of_their_leaves():
    features = np.array([[9, 0.5], [9, 0.6]], np.float32)
    forest = Forest(**TREES, num_inputs=2, num_rungs=1)
    chances = np.array([0.3, 0.5])
    expected = np.stack([np.log(chances / (1 - chances)), [3.0, 4.0]], 1)
    np.testing.assert_allclose(forest(features), expected, atol=1e-6)


def test_trees_tell_the_same_bits_however_many_are_asked():
    features = np.random.default_rng(0).random((10_000, 2), np.float32)
    forest = readout_of(TREES, 2, 1)
    whole = forest(features)
    assert (whole[9_999] == forest(features[9_999:])[0]).all()
    assert forest(features[:0]).shape == (0, 2)


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("nodes", (0, 0), 2),  # a feature too many
        ("nodes", (0, 0), 0.5),
        ("nodes", (0, 2), 0),  # a walk without end
        ("nodes", (0, 3), 4),
        ("nodes", (1, 2), 3),  # a leaf too many
        ("nodes", (1, 0), -2),
        ("roots", (1,), 4),
        ("roots", (0,), -1),
    ],
)
def test_trees_that_lead_nowhere_are_refused(name, place, value):
    broken = {key: array.copy() for key, array in TREES.items()}
    broken[name][place] = value
    with pytest.raises(ValueError, match="expected trees of 2 features for 1 rungs"):
        readout_of(broken, 2, 1)


@pytest.mark.parametrize(
    "changes", [{"nodes": NODES[:, :3]}, {"roots": ROOTS[:0]}, {"leaves": LEAVES[:, :0]}]
)
def test_trees_of_other_shapes_are_refused(changes):
    with pytest.raises(ValueError, match="expected trees of 2 features for 1 rungs"):
        readout_of({**TREES, **changes}, 2, 1)
