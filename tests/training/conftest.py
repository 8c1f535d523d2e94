"""A trace set on which trainings take seconds, and a way to run the command on it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pytest

from envs.traces import TraceSet, write_table

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def few(traces: TraceSet, tmp_path_factory) -> Path:
    """Directory with 300 questions of the bundled set, without hidden states to fit."""
    out = tmp_path_factory.mktemp("traces") / "few"
    out.mkdir()
    ids = traces.questions["question_id"].take(list(range(0, len(traces.questions), 15)))
    for name, table in (("questions", traces.questions), ("attempts", traces.attempts)):
        kept = table.filter(pc.is_in(table["question_id"], ids))
        columns = [c for c in kept.column_names if c != "prompt_hidden"]
        write_table(out / f"{name}.parquet", kept.select(columns))
    (out / "trace.json").write_text(json.dumps(traces.manifest))
    return out


@pytest.fixture(scope="session")
def environment():
    """The environment without an account, whatever machine the tests run on."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    return {**kept, "NETRC": os.devnull, "COLUMNS": "120"}


@pytest.fixture(scope="session")
def allot(environment):
    """Runs `allot` as a user does; further environment variables by name."""

    def run(*arguments, check=True, **more):
        command = [sys.executable, "-m", "training.cli", *map(str, arguments)]
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
