"""Segment traces on disk: for each attempt a tree of prefixes and what followed them.

A set is a directory with `questions.parquet`, `segments.parquet` and `trace.json`. Prefixes
with the same text are one node, so a node may stand for several draws. See docs/segments.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from controller.checkpoint import read_tensors, value_readout
from controller.errors import ConfigError, TraceFormatError
from controller.policy.readouts import Readout
from controller.process.types import ModelSpec
from controller.segments.types import Segmentation
from envs.traces.format import MANIFEST, model_spec, read_manifest, read_table

KIND, SEGMENT_TRACE_VERSION = "segments", 1
_RECORD = "record some with `python -m recipes.trees`"

PROMPT, SAMPLE, ESCALATE, TO_END = "prompt", "sample", "escalate", "escalate_to_end"
"""How a node came about: it is the prompt, or what a model wrote after the node before."""

TABLES = {
    "questions.parquet": ("question_id", "split"),
    "segments.parquet": (
        *("question_id", "attempt", "node", "before", "action", "draws", "prompt_tokens"),
        *("num_tokens", "small_tokens", "mean_logprob", "min_logprob", "entropy"),
        *("done", "answer", "correct", "forced_tokens"),
    ),
}
"""Required columns by table; `value` and `text` are further ones of a node."""

VALUE_FILE = "value.safetensors"
"""Beside the tables: the read-out that the column `value` was made with."""


@dataclass(frozen=True, kw_only=True)
class SegmentTraces:
    """A set of segment traces: its directory, `trace.json`, a row per question and one per node."""

    path: Path
    manifest: Mapping[str, Any]
    questions: pa.Table
    segments: pa.Table

    @classmethod
    def read(cls, path: Path | str) -> SegmentTraces:
        """Read and check a set.

        Raises:
            TraceFormatError: files or columns are missing, or it is of another kind or version.
        """
        path = Path(path)
        manifest = read_manifest(path, f"segment traces with trace.json and {[*TABLES]}; {_RECORD}")
        found = manifest.get("kind", "attempts"), manifest.get("version")
        if found != (KIND, SEGMENT_TRACE_VERSION):
            raise TraceFormatError(
                f"{path / MANIFEST}: expected segments of version {SEGMENT_TRACE_VERSION}, found "
                f"{found[0]} of version {found[1]!r}; {_RECORD}"
            )
        questions, segments = (read_table(path / name, TABLES[name]) for name in TABLES)
        return cls(path=path, manifest=manifest, questions=questions, segments=segments)

    def models(self, ladder: Sequence[str] | None = None) -> tuple[ModelSpec, ...]:
        """The small model, then the large one if it takes over anywhere.

        Raises:
            ConfigError: another ladder is asked for.
        """
        held = tuple(self.manifest["models"])
        if ladder and tuple(ladder) != held:
            raise ConfigError(f"ladder: expected {held}, which wrote the segments, found {ladder}")
        return tuple(model_spec(self.manifest, name, rung) for rung, name in enumerate(held))

    @property
    def value(self) -> Readout | None:
        """The read-out that made the column `value`; None if there is none."""
        path = self.path / VALUE_FILE
        if not path.exists():
            return None
        return value_readout({k: v.numpy() for k, v in read_tensors(path).items()}, self.path)

    @property
    def num_attempts(self) -> int:
        """Trees."""
        return sum(action == PROMPT for action in self.segments["action"].to_pylist())

    @property
    def segmentation(self) -> Segmentation:
        """Where segments end."""
        return Segmentation(**self.manifest["segmentation"])

    @property
    def draws(self) -> tuple[int, ...]:
        """How often each segment was written, by places redone before it."""
        return tuple(self.manifest["recorded"]["draws"])
