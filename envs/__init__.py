"""The Gymnasium side: environments over live models and recorded traces.

Importing this package registers `allot/Compute-v0` and `allot/Segment-v0`, for `gymnasium.make`
and `gymnasium.make_vec`; both take `traces=DIRECTORY`, the bundled set by default, and `split`.
They are one environment over traces of whole attempts and of segments.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from controller.bundled import bundled

if TYPE_CHECKING:
    from envs.compute import ComputeEnv
    from envs.granularity import AnyTraces
    from envs.vector import ComputeVectorEnv

COMPUTE_ID = "allot/Compute-v0"
SEGMENT_ID = "allot/Segment-v0"


def make(traces: str, split: str = "train", **kwargs: Any) -> ComputeEnv:
    """The environment over recorded traces; settings follow from their train split.

    Args:
        traces: directory of a trace set.
        split: train, validation or test.
        kwargs: of `envs.compute.ComputeEnv`.
    """
    from envs.compute import ComputeEnv

    recorded = _recorded(traces, split, _stamp(traces))
    config = kwargs.pop("config", None) or _config(traces, _stamp(traces))
    kwargs = {"attempts": recorded.table.num_attempts, **kwargs}
    return ComputeEnv(recorded.questions, recorded.backend, config, recorded.grader, **kwargs)


def make_vector(
    traces: str, num_envs: int = 1, split: str = "train", **kwargs: Any
) -> ComputeVectorEnv:
    """The vectorised environment over recorded traces.

    Args:
        traces: directory of a trace set.
        num_envs: N.
        split: train, validation or test.
        kwargs: of `envs.vector.ComputeVectorEnv`.
    """
    from envs.vector import ComputeVectorEnv

    config = kwargs.pop("config", None) or _config(traces, _stamp(traces))
    return ComputeVectorEnv(_table(traces, split, _stamp(traces)), config, num_envs, **kwargs)


# Many environments are often made of one trace set, which takes seconds to read.


def _stamp(traces: str) -> int:
    """When a trace set was written; 0 if it is not there, which reading it tells."""
    manifest = Path(traces) / "trace.json"
    return manifest.stat().st_mtime_ns if manifest.exists() else 0


@lru_cache(maxsize=2)
def _traces(traces: str, stamp: int) -> AnyTraces:
    from envs.granularity import read_traces

    return read_traces(traces)


@lru_cache(maxsize=4)
def _table(traces: str, split: str, stamp: int) -> Any:
    from envs.granularity import recordings_of

    read = _traces(traces, stamp)
    return recordings_of(read).table(read, [split])


@lru_cache(maxsize=4)
def _recorded(traces: str, split: str, stamp: int) -> Any:
    from envs.granularity import recordings_of

    read = _traces(traces, stamp)
    return recordings_of(read).recorded(read, [split])


@lru_cache(maxsize=2)
def _config(traces: str, stamp: int) -> Any:
    from envs.granularity import recordings_of

    read = _traces(traces, stamp)
    return recordings_of(read).derive(_table(traces, "train", stamp), read)


for _name, _traces_name in ((COMPUTE_ID, "traces"), (SEGMENT_ID, "segments/traces")):
    gymnasium.register(
        _name,
        kwargs={"traces": str(bundled(_traces_name))},
        entry_point="envs:make",
        vector_entry_point="envs:make_vector",
        order_enforce=False,
    )
