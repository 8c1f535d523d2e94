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


@pytest.mark.parametrize(("name", "said"), [("trace.json", "expected JSON"), ("", "File exists")])
def test_another_file_in_the_way_of_a_recording_is_one_line(tmp_path, name, said):
    (tmp_path / (name or "file")).write_text("no set")
    done = allot("record", "--out", tmp_path / ("" if name else "file"), check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
