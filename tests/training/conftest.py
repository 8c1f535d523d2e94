"""A trace set on which trainings take seconds, and a way to run the command on it."""

import io
import json
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from envs.traces.format import TraceSet, write_table

ROOT = Path(__file__).parent.parent.parent

os.environ["COLUMNS"] = "120"  # read when the command line is imported


def thinned(
    traces: TraceSet, out: Path, every: int, without: Sequence[str] = (), samples: int = 6
) -> Path:
    """Directory with one question in so many of a set, fewer samples, some columns left out.

    Hand-made rules, which each training is held against, have the fewer settings the fewer
    samples there are.
    """
    out.mkdir(parents=True)
    ids = traces.questions["question_id"].take(list(range(0, len(traces.questions), every)))
    names = traces.attempts["attempt_id"].to_pylist()
    early = [int(name.split(">")[0].rpartition(":")[2]) < samples for name in names]
    attempts = traces.attempts.filter(pa.array(early))
    for name, table in (("questions", traces.questions), ("attempts", attempts)):
        kept = table.filter(pc.is_in(table["question_id"], ids))
        columns = [c for c in kept.column_names if c not in without]
        write_table(out / f"{name}.parquet", kept.select(columns))
    (out / "trace.json").write_text(json.dumps(traces.manifest))
    return out


@pytest.fixture(scope="session")
def few(traces: TraceSet, tmp_path_factory) -> Path:
    """Directory with 150 questions of the bundled set, without hidden states to fit."""
    out = tmp_path_factory.mktemp("traces") / "few"
    return thinned(traces, out, every=30, without=("prompt_hidden",))


@pytest.fixture(scope="session")
def environment():
    """The environment without an account, whatever machine the tests run on."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    return {**kept, "NETRC": os.devnull, "COLUMNS": "120"}


def in_this_process(program: str, arguments: Sequence[str]) -> subprocess.CompletedProcess:
    """What `python -m` does with a module, its output included."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        chdir(ROOT),
        warnings.catch_warnings(),
        patch.object(sys, "argv", [program, *arguments]),
    ):
        warnings.simplefilter("default")  # as outside of pytest
        try:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            code = ended.code or 0
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def allot(environment):
    """Runs `allot`, or another module, as a user does; further environment variables by name.

    In this process, which has imported what takes seconds, unless W&B is to see the environment.
    """

    def run(*arguments, check=True, program="training.cli", **more):
        command = [sys.executable, "-m", program, *map(str, arguments)]
        watched = {"train", "evaluate"} & {*command} and "disabled" not in command
        if not (watched or more):
            done = in_this_process(program, command[3:])
            assert not check or done.returncode == 0, done.stderr
            return done
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


class OfflineRun:
    """An offline run of W&B, read with W&B's own reader.

    Args:
        directory: of `wandb/`, with one run in it.
    """

    def __init__(self, directory: Path) -> None:
        (log,) = directory.glob("wandb/offline-run-*/run-*.wandb")
        self.files = log.parent / "files"
        self._command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
        self.whole = json.loads(self._read("--summary"))
        self.summary = self.whole["summary"]
        self._records = [json.loads(line) for line in self._read().splitlines()]

    def _read(self, *options: str) -> str:
        done = subprocess.run(
            [*self._command, *options], capture_output=True, text=True, timeout=300, check=True
        )
        return done.stdout

    def records(self, kind: str) -> list[dict]:
        return [record[kind] for record in self._records if record["type"] == kind]

    def history(self) -> list[dict]:
        return [record["item"] for record in self.records("history")]

    def table(self, name: str) -> list[dict]:
        content = json.loads((self.files / self.summary[name]["path"]).read_text())
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


@pytest.fixture(scope="session")
def offline_run():
    return OfflineRun


@pytest.fixture(scope="session")
def pair(few, allot, tmp_path_factory) -> Path:
    """Two seeds, trained and evaluated with W&B offline."""
    out = tmp_path_factory.mktemp("runs") / "pair"
    given = ("--traces", few, "--wandb", "offline")
    allot("train", "--out", out, "--seeds", 2, "--num-envs", 64, "--steps", 64 * 16 * 4, *given)
    allot("evaluate", out, "--num-prices", 3, "--repeats", 1, *given)
    return out
