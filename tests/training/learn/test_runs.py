"""Several seeds: closed forms, directories of their own, resuming, pooling."""

import json

import numpy as np
import pytest

from controller.checkpoint import CHECKPOINT_VERSION
from controller.errors import ConfigError
from envs.traces.format import TraceSet
from training.cli.train import train
from training.compare.results import Seeds
from training.compare.summary import summarise_seeds
from training.learn.runs import seed_directories


def test_the_interquartile_mean_leaves_out_the_outer_quarters():
    utility = np.array([[0.0, 1.0, 2.0, 100.0], [1.0, 2.0, -100.0, 3.0]])
    summary = summarise_seeds(utility)
    assert summary.mean.value == pytest.approx(utility.mean())
    assert summary.iqm.value == pytest.approx((1 + 1 + 2 + 2) / 4)


def test_seeds_that_differ_alike_at_all_prices_are_resampled_as_wholes():
    """With one number per seed, resampling each price apart would hide most of the spread."""
    utility = np.array([0.1, 0.2, 0.3, 0.4, 0.5])[:, None] + np.zeros((5, 20))
    summary = summarise_seeds(utility).mean
    low, high = summary.interval
    deviation = np.sqrt(0.02 / 5)
    assert (high - low) / 2 == pytest.approx(1.96 * deviation, rel=0.1)
    low, high = summary.stratified
    assert (high - low) / 2 == pytest.approx(1.96 * deviation / np.sqrt(20), rel=0.1)


def test_seeds_that_agree_leave_no_doubt():
    summary = summarise_seeds(np.full((3, 4), 0.25))
    assert summary.iqm.interval == pytest.approx((0.25, 0.25))


def test_one_seed_has_no_interval():
    assert summarise_seeds(np.ones((1, 4))) == Seeds(utility=((1.0,) * 4,))


def test_directories_of_seeds_are_found_in_their_order(tmp_path):
    for seed, finished in ((10, "yesterday"), (2, "today"), (1, None)):
        (tmp_path / f"seed-{seed}").mkdir()
        settings = {"version": CHECKPOINT_VERSION, "training": {"finished": finished}}
        (tmp_path / f"seed-{seed}" / "controller.json").write_text(json.dumps(settings))
    (tmp_path / "seed-11").mkdir()
    single = tmp_path / "seed-2"
    assert seed_directories([tmp_path, single]) == [
        tmp_path / "seed-2",
        tmp_path / "seed-10",
        single,
    ]


def test_settings_that_are_refused_leave_no_run_behind(few, tmp_path):
    refused = {
        "ladder": ("small,small", "ladder: expected each model once, found small, small"),
        "sample_widths": (
            "32",
            r"sample_widths: expected one that \d+ attempts allow, found \(32,",
        ),
        "probes": ("1", "probes: expected none about whole attempts, found True"),
        "escalate": ("0", "escalate: expected True about whole attempts, found False"),
        "ignored_features": ("colour", "colour"),
        "hidden_sizes": ("", "hidden layers"),
    }
    for name, (value, message) in refused.items():
        with pytest.raises(ConfigError, match=message):
            train(out=str(tmp_path / "run"), traces=str(few), num_envs="8", **{name: value})
    assert not (tmp_path / "run").exists()


def test_seeds_train_side_by_side_and_finished_ones_are_left_alone(few, allot, tmp_path):
    def train(seeds):
        arguments = ("--traces", few, "--out", tmp_path, "--num-envs", 64, "--steps", 2 * 1024)
        return allot("train", *arguments, "--seeds", seeds, "--seed", 3, "--wandb", "disabled")

    train(2)
    first = {p.parent.name: p.read_bytes() for p in tmp_path.glob("seed-*/controller.json")}
    assert set(first) == {"seed-3", "seed-4"}
    done = train(3)
    assert "seed-4: " not in done.stderr
    assert "seed-5: " in done.stderr
    for name, content in first.items():
        assert (tmp_path / name / "controller.json").read_bytes() == content
    weights = {p.read_bytes() for p in tmp_path.glob("seed-*/controller.safetensors")}
    assert len(weights) == 3

    summary = json.loads((tmp_path / "seeds.json").read_text())
    assert np.shape(summary["utility"]) == (3, len(summary["prices"]))
    assert summary["mean"]["value"] == pytest.approx(np.mean(summary["utility"]))
    low, high = summary["iqm"]["interval"]
    assert low <= summary["iqm"]["value"] <= high
    assert "interquartile mean" in done.stdout
    assert (tmp_path / "validation.png").read_bytes().startswith(b"\x89PNG")
    assert "Against the best of" in done.stdout

    results = tmp_path / "RESULTS.md"
    options = ("--num-prices", 2, "--repeats", 1, "--json", "--results", results)
    done = allot("evaluate", tmp_path, "--wandb", "disabled", *options)
    pooled = json.loads(done.stdout)
    splits = TraceSet.read(few).questions["split"].to_pylist()
    assert pooled["num_questions"] == splits.count("test")
    assert np.shape(pooled["seeds"]["utility"]) == (3, 2)
    utility = [row["utility"] for row in pooled["policies"]["controller"]]
    np.testing.assert_allclose(np.mean(pooled["seeds"]["utility"], axis=0), utility)
    assert "controllers of\n3 seeds pooled" in results.read_text()
    assert "interquartile mean" in results.read_text()
