"""Real recorded traces for every test: the bundled set."""

from pathlib import Path

import pytest
import torch

from envs.derive import derive_config
from envs.recorded import Recorded, read_recorded
from envs.traces import TraceSet

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def traces() -> TraceSet:
    return TraceSet.read(CHECKPOINTS / "traces")


@pytest.fixture(scope="session")
def validation(traces: TraceSet) -> Recorded:
    return read_recorded(traces, ["validation"])


@pytest.fixture(scope="session")
def config(traces: TraceSet, validation: Recorded):
    return derive_config(validation.table, traces.models())
