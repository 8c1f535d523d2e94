"""The wheel works alone: the command line, from training to answers, without the checkout.

Nothing is downloaded: packages that the wheel says it needs, and no others, are links to those of
the environment that runs the tests. The Hub is out of reach.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import venv
import zipfile
from contextlib import suppress
from importlib.metadata import PathDistribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from envs.traces.format import TraceSet

ROOT = Path(__file__).parent.parent
PACKAGES = ("controller", "envs", "training")
MOST_MIB = 60


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns("__pycache__")
    for folder in (*PACKAGES, "checkpoints"):
        shutil.copytree(ROOT / folder, source / folder, ignore=unwanted)
    for file in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copyfile(ROOT / file, source / file)
    pip("wheel", "--no-build-isolation", "--wheel-dir", out, source)
    (built,) = out.glob("*.whl")
    return built


def pip(*arguments):
    words = ["--quiet", "--disable-pip-version-check", *map(str, arguments)]
    alone = ["--no-deps", "--no-index"]
    subprocess.run([sys.executable, "-m", "pip", *words, *alone], check=True, timeout=300)


def needed(requires, extras):
    """Distributions that requirements bring along, with some extras chosen."""
    pending, seen = [(text, {"", *extras}) for text in requires], set()
    while pending:
        text, chosen = pending.pop()
        wanted = Requirement(text)
        marker, key = wanted.marker, (wanted.name, *sorted(wanted.extras))
        if key in seen or (marker and not any(marker.evaluate({"extra": e}) for e in chosen)):
            continue
        seen.add(key)
        found = distribution(wanted.name)
        pending += [(each, {"", *wanted.extras}) for each in found.requires or ()]
        yield found


class Installed:
    """An environment with the wheel and what it needs with some extras.

    Args:
        folder: for the environment and, within, the empty folder to work in.
        wheel: to install.
        extras: chosen, as in `allot[train]`.
    """

    def __init__(self, folder, wheel, *extras):
        self.work = folder / "work"
        self.work.mkdir()
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self.bin = folder / "venv" / "bin"
        pip("--python", self.bin / "python", "install", wheel)
        (self.site,) = (folder / "venv" / "lib").glob("python*/site-packages")
        (about,) = self.site.glob("allot-*.dist-info")
        for found in needed(PathDistribution(about).requires, extras):
            for top in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
                with suppress(FileExistsError):  # of packages that share a folder
                    (self.site / top).symlink_to(found.locate_file(top))
        self.environment = {
            **{k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "HF_HOME": str(folder / "hub"),
        }

    def start(self, program, *arguments):
        return subprocess.Popen(
            [self.bin / program, *map(str, arguments)],
            cwd=self.work,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, program, *arguments, returns=0):
        process = self.start(program, *arguments)
        out, err = process.communicate(timeout=300)
        assert process.returncode == returns, err
        return out if returns == 0 else err


@pytest.fixture(scope="module")
def deployment(wheel, tmp_path_factory):
    return Installed(tmp_path_factory.mktemp("deployment"), wheel)


@pytest.fixture(scope="module")
def research(wheel, some_traces, tmp_path_factory):
    """With a part of the traces in the place of all, on which a training takes seconds."""
    installed = Installed(tmp_path_factory.mktemp("research"), wheel, "train")
    shutil.copytree(some_traces, installed.site / "checkpoints" / "traces", dirs_exist_ok=True)
    return installed


def test_the_wheel_holds_every_module_and_all_traces_and_is_small(wheel):
    archive = zipfile.ZipFile(wheel)
    held = set(archive.namelist())
    modules = {str(p.relative_to(ROOT)) for name in PACKAGES for p in (ROOT / name).rglob("*.py")}
    assert modules <= held
    for path in (ROOT / "checkpoints" / "traces").iterdir():
        assert archive.read(str(path.relative_to(ROOT))) == path.read_bytes()
    assert wheel.stat().st_size < MOST_MIB * 2**20


def test_a_deployment_answers(deployment):
    told = json.loads(deployment.run("allot", "answer", "3 * 4 =", "--json"))
    assert told["decisions"][-1]["action"] == "STOP"


def test_a_deployment_serves(deployment):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    service = deployment.start("allot", "serve", "--port", port)
    try:
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"{url}/ready"):
                break
            assert service.poll() is None, service.communicate()
            time.sleep(0.2)
        with urllib.request.urlopen(f"{url}/") as response:
            assert b"<title>allot playground</title>" in response.read()
        asked = {"model": "allot", "messages": [{"role": "user", "content": "3 * 4 ="}]}
        request = urllib.request.Request(
            f"{url}/v1/chat/completions",
            json.dumps(asked).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            assert json.load(response)["allot"]["decisions"]
    finally:
        service.terminate()
        service.communicate(timeout=60)


@pytest.mark.parametrize("command", [["train", "--out", "x"], ["evaluate", "x"]])
def test_a_deployment_says_what_other_commands_need(deployment, command):
    said = deployment.run("allot", *command, returns=2)
    assert said.startswith("error: ")
    assert said.endswith("pip install 'allot[train]'\n")
    assert said.count("\n") == 1


def test_environments_are_made_of_bundled_traces(research):
    program = """
import gymnasium, envs
for name in ("allot/Compute-v0", "allot/Segment-v0"):
    observation, info = gymnasium.make(name).reset(seed=0)
    print(observation.shape, info["action_mask"].any())
print(gymnasium.make_vec("allot/Compute-v0", num_envs=3).reset(seed=0)[0].shape)
"""
    assert research.run("python", "-c", program).count("True") == 2


def test_bundled_models_are_recorded(research):
    research.run(
        *("allot", "record", "--out", "recorded", "--limit", 1, "--samples", 1),
        *("--escalations", 1, "--max-new-tokens", 16),
    )
    assert json.loads((research.work / "recorded" / "trace.json").read_text())["questions"] == 3


@pytest.fixture(scope="module")
def run(research):
    research.run("allot", "train", "--out", "run", "--steps", 8192, "--wandb", "offline")
    return research.work / "run"


def test_evaluate_reports_every_policy(research, run, some_traces):
    options = ("--repeats", 1, "--num-prices", 2, "--json", "--wandb", "disabled")
    summary = json.loads(research.run("allot", "evaluate", run, *options))
    splits = TraceSet.read(some_traces).questions["split"].to_pylist()
    assert summary["num_questions"] == splits.count("test")
    assert {"controller", "always small", "adaptive cascade"} <= set(summary["policies"])
    low, high = summary["policies"]["controller"][0]["utility_interval"]
    assert low <= summary["policies"]["controller"][0]["utility"] <= high
    assert (run / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_answer_shows_decisions(research, run):
    shown = research.run("allot", "answer", "--examples", 1, "--controller", run)
    assert "small-model tokens" in shown
    question = "Solve the following multiplication: 3 * 4."
    told = json.loads(research.run("allot", "answer", question, "--controller", run, "--json"))
    actions = {"STOP", "SAMPLE", "SAMPLE(4)", "REVISE", "ESCALATE", "VERIFY"}
    assert told["decisions"][0]["probabilities"].keys() == actions


def test_training_can_be_read_back_from_wandb(research, run):
    (kept,) = run.glob("wandb/offline-run-*/run-*.wandb")
    words = ("wandb", "leet", "inspect", "--summary", "--json")
    shown = research.run("python", "-m", *words, kept)
    assert "validation/kept_utility" in shown
    assert "charts/SPS" in shown
