"""Errors of the command line; the rest of it is tested as installed, in `tests/test_wheel.py`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent.parent


def allot(*arguments, cwd=ROOT, check=True):
    command = [sys.executable, "-m", "training.cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    if check:
        assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    ("command", "advice"), [("evaluate", "allot train"), ("report", "allot evaluate")]
)
def test_errors_are_one_line(tmp_path, command, advice):
    done = allot(command, tmp_path / "nowhere", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert advice in done.stderr
