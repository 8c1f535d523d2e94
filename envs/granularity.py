"""The recorded side of both granularities: sets on disk, as arrays, and replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.granularity import ATTEMPTS as ATTEMPT_STEPS
from controller.granularity import SEGMENTS as SEGMENT_STEPS
from controller.granularity import Granularity, Process
from envs.replay import AttemptReplay, Replay
from envs.segments.replay import SegmentReplay, read_trees
from envs.segments.table import (
    KIND,
    SegmentTable,
    SegmentTraces,
    build_trees,
    derive_segment_config,
)
from envs.traces.derive import derive_config
from envs.traces.format import TraceSet, read_manifest
from envs.traces.recorded import read_recorded
from envs.traces.table import TraceTable, build_table

AnyTraces = TraceSet | SegmentTraces
AnyTable = TraceTable | SegmentTable

STOP = 0
"""Action that ends an episode; the first of every action set."""


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """Recorded traces of one granularity.

    Attributes:
        read: a set from its directory.
        table, recorded: arrays, or questions, backend and grader, of a set's splits; see
            `build_table` and `read_recorded`.
        derive: the decision process from the table of the train split, the set and options.
        replay: N episodes over a table; see `Replay`.
    """

    granularity: Granularity
    read: Callable[[Path], Any]
    table: Callable[..., Any]
    recorded: Callable[..., Any]
    derive: Callable[..., Any]
    replay: Callable[..., Replay]


ATTEMPTS = Recordings(
    granularity=ATTEMPT_STEPS,
    read=TraceSet.read,
    table=build_table,
    recorded=read_recorded,
    derive=lambda train, traces, ladder=None, **options: derive_config(
        train, traces.models(ladder), traces.arms(ladder), **options
    ),
    replay=AttemptReplay,
)
SEGMENTS = Recordings(
    granularity=SEGMENT_STEPS,
    read=SegmentTraces.read,
    table=build_trees,
    recorded=read_trees,
    derive=derive_segment_config,
    replay=SegmentReplay,
)


def recordings_of(kept: AnyTraces | AnyTable) -> Recordings:
    """The granularity of a set or of its table."""
    return SEGMENTS if isinstance(kept, SegmentTraces | SegmentTable) else ATTEMPTS


def read_traces(path: Path | str) -> AnyTraces:
    """A set of either granularity; raises TraceFormatError if it is none, or damaged."""
    manifest = read_manifest(Path(path), "a trace set; record one with `allot record`")
    kind = SEGMENTS if manifest.get("kind") == KIND else ATTEMPTS
    traces: AnyTraces = kind.read(Path(path))
    return traces


def replay_of(table: AnyTable, config: Process, num_episodes: int, **how: Any) -> Replay:
    """N episodes over a table; see `Replay`."""
    return recordings_of(table).replay(table, config, num_episodes, **how)
