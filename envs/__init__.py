"""The Gymnasium side: environments over live models and recorded traces.

Importing this package registers `allot/Compute-v0` and `allot/Segment-v0`, for `gymnasium.make`
and `gymnasium.make_vec`; all take `traces=DIRECTORY` and `split`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from controller.episodes import EpisodeConfig
    from controller.segments.episodes import SegmentConfig
    from envs.compute import ComputeEnv
    from envs.recorded import Recorded
    from envs.segments.env import SegmentEnv
    from envs.segments.recorded import RecordedTrees
    from envs.segments.replay import SegmentVectorEnv
    from envs.table import TraceTable
    from envs.traces import TraceSet
    from envs.vector import ComputeVectorEnv

COMPUTE_ID = "allot/Compute-v0"
SEGMENT_ID = "allot/Segment-v0"


def make_compute(traces: str, split: str = "train", **kwargs: Any) -> ComputeEnv:
    """`allot/Compute-v0` over a trace set; settings follow from its train split.

    Args:
        traces: directory of a trace set.
        split: train, validation or test.
        kwargs: of `envs.compute.ComputeEnv`.
    """
    from envs.compute import ComputeEnv

    recorded = _recorded(traces, split, _stamp(traces))
    config = kwargs.pop("config", None) or _config(traces, _stamp(traces))
    return ComputeEnv(recorded.questions, recorded.backend, config, recorded.grader, **kwargs)


def make_compute_vector(
    traces: str, num_envs: int = 1, split: str = "train", **kwargs: Any
) -> ComputeVectorEnv:
    """Vectorised `allot/Compute-v0` over a trace set.

    Args:
        traces: directory of a trace set.
        num_envs: N.
        split: train, validation or test.
        kwargs: of `envs.vector.ComputeVectorEnv`.
    """
    from envs.vector import ComputeVectorEnv

    config = kwargs.pop("config", None) or _config(traces, _stamp(traces))
    return ComputeVectorEnv(_table(traces, split, _stamp(traces)), config, num_envs, **kwargs)


def make_segment(traces: str, split: str = "train", **kwargs: Any) -> SegmentEnv:
    """`allot/Segment-v0` over segment traces; settings follow from their train split.

    Args:
        traces: directory of segment traces.
        split: train, validation or test.
        kwargs: of `envs.segments.env.SegmentEnv`.
    """
    from envs.segments.env import SegmentEnv

    trees = _trees(traces, split, _stamp(traces))
    kwargs = {"config": _segment_config(traces, _stamp(traces)), **kwargs}
    attempts = trees.table.num_attempts
    return SegmentEnv(
        trees.questions, trees.backend, grader=trees.grader, attempts=attempts, **kwargs
    )


def make_segment_vector(
    traces: str, num_envs: int = 1, split: str = "train", **kwargs: Any
) -> SegmentVectorEnv:
    """Vectorised `allot/Segment-v0` over segment traces.

    Args:
        traces: directory of segment traces.
        num_envs: N.
        split: train, validation or test.
        kwargs: of `envs.segments.replay.SegmentVectorEnv`.
    """
    from envs.segments.replay import SegmentVectorEnv

    config = kwargs.pop("config", None) or _segment_config(traces, _stamp(traces))
    return SegmentVectorEnv(_trees(traces, split, _stamp(traces)).table, config, num_envs, **kwargs)


# Many environments are often made of one trace set, which takes seconds to read.


def _stamp(traces: str) -> int:
    """When a trace set was written; 0 if it is not there, which reading it tells."""
    manifest = Path(traces) / "trace.json"
    return manifest.stat().st_mtime_ns if manifest.exists() else 0


@lru_cache(maxsize=2)
def _trace_set(traces: str, stamp: int) -> TraceSet:
    from envs.traces import TraceSet

    return TraceSet.read(traces)


@lru_cache(maxsize=4)
def _table(traces: str, split: str, stamp: int) -> TraceTable:
    from envs.table import TraceTable

    return TraceTable.build(_trace_set(traces, stamp), [split])


@lru_cache(maxsize=4)
def _recorded(traces: str, split: str, stamp: int) -> Recorded:
    from envs.recorded import read_recorded

    return read_recorded(_trace_set(traces, stamp), [split])


@lru_cache(maxsize=2)
def _config(traces: str, stamp: int) -> EpisodeConfig:
    from envs.derive import derive_config

    return derive_config(_table(traces, "train", stamp), _trace_set(traces, stamp).models())


@lru_cache(maxsize=4)
def _trees(traces: str, split: str, stamp: int) -> RecordedTrees:
    from envs.segments.recorded import read_trees
    from envs.segments.traces import SegmentTraces

    return read_trees(SegmentTraces.read(traces), [split])


@lru_cache(maxsize=2)
def _segment_config(traces: str, stamp: int) -> SegmentConfig:
    from envs.segments.derive import derive_segment_config
    from envs.segments.traces import SegmentTraces

    return derive_segment_config(_trees(traces, "train", stamp).table, SegmentTraces.read(traces))


gymnasium.register(
    COMPUTE_ID,
    entry_point="envs:make_compute",
    vector_entry_point="envs:make_compute_vector",
    order_enforce=False,
)
gymnasium.register(
    SEGMENT_ID,
    entry_point="envs:make_segment",
    vector_entry_point="envs:make_segment_vector",
    order_enforce=False,
)
