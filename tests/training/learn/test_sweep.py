"""The sweep file: W&B's own reader takes it, and its own agent starts a training from it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from training.learn.settings import resolve

ROOT = Path(__file__).parent.parent.parent.parent
SWEEP = ROOT / "examples" / "sweep.yaml"

AGENT = """
import json, sys
from wandb.sdk.launch.sweeps.utils import load_sweep_config
from wandb.wandb_agent import Agent

sweep, arguments = load_sweep_config(sys.argv[1]), json.loads(sys.argv[2])
agent = Agent(api=None, queue=None, sweep_id="sweep0")
agent._sweep_command = sweep["command"]
for run, values in arguments.items():
    args = {name: {"value": value} for name, value in values.items()}
    agent._command_run({"run_id": run, "program": sweep.get("program"), "args": args})
    agent._run_processes[run].wait()
    print(run, agent._run_processes[run].poll())
"""
"""What `wandb agent` does with the commands that the server sends, without the server."""


def one_choice(parameters):
    """Values as a search could draw them."""
    return {
        name: entry.get("value", entry.get("min", entry.get("values", [None])[0]))
        for name, entry in parameters.items()
    }


def test_every_parameter_is_a_setting():
    parameters = yaml.safe_load(SWEEP.read_text())["parameters"]
    flags = {name: str(value) for name, value in one_choice(parameters).items()}
    settings = resolve({**flags, "out": "runs/x"})
    assert settings.train.ppo.hidden_sizes == (64, 64)


def test_the_metric_is_logged():
    assert yaml.safe_load(SWEEP.read_text())["metric"]["name"] == "validation/kept_utility"


def test_the_agent_trains_each_run_in_a_directory_of_its_own(
    few, environment, offline_run, tmp_path
):
    chosen = one_choice(yaml.safe_load(SWEEP.read_text())["parameters"])
    chosen |= {"traces": str(few), "total_steps": 2 * 1024, "num_envs": 64}
    runs = {"first": chosen, "second": {**chosen, "learning_rate": 0.001}}
    done = subprocess.run(
        [sys.executable, "-c", AGENT, str(SWEEP), json.dumps(runs)],
        cwd=tmp_path,
        env={
            **environment,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
            "WANDB_MODE": "offline",
            "WANDB_SWEEP_ID": "sweep0",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout.splitlines()[-1] == "second 0", done.stderr
    for run, values in runs.items():
        out = tmp_path / "runs" / "sweep" / run
        stored = yaml.safe_load((out / "config.yaml").read_text())
        assert stored["learning_rate"] == values["learning_rate"]
        assert stored["hidden_sizes"] == values["hidden_sizes"]
        logged = offline_run(out)
        assert logged.whole["run_id"] == run
        assert logged.whole["config"]["learning_rate"] == values["learning_rate"]
        assert "validation/kept_utility" in logged.summary
