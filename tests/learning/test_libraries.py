"""Other libraries learn at all: their programs in examples/ beat every plan that does not look."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import pytest
from packaging.requirements import Requirement

from envs.traces.importing import import_attempts
from tests.learning.synthetic import QuestionType, SyntheticFamily

EXAMPLES = Path(__file__).parents[2] / "examples"

LEARNERS = {
    "train_cleanrl": ("torch", ["--steps", "40960"]),
    "train_sb3": ("sb3_contrib", ["--steps", "12288"]),
    "train_skrl": ("skrl", ["--steps", "40960"]),
    "train_tianshou": ("tianshou", ["--steps", "8000"]),
    "train_rllib": ("tree", ["--steps", "20480"]),
    "offline_minari": ("minari", ["--learn-from", "1500"]),
}
"""The package that a program needs beside those of development, and for how long it learns."""

STOP, SAMPLE, ESCALATE = 0, 1, 3

TYPES = (
    QuestionType(share=0.5, small=0.95, large=0.97),
    QuestionType(share=0.5, small=0.05, large=0.95),
)


def test_rllib_can_be_installed_beside_allot():
    """It wants one version of Gymnasium, so that ours has to be among those that allot takes."""
    project = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text())["project"]
    ours = map(Requirement, project["optional-dependencies"]["train"])
    theirs = map(Requirement, requires("ray") or [])
    (allowed,) = (line.specifier for line in ours if line.name == "gymnasium")
    (wanted,) = (
        specifier.version
        for line in theirs
        if line.name == "gymnasium" and line.marker and line.marker.evaluate({"extra": "rllib"})
        for specifier in line.specifier
    )
    assert wanted in allowed


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """Questions that the small model gets right or never does; the large one mostly does."""
    family, directory = SyntheticFamily(types=TYPES), tmp_path_factory.mktemp("family")
    table = family.table(400, seed=0)
    rows = [
        {
            "question": f"{question}?",
            "model": model,
            "parameters": size,
            "answer": int(attempt["answer"]),
            "correct": bool(table.answer_correct[question, attempt["answer"]]),
            "prompt_tokens": family.prompt_tokens,
            "completion_tokens": family.completion_tokens,
        }
        for question, rungs in enumerate(table.stream)
        for model, size, stream in zip(("small", "large"), (1e9, 8e9), rungs, strict=True)
        for attempt in table.attempts[stream[stream >= 0]]
    ]
    log = directory / "attempts.jsonl"
    log.write_text("\n".join(map(json.dumps, rows)))
    import_attempts([log], directory / "traces", small="small")
    return directory / "traces"


def mean_return(traces, plan, episodes=300):
    """Of actions that do not depend on what comes out, then STOP."""
    env = gymnasium.make("envs:allot/Compute-v0", traces=str(traces), split="test")
    total = 0.0
    for episode in range(episodes):
        env.reset(seed=episode)
        for action in (*plan, STOP):
            _, reward, over, _, _ = env.step(action)
            total += reward
            if over:
                break
    return total / episodes


@pytest.fixture(scope="module")
def best_plan(traces):
    """What is got without looking at prices and attempts."""
    plans = [[], [SAMPLE], [ESCALATE], [SAMPLE, ESCALATE]]
    return max(mean_return(traces, plan) for plan in plans)


@pytest.mark.parametrize("name", LEARNERS)
def test_library_learns(name, traces, best_plan, tmp_path):
    package, arguments = LEARNERS[name]
    if find_spec(package) is None:
        pytest.skip(f"needs a package that is not installed: examples/{name}.py says which")
    program = EXAMPLES / f"{name}.py"
    assert len(program.read_text().splitlines()) <= 100
    done = subprocess.run(
        [sys.executable, program, "--traces", traces, "--episodes", "300", *arguments],
        cwd=tmp_path,
        env={**os.environ, "MINARI_DATASETS_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (learned,) = re.findall(r"learned: mean return (-?[\d.]+)", done.stdout)
    assert float(learned) > best_plan
