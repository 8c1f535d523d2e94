"""The recorded side of both granularities: sets on disk, as arrays, and replayed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

from controller.errors import ConfigError, TraceFormatError
from controller.granularity import Process
from envs.replay import AttemptReplay, Replay, SegmentReplay
from envs.segments import KIND, SegmentTable, SegmentTraces, build_trees, read_trees
from envs.sessions.table import SessionTable, read_sessions
from envs.traces.derive import derive_config, derive_segment_config
from envs.traces.format import TraceSet, read_manifest
from envs.traces.recorded import Recorded, read_recorded
from envs.traces.table import TraceTable, build_table

AnyTraces = TraceSet | SegmentTraces
AnyTable = TraceTable | SegmentTable

_ADDED = ("own_actions", "own_features")

STOP = 0
"""Action that ends an episode; the first of every action set."""


def read_traces(path: Path | str) -> AnyTraces:
    """A set of either granularity; raises TraceFormatError if it is none, or damaged."""
    manifest = read_manifest(Path(path), "a trace set; record one with `allot record`")
    return (SegmentTraces if manifest.get("kind") == KIND else TraceSet).read(Path(path))


def table_of(
    traces: AnyTraces, splits: Sequence[str], ladder: Sequence[str] | None = None
) -> AnyTable:
    """Arrays of some splits of a set; see `build_table`."""
    if isinstance(traces, SegmentTraces):
        return build_trees(traces, splits, ladder)
    return build_table(traces, splits, ladder)


def recorded_of(
    traces: AnyTraces, splits: Sequence[str], ladder: Sequence[str] | None = None
) -> Recorded[Any, Any]:
    """Questions, backend and grader of some splits; see `read_recorded`."""
    read: Any = read_trees if isinstance(traces, SegmentTraces) else read_recorded
    return read(traces, splits, ladder)


def replay_of(table: AnyTable, config: Process, num_episodes: int, **how: Any) -> Replay:
    """N episodes over a table; see `Replay`."""
    kind: Any = SegmentReplay if isinstance(table, SegmentTable) else AttemptReplay
    return kind(table, config, num_episodes, **how)


class Opened:
    """A trace set; of which many environments are often made, and which takes seconds to read."""

    def __init__(self, path: str) -> None:
        self._traces = read_traces(path)
        self.digest = self._traces.manifest.get("digest")
        self.table: Any = cache(lambda split: table_of(self._traces, [split]))
        self.recorded = cache(self._recorded)
        self.sessions = cache(self._sessions)

    def _recorded(self, split: str) -> Any:
        recorded = recorded_of(self._traces, [split])
        where = str(Path(self._traces.path).resolve())
        recorded.backend.origin = partial(_backend, where, split, self.digest)
        return recorded

    def _sessions(self, split: str) -> SessionTable:
        if isinstance(self._traces, SegmentTraces):
            found = f"{self._traces.path}: expected whole attempts for sessions, found segments"
            raise TraceFormatError(found)
        return read_sessions(self._traces, [split])

    def process(self, kwargs: dict[str, Any]) -> Process:
        """The decision process that arguments of an environment tell, which are taken out."""
        config = kwargs.pop("config", None) or self.config
        added = {name: kwargs.pop(name) for name in _ADDED if name in kwargs}
        return replace(
            config, **{n: tuple(v) if isinstance(v, list) else v for n, v in added.items()}
        )

    @cached_property
    def config(self) -> Process:
        """The decision process that follows from the train split."""
        traces, train = self._traces, self.table("train")
        if isinstance(traces, SegmentTraces):
            return derive_segment_config(train, traces)
        return derive_config(train, traces.models(), traces.arms())


@lru_cache(maxsize=2)
def _read(traces: str, written_at: int) -> Opened:
    return Opened(traces)


def opened(traces: str) -> Opened:
    """A trace set as it is now; reading tells if it is not there, ConfigError if it can be none."""
    if not isinstance(traces, str | os.PathLike):
        raise ConfigError(
            f"traces: expected the directory of a trace set, found {traces!r}; leave it out of "
            "gymnasium.make for the bundled one"
        )
    manifest = Path(traces) / "trace.json"
    return _read(traces, manifest.stat().st_mtime_ns if manifest.exists() else 0)


def _backend(traces: str, split: str, digest: str | None) -> Any:
    """What an environment that is unpickled replays."""
    read = opened(traces)
    if read.digest != digest:
        raise TraceFormatError(
            f"{traces}: expected the trace set that the environment was made from, found another"
        )
    return read.recorded(split).backend
