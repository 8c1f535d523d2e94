"""More questions hold the fewer, and none of those that are played."""

import numpy as np
import pytest

from recipes.learning_curve import learning_from


def test_fewer_questions_are_among_more_and_none_is_tested(traces):
    asked = np.array(traces.questions["question_id"].to_pylist())
    before = np.array(traces.questions["split"].to_pylist())
    found = {}
    for size in (50, 200):
        split = np.array(learning_from(traces, size).questions["split"].to_pylist())
        assert (asked[split == "test"] == asked[before == "test"]).all()
        found[size] = {*asked[(split == "train") | (split == "validation")]}
        assert len(found[size]) == size
        assert (split == "validation").sum() == pytest.approx(size / 5, rel=0.5)
    assert found[50] < found[200]


def test_a_curve_is_learnt_by_one_command_and_goes_on(few, allot, tmp_path):
    out = tmp_path / "curve"
    command = [few, "--out", out, "--sizes", "60,120", "--steps", 8192, "--num-prices", 2]
    first = allot(*command, program="recipes.learning_curve").stdout
    trained = (out / "60/seed0/controller.safetensors").stat().st_mtime_ns
    assert allot(*command, program="recipes.learning_curve").stdout == first
    assert (out / "60/seed0/controller.safetensors").stat().st_mtime_ns == trained
    assert "mean over 2 prices" in first
    assert (out / "learning.png").stat().st_size > 10_000
