"""Real recorded traces for every test: the bundled set."""

import os
import shutil
import sys
from pathlib import Path

# As many processes as cores test side by side. Read when NumPy is imported, in commands as well.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# By default workers wait for whatever else runs: the tests beside these, for example.
os.environ.setdefault("RAY_worker_niceness", "0")

import pytest
import torch

from controller.backends.local.backend import load_model
from controller.backends.local.segments import SegmentWriter
from controller.checkpoint import save_checkpoint
from envs.questions.grader import KindGrader
from envs.segments import SegmentTraces
from envs.traces.derive import derive_config
from envs.traces.format import TraceSet
from envs.traces.recorded import Recorded, read_recorded
from envs.traces.table import build_table
from recipes.trees import TreeConfig, TreeRecorder, record_trees
from tests.menus import write_menu
from tests.training.conftest import thinned
from training.learn.calibration import with_tie_breaks
from training.learn.config import PPOConfig, TrainConfig
from training.learn.train import ControllerTraining
from training.report.show import new_questions

ROOT = Path(__file__).parent.parent
CHECKPOINTS = ROOT / "checkpoints"

REAL = [file for file in os.environ.get("ALLOT_REAL_MODEL", "").split(os.pathsep) if file]
"""GGUF files of small chat models, the smallest first."""

needs_real_model = pytest.mark.skipif(
    not REAL, reason="needs a real model: ALLOT_REAL_MODEL=FILE.gguf[:FILE.gguf]"
)

ON_THEIR_OWN = ("test_docs.py", "test_examples.py")
"""Files of long tests that share no set-up: whichever process is free takes the next one.

They come first, so that no process waits for another's last page.
"""

torch.set_num_threads(1)


SHARED = ("trees", "pair")
"""Fixtures of a session that take long: the files that use one of them share a process, too."""


@pytest.hookimpl(tryfirst=True)  # pytest-xdist looks at the marks in a hook of the same name
def pytest_collection_modifyitems(items) -> None:
    """Keep tests that share set-ups in one process, the longest first; see the Makefile."""
    groups = {}
    for item in items:
        group = next((name for name in SHARED if name in item.fixturenames), str(item.path))
        if groups.get(item.path) not in SHARED:
            groups[item.path] = group
    for item in items:
        if item.path.name not in ON_THEIR_OWN:
            item.add_marker(pytest.mark.xdist_group(groups[item.path]))
    items.sort(
        key=lambda item: (item.path.name not in ON_THEIR_OWN, groups[item.path] not in SHARED)
    )


@pytest.fixture(scope="session")
def traces() -> TraceSet:
    return TraceSet.read(CHECKPOINTS / "traces")


@pytest.fixture(scope="session")
def validation(traces: TraceSet) -> Recorded:
    return read_recorded(traces, ["validation"])


@pytest.fixture(scope="session")
def config(traces: TraceSet, validation: Recorded):
    return with_tie_breaks(validation.table, derive_config(validation.table, traces.models()))


@pytest.fixture(scope="session")
def menu(tmp_path_factory) -> TraceSet:
    """A recorded set of four arms."""
    return TraceSet.read(write_menu(tmp_path_factory.mktemp("menu") / "traces"))


@pytest.fixture(scope="session")
def menu_config(menu):
    """Its decision process."""
    table = build_table(menu, ["train"], [model.name for model in menu.models()])
    derived = derive_config(table, menu.models(), menu.arms(), sample_widths=(1, 2))
    return with_tie_breaks(table, derived)


@pytest.fixture(scope="session")
def small_and_large():
    """The bundled models."""
    return [load_model(CHECKPOINTS / name, rung) for rung, name in enumerate(("small", "large"))]


@pytest.fixture(scope="session")
def trees(small_and_large, tmp_path_factory) -> SegmentTraces:
    """Trees of a few questions, recorded from the bundled models."""
    out = tmp_path_factory.mktemp("segments") / "trees"
    drawn = new_questions(30, seed=5)
    splits = {"train": drawn[:16], "validation": drawn[16:20], "test": drawn[20:]}
    writer = SegmentWriter(small_and_large)
    config = TreeConfig(attempts=2, draws=(3, 2, 1), keep_text=True, shard_questions=len(drawn))
    notes = {"models": {name: {"path": str(CHECKPOINTS / name)} for name in ("small", "large")}}
    record_trees(splits, TreeRecorder(writer, KindGrader(), config), out, notes)
    return SegmentTraces.read(out)


@pytest.fixture(scope="session")
def redoing(trees: SegmentTraces, tmp_path_factory) -> Path:
    """Run directory of a controller inside attempts, hardly trained, that likes to redo."""
    out = tmp_path_factory.mktemp("segments") / "redoing"
    config = TrainConfig(ppo=PPOConfig(total_steps=64 * 16 * 6, num_envs=64, num_steps=16))
    checkpoint = ControllerTraining(trees, config, out).run()
    checkpoint.policy.actor[-1].bias.data += torch.tensor([-0.5, 0.5, 1, -1, -1])
    save_checkpoint(checkpoint, out)
    return out


@pytest.fixture(scope="session")
def some_traces(traces, tmp_path_factory):
    """A part of the bundled set, so that a training takes seconds and not minutes."""
    return thinned(traces, tmp_path_factory.mktemp("docs") / "traces", every=32)


@pytest.fixture
def clone(tmp_path, some_traces):
    """A folder with what a fresh clone has, environment included, but for most of the traces."""
    folder = tmp_path / "clone"
    unwanted = shutil.ignore_patterns("training", "evaluation")
    shutil.copytree(ROOT / "checkpoints", folder / "checkpoints", ignore=unwanted)
    shutil.copytree(some_traces, folder / "checkpoints" / "traces", dirs_exist_ok=True)
    for package in ("controller", "envs", "training", "recipes", "benchmarks", "examples"):
        shutil.copytree(ROOT / package, folder / package)
    for file in ("Makefile", "pyproject.toml"):
        shutil.copyfile(ROOT / file, folder / file)
        os.utime(folder / file, (0, 0))  # older than the environment, which so is up to date
    (folder / ".venv").symlink_to(sys.prefix)
    return folder
