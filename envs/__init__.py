"""The Gymnasium side: environments over live models and recorded traces.

Importing this package registers `allot/Compute-v0`, `allot/Segment-v0` and `allot/Session-v0`, for
`gymnasium.make` and `gymnasium.make_vec`; all take `traces=DIRECTORY`, the bundled set by default,
and `split`. The first two are one environment over traces of whole attempts and of segments, the
third is one of sessions, see `envs.sessions`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from controller.bundled import bundled
from controller.errors import TraceFormatError

if TYPE_CHECKING:
    from controller.granularity import Process
    from envs.compute import ComputeEnv
    from envs.sessions.environment import SessionEnv, SessionVectorEnv
    from envs.sessions.table import SessionTable
    from envs.vector import ComputeVectorEnv

COMPUTE_ID = "allot/Compute-v0"
SEGMENT_ID = "allot/Segment-v0"
SESSION_ID = "allot/Session-v0"
_ADDED = ("own_actions", "own_features")


def make(traces: str, split: str = "train", **kwargs: Any) -> ComputeEnv:
    """The environment over a split of recorded traces; `kwargs` are of `envs.compute.ComputeEnv`.

    Settings follow from the train split; `own_actions` and `own_features` name registered ones.
    """
    from envs.compute import ComputeEnv

    read = _opened(traces)
    recorded, config = read.recorded(split), _process(read, kwargs)
    kwargs = {"attempts": recorded.table.num_attempts, **kwargs}
    return ComputeEnv(recorded.questions, recorded.backend, config, recorded.grader, **kwargs)


def make_vector(
    traces: str, num_envs: int = 1, split: str = "train", **kwargs: Any
) -> ComputeVectorEnv:
    """N environments over a split of recorded traces; `kwargs` are of `ComputeVectorEnv`."""
    from envs.vector import ComputeVectorEnv

    read = _opened(traces)
    config = _process(read, kwargs)
    return ComputeVectorEnv(read.table(split), config, num_envs, **kwargs)


def make_session(traces: str, split: str = "train", **kwargs: Any) -> SessionEnv:
    """The environment of sessions over a split of recorded traces; `kwargs` are of `SessionEnv`."""
    from envs.sessions.environment import SessionEnv

    return SessionEnv(_sessions(traces, split), **kwargs)


def make_sessions(
    traces: str, num_envs: int = 1, split: str = "train", **kwargs: Any
) -> SessionVectorEnv:
    """N of them; `kwargs` are of `SessionVectorEnv`."""
    from envs.sessions.environment import SessionVectorEnv

    return SessionVectorEnv(_sessions(traces, split), num_envs, **kwargs)


@lru_cache(maxsize=4)
def _sessions(traces: str, split: str) -> SessionTable:
    from envs.sessions.table import read_sessions
    from envs.traces.format import TraceSet

    return read_sessions(TraceSet.read(traces), [split])


def _process(read: _Opened, kwargs: dict[str, Any]) -> Process:
    """The decision process that arguments tell, which are taken out."""
    config = kwargs.pop("config", None) or read.config
    return replace(config, **{n: kwargs.pop(n) for n in _ADDED if n in kwargs})


class _Opened:
    """A trace set; of which many environments are often made, and which takes seconds to read."""

    def __init__(self, path: str) -> None:
        from envs.granularity import read_traces, table_of

        self._traces = read_traces(path)
        self.digest = self._traces.manifest.get("digest")
        self.table = cache(lambda split: table_of(self._traces, [split]))
        self.recorded = cache(self._recorded)

    def _recorded(self, split: str) -> Any:
        from envs.granularity import recorded_of

        recorded = recorded_of(self._traces, [split])
        where = str(Path(self._traces.path).resolve())
        recorded.backend.origin = partial(_backend, where, split, self.digest)
        return recorded

    @cached_property
    def config(self) -> Process:
        """The decision process that follows from the train split."""
        from envs.granularity import process_of

        return process_of(self.table("train"), self._traces)


@lru_cache(maxsize=2)
def _read(traces: str, written_at: int) -> _Opened:
    return _Opened(traces)


def _opened(traces: str) -> _Opened:
    """A trace set as it is now; reading tells if it is not there."""
    manifest = Path(traces) / "trace.json"
    return _read(traces, manifest.stat().st_mtime_ns if manifest.exists() else 0)


def _backend(traces: str, split: str, digest: str | None) -> Any:
    """What an environment that is unpickled replays."""
    read = _opened(traces)
    if read.digest != digest:
        raise TraceFormatError(
            f"{traces}: expected the trace set that the environment was made from, found another"
        )
    return read.recorded(split).backend


for _name, _traces_name in ((COMPUTE_ID, "traces"), (SEGMENT_ID, "segments/traces")):
    gymnasium.register(
        _name,
        kwargs={"traces": str(bundled(_traces_name))},
        entry_point="envs:make",
        vector_entry_point="envs:make_vector",
        order_enforce=False,
    )

gymnasium.register(
    SESSION_ID,
    kwargs={"traces": str(bundled("sessions"))},
    entry_point="envs:make_session",
    vector_entry_point="envs:make_sessions",
    order_enforce=False,
)
