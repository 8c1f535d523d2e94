"""The recorded side of both granularities: sets on disk, as arrays, and replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from controller.granularity import ATTEMPTS as ATTEMPT_STEPS
from controller.granularity import SEGMENTS as SEGMENT_STEPS
from controller.granularity import Granularity, Process
from envs.draws import Array
from envs.random import Streams
from envs.replay import Replay
from envs.segments.derive import derive_segment_config
from envs.segments.recorded import read_trees
from envs.segments.replay import SegmentReplay
from envs.segments.table import SegmentTable
from envs.segments.traces import KIND, SegmentTraces
from envs.traces.derive import derive_config
from envs.traces.format import TraceSet, read_manifest
from envs.traces.recorded import read_recorded
from envs.traces.table import TraceTable
from envs.traces.table_builder import build_table

AnyTraces = TraceSet | SegmentTraces
AnyTable = TraceTable | SegmentTable

STOP = 0
"""Action that ends an episode; the first of every action set."""


class ReplayState(Protocol):
    """State of N episodes, arrays over N."""

    price: Array
    round_price: Array
    spent: Array
    tokens: Array
    rounds: Array

    @property
    def fresh(self) -> Array:
        """Whether nothing has been done yet but reading the prompt."""
        ...

    def mask(self, rows: Array | slice = slice(None)) -> NDArray[np.bool_]:
        """Allowed actions, (n, A)."""
        ...


class Replayed(Protocol):
    """Recorded traces replayed in N episodes at a time."""

    @property
    def episodes(self) -> ReplayState:
        """State of the episodes."""
        ...

    @property
    def num_features(self) -> int:
        """D."""
        ...

    @property
    def num_starts(self) -> int:
        """Places that an episode can start at: questions, or recorded attempts at them."""
        ...

    @property
    def tally(self) -> dict[str, Array]:
        """Steps of an episode by kind, (N,) each."""
        ...

    def begin(
        self,
        rows: Array,
        start: Array,
        price: Array,
        budget: Array,
        /,
        *,
        round_price: Array | float = 0.0,
        hide_logprobs: Array | bool = False,
        hide_difficulty: Array | bool = False,
        hide_verifier: Array | bool = False,
        hide_prompt: Array | bool = False,
    ) -> None:
        """Start episodes at places given by position, (n,)."""
        ...

    def take(self, rows: Array, actions: Array, streams: Streams) -> None:
        """Carry out one action in each of `rows`, none of them STOP."""
        ...

    def close(self, rows: Array) -> None:
        """End the episodes of `rows`."""
        ...

    def right(self, rows: Array | slice = slice(None)) -> NDArray[np.bool_]:
        """Whether the answer of each episode of `rows` is right, (n,)."""
        ...

    def observe(
        self, rows: Array | slice = slice(None), out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Observations, of all episodes (N, D) or of `rows`, which replace those in `out`."""
        ...

    def final(self) -> dict[str, Array]:
        """What to tell of an episode that has ended, (N,) each."""
        ...


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """Recorded traces of one granularity.

    Attributes:
        granularity: of the decisions that they let replay.
        read: a set from its directory.
        table: arrays of a set's splits; see `build_table`.
        recorded: questions, backend and grader of a set's splits; see `read_recorded`.
        derive: the decision process from the table of the train split, the set and options.
        replay: N episodes over a table; see `Replay`.
    """

    granularity: Granularity
    read: Callable[[Path], Any]
    table: Callable[..., Any]
    recorded: Callable[..., Any]
    derive: Callable[..., Any]
    replay: Callable[..., Replayed]


ATTEMPTS = Recordings(
    granularity=ATTEMPT_STEPS,
    read=TraceSet.read,
    table=build_table,
    recorded=read_recorded,
    derive=lambda train, traces, ladder=None, **options: derive_config(
        train, traces.models(ladder), **options
    ),
    replay=Replay,
)
SEGMENTS = Recordings(
    granularity=SEGMENT_STEPS,
    read=SegmentTraces.read,
    table=SegmentTable.build,
    recorded=read_trees,
    derive=derive_segment_config,
    replay=SegmentReplay,
)


def recordings_of(kept: AnyTraces | AnyTable) -> Recordings:
    """The granularity of a set or of its table."""
    return SEGMENTS if isinstance(kept, SegmentTraces | SegmentTable) else ATTEMPTS


def read_traces(path: Path | str) -> AnyTraces:
    """A set of either granularity, as its `trace.json` says.

    Raises:
        TraceFormatError: it is none, or damaged.
    """
    manifest = read_manifest(Path(path), "a trace set; record one with `allot record`")
    kind = SEGMENTS if manifest.get("kind") == KIND else ATTEMPTS
    traces: AnyTraces = kind.read(Path(path))
    return traces


def replay_of(
    table: AnyTable,
    config: Process,
    num_episodes: int,
    *,
    difficulty: Array | None = None,
    permute: bool = True,
) -> Replayed:
    """N episodes over a table; see `Replay`."""
    kind = recordings_of(table)
    return kind.replay(table, config, num_episodes, difficulty=difficulty, permute=permute)
