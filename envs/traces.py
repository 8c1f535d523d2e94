"""Trace sets: recorded attempts on disk, and as arrays for replay.

A trace set is a directory with `questions.parquet`, `attempts.parquet` and
`trace.json`. See docs/traces.md for the columns.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from controller.errors import ConfigError, TraceFormatError
from controller.types import AdapterSpec, ModelSpec

TRACE_VERSION = 1

QUESTION_SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("dataset", pa.string()),
        ("level", pa.int32()),
        ("question", pa.string()),
        ("reference", pa.string()),
        ("split", pa.string()),
        ("prompt_hidden", pa.list_(pa.float32())),
    ]
)
ATTEMPT_SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("attempt_id", pa.string()),
        ("parent_id", pa.string()),
        ("model", pa.string()),
        ("tier", pa.string()),
        ("action", pa.string()),
        ("index", pa.int32()),
        ("answer", pa.string()),
        ("correct", pa.bool_()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("mean_logprob", pa.float32()),
        ("min_logprob", pa.float32()),
        ("verifier_score", pa.float32()),
        ("text", pa.string()),
        ("error", pa.string()),
    ]
)
_REQUIRED = {
    "questions.parquet": ("question_id", "split"),
    "attempts.parquet": (
        "question_id",
        "attempt_id",
        "model",
        "tier",
        "action",
        "answer",
        "correct",
        "prompt_tokens",
        "completion_tokens",
    ),
}


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write(temporary_path)`, then put the file in place in one move."""
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    os.replace(temporary, path)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table of a trace set, atomically."""
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def tables_digest(directory: Path, tables: Iterable[str] = tuple(_REQUIRED)) -> str:
    """SHA-256 of a trace set's tables, in hex."""
    digest = hashlib.sha256()
    for table in tables:
        digest.update((directory / table).read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class TraceSet:
    """A trace set as read from disk.

    Attributes:
        path: its directory.
        manifest: `trace.json`.
        questions: one row per question.
        attempts: one row per attempt.
    """

    path: Path
    manifest: Mapping[str, Any]
    questions: pa.Table
    attempts: pa.Table

    @classmethod
    def read(cls, path: Path | str) -> TraceSet:
        """Read and check a trace set.

        Raises:
            TraceFormatError: files or columns are missing, the version is unknown, or
                attempts refer to questions that are not there.
        """
        path = Path(path)
        manifest_path = path / "trace.json"
        if not manifest_path.exists():
            raise TraceFormatError(
                f"{path}: expected a trace set with trace.json, questions.parquet and "
                "attempts.parquet; record one with `allot record`"
            )
        try:
            manifest = json.loads(manifest_path.read_text())
        except json.JSONDecodeError as error:
            raise TraceFormatError(f"{manifest_path}: expected JSON: {error}") from None
        if manifest.get("version") != TRACE_VERSION:
            raise TraceFormatError(
                f"{manifest_path}: expected version {TRACE_VERSION}, found "
                f"{manifest.get('version')!r}; upgrade allot or record the set again"
            )
        tables = {name: read_table(path / name, needed) for name, needed in _REQUIRED.items()}
        traces = cls(
            path=path,
            manifest=manifest,
            questions=tables["questions.parquet"],
            attempts=tables["attempts.parquet"],
        )
        known = set(traces.questions["question_id"].to_pylist())
        strangers = set(traces.attempts["question_id"].to_pylist()) - known
        if strangers:
            raise TraceFormatError(
                f"{path}: {len(strangers)} question ids of attempts.parquet are not in "
                f"questions.parquet, for example {min(strangers)!r}"
            )
        return traces

    def model_attempts(self) -> dict[str, list[int]]:
        """Rows of `attempts` by model."""
        rows: dict[str, list[int]] = {}
        for row, model in enumerate(self.attempts["model"].to_pylist()):
            rows.setdefault(model, []).append(row)
        return rows

    def default_ladder(self) -> tuple[str, ...]:
        """One small and one large model, when the caller does not choose.

        Small: most attempts recorded, then fewest parameters. Large: most often right on
        the train split, among models of known size if there are any.

        Raises:
            TraceFormatError: no model of the small tier.
        """
        tiers: dict[str, set[str]] = {"small": set(), "large": set()}
        for model, tier in set(
            zip(self.attempts["model"].to_pylist(), self.attempts["tier"].to_pylist(), strict=True)
        ):
            tiers.setdefault(tier, set()).add(model)
        if not tiers["small"]:
            raise TraceFormatError(f"{self.path}: expected attempts of tier 'small', found none")
        counts = {model: len(rows) for model, rows in self.model_attempts().items()}
        sizes = {model: self.parameters(model) for model in counts}
        small = min(tiers["small"], key=lambda m: (-counts[m], sizes[m] or float("inf"), m))
        accuracy = self._train_accuracy()
        sized = {m for m in tiers["large"] if sizes[m]} if sizes[small] else set()
        candidates = sized or tiers["large"]
        if not candidates:
            return (small,)
        return small, max(sorted(candidates), key=lambda m: accuracy.get(m, 0.0))

    def parameters(self, model: str) -> float | None:
        """Active parameters of a model, or None."""
        entry = self.manifest.get("models", {}).get(model, {})
        value = entry.get("active_parameters") or entry.get("parameters")
        return float(value) if value else None

    def _train_accuracy(self) -> dict[str, float]:
        split = dict(
            zip(
                self.questions["question_id"].to_pylist(),
                self.questions["split"].to_pylist(),
                strict=True,
            )
        )
        right: dict[str, list[bool]] = {}
        for question, model, correct in zip(
            self.attempts["question_id"].to_pylist(),
            self.attempts["model"].to_pylist(),
            self.attempts["correct"].to_pylist(),
            strict=True,
        ):
            if split[question] == "train":
                right.setdefault(model, []).append(bool(correct))
        return {model: float(np.mean(values)) for model, values in right.items()}

    def models(self, ladder: Sequence[str] | None = None) -> tuple[ModelSpec, ...]:
        """The models of a ladder, the small one first.

        Raises:
            ConfigError: a model that the set does not hold.
        """
        ladder = tuple(ladder) if ladder else self.default_ladder()
        held = self.model_attempts()
        for model in ladder:
            if model not in held:
                raise ConfigError(f"ladder: expected models among {sorted(held)}, found {model!r}")
        longest = dict.fromkeys(ladder, 1)
        for model in ladder:
            tokens = self.attempts["completion_tokens"].take(held[model])
            longest[model] = max(int(t or 1) for t in tokens.to_pylist())
        entries = self.manifest.get("models", {})
        return tuple(
            ModelSpec(
                name=model,
                rung=rung,
                parameters=self.parameters(model),
                max_new_tokens=entries.get(model, {}).get("max_new_tokens") or longest[model],
                digest=entries.get(model, {}).get("digest"),
                adapters=tuple(
                    AdapterSpec(
                        name=name, parameters=int(entry["parameters"]), digest=entry["digest"]
                    )
                    for name, entry in entries.get(model, {}).get("adapters", {}).items()
                ),
            )
            for rung, model in enumerate(ladder)
        )


def read_table(path: Path, required: Sequence[str]) -> pa.Table:
    """A table of a trace set.

    Args:
        path: parquet file.
        required: columns that it must have.

    Raises:
        TraceFormatError: no such file or columns, or it is no parquet file.
    """
    if not path.exists():
        raise TraceFormatError(f"{path}: expected this file of the trace set, found none")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise TraceFormatError(f"{path}: expected a parquet file: {error}") from None
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise TraceFormatError(f"{path}: expected columns {list(required)}, missing {missing}")
    return table
