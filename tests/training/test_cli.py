"""The command line, from training to answers, on real models and traces."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def allot(*arguments, cwd=ROOT, check=True):
    command = [sys.executable, "-m", "training.cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    if check:
        assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "controller"
    allot("train", "--out", out, "--steps", 131072, "--wandb", "offline")
    return out


def test_evaluate_reports_every_policy(run):
    done = allot(
        "evaluate", run, "--repeats", 1, "--num-prices", 3, "--json", "--wandb", "disabled"
    )
    summary = json.loads(done.stdout)
    assert summary["num_questions"] >= 1000
    assert {"controller", "always small", "adaptive cascade"} <= set(summary["policies"])
    low, high = summary["policies"]["controller"][0]["utility_interval"]
    assert low <= summary["policies"]["controller"][0]["utility"] <= high
    assert (run / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_answer_shows_decisions(run):
    done = allot("answer", "--examples", 1, "--controller", run)
    assert "small-model tokens" in done.stdout
    done = allot(
        "answer", "Solve the following multiplication: 3 * 4.", "--controller", run, "--json"
    )
    outcome = json.loads(done.stdout)
    assert outcome["decisions"][0]["probabilities"].keys() == {
        "STOP",
        "SAMPLE",
        "SAMPLE(4)",
        "REVISE",
        "ESCALATE",
        "VERIFY",
    }


def test_training_can_be_read_back_from_wandb(run):
    runs = sorted((run / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == 1
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(runs[0])],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "validation/kept_utility" in done.stdout
    assert "charts/SPS" in done.stdout


@pytest.mark.parametrize(
    ("command", "advice"), [("evaluate", "allot train"), ("report", "allot evaluate")]
)
def test_errors_are_one_line(tmp_path, command, advice):
    done = allot(command, tmp_path / "nowhere", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert advice in done.stderr
