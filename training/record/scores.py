"""Verifier scores for attempts that were recorded before there was a verifier."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from controller.backends.local.adapters import load_adapters, verify
from controller.backends.local.model import LocalModel, load_model
from controller.backends.prompts import VERIFIER
from controller.errors import ConfigError
from envs.traces.format import TraceSet, tables_digest, write_atomically, write_table

_AT_ONCE = 4096
"""Attempts that are scored between two reports of progress."""


def add_scores(
    traces: TraceSet,
    small: str | Path,
    verifier: Path,
    out: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Write a trace set again with a verifier's scores of the small model's attempts.

    Args:
        traces: with the attempts' texts; scores that it has are replaced.
        small: directory or hub id of the model that the verifier is an adapter of.
        verifier: directory of the adapter.
        out: directory of the new set, which must hold none yet.
        progress: called with the number of attempts scored.

    Raises:
        ConfigError: `out` holds a trace set, or the set's small model is another one.
        BackendError: the adapter does not fit the model.
    """
    if (out / "trace.json").exists():
        raise ConfigError(f"{out}: expected no trace set there yet; choose another directory")
    local = load_adapters(load_model(small, 0), {VERIFIER: verifier})
    entry = traces.manifest.get("models", {}).get(local.name)
    if entry is None or entry.get("digest") not in (None, local.digest):
        raise ConfigError(
            f"{traces.path}: expected attempts by {local.name} with digest {local.digest}, found "
            f"{entry and entry.get('digest')}; verify them with the model that wrote them"
        )
    rows = _scoreable(traces, local.name)
    scores = np.full(traces.attempts.num_rows, np.nan)
    for start in range(0, len(rows), _AT_ONCE):
        chunk = rows[start : start + _AT_ONCE]
        scores[chunk] = _scores(traces, local, chunk)
        progress(start + len(chunk))
    _write(traces, scores, local, verifier, out)
    return len(rows)


def _scoreable(traces: TraceSet, model: str) -> NDArray[np.int64]:
    columns = (_column(traces.attempts, name) for name in ("model", "text", "error"))
    rows = [
        row
        for row, (name, text, error) in enumerate(zip(*columns, strict=True))
        if name == model and text is not None and error is None
    ]
    if not rows:
        raise ConfigError(
            f"{traces.path}: expected attempts by {model} with their texts, found none"
        )
    return np.array(rows, np.int64)


def _column(attempts: pa.Table, name: str) -> list[Any]:
    """Values of a column; None where there is no such column."""
    if name not in attempts.column_names:
        return [None] * attempts.num_rows
    values: list[Any] = attempts[name].to_pylist()
    return values


def _scores(traces: TraceSet, local: LocalModel, rows: NDArray[np.int64]) -> tuple[float, ...]:
    asked = dict(
        zip(
            traces.questions["question_id"].to_pylist(),
            traces.questions["question"].to_pylist(),
            strict=True,
        )
    )
    attempts = traces.attempts.take(rows)
    ids, written = _column(attempts, "question_id"), _column(attempts, "text")
    texts = [local.encode_attempt(asked[q], text) for q, text in zip(ids, written, strict=True)]
    known = [_column(attempts, name) for name in ("mean_logprob", "min_logprob")]
    logprobs = np.array(known, np.float32).T  # (n, 2), NaN where None
    return verify(local, texts, torch.from_numpy(np.ascontiguousarray(logprobs)))


def _write(
    traces: TraceSet, scores: NDArray[np.float64], local: LocalModel, verifier: Path, out: Path
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    column = pa.array(scores, pa.float32(), from_pandas=True)
    kept = [name for name in traces.attempts.column_names if name != "verifier_score"]
    attempts = traces.attempts.select(kept).append_column("verifier_score", column)
    write_table(out / "questions.parquet", traces.questions)
    write_table(out / "attempts.parquet", attempts)
    manifest: dict[str, Any] = json.loads(json.dumps(traces.manifest))
    (spec,) = local.adapters
    for name, entry in manifest["models"].items():
        entries = {local.name: entry, **entry.get("adapters", {})}
        for each in entries.values():
            if each.get("path") is not None:
                moved = (traces.path / each["path"]).resolve()
                each["path"] = os.path.relpath(moved, out.resolve())
        if name == local.name:
            entry.setdefault("adapters", {})[VERIFIER] = {
                "parameters": spec.parameters,
                "digest": spec.digest,
                "path": os.path.relpath(verifier.resolve(), out.resolve()),
            }
    manifest["digest"] = tables_digest(out)
    write_atomically(
        out / "trace.json", lambda path: path.write_text(json.dumps(manifest, indent=1) + "\n")
    )
