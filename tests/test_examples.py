"""The programs in examples/ are short and run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.learning.test_libraries import LEARNERS

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

CALLS = {
    "answer": (["--questions", "1"], "at 1e-05 a token"),
    "record": (["--out", "traces", "--questions", "4"], "large: "),
    "train": (["--out", "run", "--steps", "8192"], "utility at price"),
    "own_reward": (["--steps", "2048", "--episodes", "20"], "careful: {'right'"),
    "own_feature": (["--out", "run", "--steps", "8192"], "chance of SETTLE"),
    "own_learner": (["--out", "run", "--steps", "8192"], "(wide): Linear"),
    "own_backend": (["--out", "run", "--steps", "8192"], " = "),
    "tune": (["--out", "study", "--trials", "4", "--steps", "8192"], "best of 4: "),
    "frontier": (["--prices", "3", "--repeats", "1"], "controller: "),
}


def test_every_example_is_called():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*CALLS, *LEARNERS}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_example_runs_in_an_empty_folder(name, clone, tmp_path):
    program, (arguments, expected) = clone / "examples" / f"{name}.py", CALLS[name]
    if name == "tune":
        pytest.importorskip("optuna", reason="pip install optuna")
    assert len(program.read_text().splitlines()) <= 60
    done = subprocess.run(
        [sys.executable, program, *arguments],
        cwd=tmp_path,
        env={**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": str(clone)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    if name == "frontier":
        assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
