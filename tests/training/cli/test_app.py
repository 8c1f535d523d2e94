"""Errors of the command line; the rest of it is tested as installed, in `tests/test_wheel.py`."""

import subprocess
import sys
from pathlib import Path

import pytest

from controller.errors import ConfigError
from training.cli.app import AnswerConfig, key, main
from training.cli.flags import RayOptions
from training.cli.traces import RecordOptions
from training.record.settings import Amount, Decoding

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


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (
            {"price": 1e-4, "mean_cost": 300.0},
            "price, worth, accuracy, mean_cost: expected at most",
        ),
        ({"worth": 3.0, "accuracy": 0.5}, "price, worth, accuracy, mean_cost: expected at most"),
        ({"segments": True, "controller": ROOT}, "controller, segment_price: expected neither"),
        ({"segments": True, "segment_price": 1e-3}, "controller, segment_price: expected neither"),
        ({"segment_controller": ROOT}, "segment_controller: expected --segments or"),
    ],
)
def test_what_an_answer_would_ignore_is_refused(given, found):
    with pytest.raises(ConfigError, match=found):
        AnswerConfig(**given)


@pytest.mark.parametrize("name", ["", "two words", "ä" * 65])
def test_a_key_is_for_a_name_that_the_file_can_hold(name):
    with pytest.raises(ConfigError, match="name: expected up to 64 letters, digits"):
        key(name)


def test_a_price_that_no_controller_is_told_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="segment_price: expected the --segment-controller"):
        RecordOptions(
            out=tmp_path,
            amount=Amount(),
            decoding=Decoding(),
            cluster=RayOptions(),
            segment_price=0.1,
        )


def test_files_that_cannot_be_written_are_told_in_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        main((tmp_path / "file" / "run").mkdir)
    told = capsys.readouterr().err
    assert told == f"error: [Errno 20] Not a directory: '{tmp_path / 'file' / 'run'}'\n"
