"""Many benchmarks in one run, each with little to do."""

import json
import subprocess
import sys

import pytest

from benchmarks import environments, forward, serving
from benchmarks.__main__ import run
from benchmarks.load import Load
from tests.conftest import CHECKPOINTS

CONTROLLER = CHECKPOINTS / "controller"


def test_rounds_are_summed_up_figure_by_figure():
    speeds = iter([3.0, 1.0, 8.0])
    order = []
    benches = {"a": lambda _: {"speed": next(speeds), "of": "text"}, "b": lambda n: {"round": n}}
    found = run(benches, 3, order.append)
    assert found["figures"] == [
        {"benchmark": "a", "figure": "speed", "median": 3.0, "least": 1.0, "most": 8.0},
        {"benchmark": "b", "figure": "round", "median": 1.0, "least": 0.0, "most": 2.0},
    ]
    assert order[:3] == ["round 1: a", "round 1: b", "round 2: a"]
    assert found["machine"]["cores"] >= 1


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=CHECKPOINTS.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_some_are_run_by_name_and_others_are_refused():
    found = json.loads(command("env", "--rounds", "1", "--json").stdout)
    assert [(row["benchmark"], row["figure"]) for row in found["figures"]] == [
        ("env", "steps_per_s")
    ]
    assert "expected names among" in command("nothing").stderr


def test_the_large_set_is_the_small_one_over_and_over():
    found = environments.scale(CHECKPOINTS / "traces", 150_000, num_envs=64, steps=2)
    assert found["attempts"] >= 150_000
    assert found["attempts"] % found["questions"] == 0
    assert found["bytes_per_attempt"] < 48
    assert found["ratio"] > 0


def test_speed_grows_with_what_is_done_at_once():
    speeds = environments.by_environments(CHECKPOINTS / "traces", [16, 1024], steps=16_000)
    assert speeds["1,024 environments: steps_per_s"] > speeds["16 environments: steps_per_s"] > 0
    assert len(environments.by_questions([50, 200])) == 2


def test_generation_is_compared_with_forward_passes_of_the_same_batch():
    found = forward.forward(CHECKPOINTS / "small", 0, num_questions=4, num_samples=4, rows=16)
    assert found["share"] == found["generate_tokens_per_s"] / found["forward_tokens_per_s"]
    assert 0 < found["forward_share"] < 1


def test_the_service_adds_little_to_what_its_upstream_takes():
    load = Load(clients=4, rate=8, seconds=1)
    found = serving.serving(CONTROLLER, 1, load=load, delay_s=0.1)
    assert found["direct_failed"] == found["allot_failed"] == 0
    assert found["direct_p50_ms"] >= 100
    assert found["allot_p50_ms"] == pytest.approx(
        found["direct_p50_ms"] + found["allot_added_p50_ms"]
    )
    assert 0 < found["allot_added_p50_ms"] < 300
    assert found["policy_us"] < found["choice_us"] < found["decision_us"]


def test_what_the_service_adds_by_clients():
    found = serving.by_clients(CONTROLLER, [1, 2], questions=3)
    assert 0 < found["2 clients: added_ms"] < 300
    assert found["1 clients: cpu_ms_per_question"] > 0
