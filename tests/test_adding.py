"""An action and a feature are added in their tables alone, or registered from outside."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import CHECKPOINTS

ROOT = CHECKPOINTS.parent

ACTION = '''
    ActionKind.LEAP: ActionSpec(
        meaning="the largest model makes an attempt",
        legal=_has_attempts,
        cost=attempting,
        paid_for="an attempt by the largest model",
        tier=Tier.LARGE,
        attempt=ActionKind.ESCALATE,
    ),
}
"""By kind,'''

FEATURE = """
    Feature("tokens", COUNTS, "tokens", PER_UNIT, lambda s: s.e.tokens / s.unit,
            "processed so far"),
    seen=AttemptsSeen,"""

EPISODES = """
import sys
from dataclasses import replace
import numpy as np
from controller.granularity import granularity_of
from envs.compute import ComputeEnv
from envs.traces.derive import derive_config
from envs.traces.recorded import read_recorded
from envs.traces.format import TraceSet
from envs.vector import ComputeVectorEnv

traces = TraceSet.read(sys.argv[1])
recorded = read_recorded(traces, ["validation"])
config = replace(derive_config(recorded.table, traces.models()), **added)
seen = granularity_of(config)
leap, tokens = config.actions.names.index("LEAP"), seen.features.index("tokens")
assert seen.meanings["LEAP"] == "the largest model makes an attempt"
assert "leap_price" in seen.features
vector = ComputeVectorEnv(recorded.table, config, 3)
scalars = [
    ComputeEnv(recorded.questions, recorded.backend, config, recorded.grader) for _ in range(3)
]
vector.reset(seed=0)
for i, env in enumerate(scalars):
    env.reset(seed=i)
for action in (leap, 1, leap):
    observations, rewards, *_, info = vector.step(np.full(3, action))
    stepped = [env.step(action) for env in scalars]
    assert (observations == [seen for seen, *_ in stepped]).all()
    assert (rewards == [reward for _, reward, *_ in stepped]).all()
    assert (info["action_mask"] == [info["action_mask"] for *_, info in stepped]).all()
    assert (observations[:, tokens] > 0).all()
assert not info["action_mask"][:, leap].any()
top = config.num_rungs - 1
assert [a.rung for a in scalars[0].episode.attempts] == [top, 0, top]
"""


REGISTER = """
from controller.process.actions import *
from controller.process.actions import _has_attempts, attempting, register_action
from controller.process.features import *
register_feature(Feature("length", "", "characters", PLAIN, FromWording(len), "of the question"))
added = {"own_actions": ("leap",), "own_features": ("tokens", "length")}
"""


def insert(path: Path, before: str, text: str) -> None:
    source = path.read_text()
    assert source.count(before) == 1
    path.write_text(source.replace(before, text))


def episodes(folder: Path, added: str) -> None:
    """Play some, alone and side by side, with `added` in front of the program."""
    done = subprocess.run(
        [sys.executable, "-c", added + EPISODES, CHECKPOINTS / "traces"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_an_action_and_a_feature_are_added_in_their_tables_alone(tmp_path):
    for package in ("controller", "envs"):
        shutil.copytree(ROOT / package, tmp_path / package)
    actions = tmp_path / "controller" / "process" / "actions.py"
    insert(actions, '    VERIFY = "verify"\n', '    VERIFY = "verify"\n    LEAP = "leap"\n')
    insert(actions, '\n}\n"""By kind,', ACTION)
    observation = tmp_path / "controller" / "process" / "observation.py"
    insert(observation, "\n    seen=AttemptsSeen,", "\n" + FEATURE.strip("\n"))
    episodes(tmp_path, "added = {}")


def test_what_a_line_of_a_table_does_registering_does():
    _, spec = ACTION.split("ActionKind.LEAP: ")
    spec, feature = spec.partition(",\n}")[0], FEATURE.strip().partition(",\n    seen")[0]
    episodes(ROOT, f"{REGISTER}register_action('leap', {spec})\nregister_feature({feature})\n")
