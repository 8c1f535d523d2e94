"""Trace sets: recorded attempts on disk, and as arrays for replay.

A trace set is a directory with `questions.parquet`, `attempts.parquet` and
`trace.json`. See docs/traces.md for the columns.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow.fs import LocalFileSystem

from controller.errors import ConfigError, TraceFormatError
from controller.files import write_atomically
from controller.process.lockstep import Floats
from controller.process.menu import Arm, menu_of
from controller.process.types import AdapterSpec, ModelSpec, Rates

TRACE_VERSION = 1

MANIFEST = "trace.json"
SPLITS = ("train", "validation", "test")

ROW_GROUP = 65_536
"""Rows that are in memory at a time: of a merged table's row groups, and when scanning."""

ARM = "arm"
"""Column of a log that tells several arms of one model apart: `MODEL:ARM` in the set."""

VARIANT = "variant"
"""Column with the name of the prompt of each attempt, where one model was asked in several ways."""

QUESTION_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("question_id", "dataset")),
        ("level", pa.int32()),
        *((name, pa.string()) for name in ("question", "reference", "split")),
        ("prompt_hidden", pa.list_(pa.float32())),
    ]
)
ATTEMPT_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("question_id", "attempt_id", "parent_id")),
        *((name, pa.string()) for name in ("model", "tier", "action")),
        ("index", pa.int32()),
        ("answer", pa.string()),
        ("correct", pa.bool_()),
        *((name, pa.int32()) for name in ("prompt_tokens", "completion_tokens")),
        *((name, pa.int32()) for name in ("cached_tokens", "reasoning_tokens")),
        ("finish_reason", pa.string()),
        ("how", pa.string()),
        *((name, pa.float32()) for name in ("seconds", "cost_usd")),
        *((name, pa.float32()) for name in ("mean_logprob", "min_logprob", "verifier_score")),
        ("verifier_tokens", pa.int32()),
        ("text", pa.string()),
        ("error", pa.string()),
    ]
)
_REQUIRED = {
    "questions.parquet": ("question_id", "split"),
    "attempts.parquet": (
        *("question_id", "attempt_id", "model", "tier", "action"),
        *("answer", "correct", "prompt_tokens", "completion_tokens"),
    ),
}


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table of a trace set, atomically."""
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def tables_digest(directory: Path, tables: Iterable[str] = tuple(_REQUIRED)) -> str:
    """SHA-256 of a trace set's tables, in hex."""
    digest = hashlib.sha256()
    for table in tables:
        with (directory / table).open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


@dataclass(kw_only=True)
class ModelRows:
    """What a trace set holds by one model.

    Attributes:
        attempts, read: how many, and those of them that have an answer.
        tiers: that they are recorded under.
        longest: most tokens written.
        train_attempts, train_right: at questions of the train split, and the right ones of them.
    """

    attempts: int = 0
    read: int = 0
    tiers: set[str] = field(default_factory=set)
    longest: int = 1
    train_attempts: int = 0
    train_right: int = 0


@dataclass(frozen=True, kw_only=True)
class TraceSet:
    """A trace set on disk. Attempts stay there: they may be more than memory holds.

    Attributes:
        path: its directory.
        manifest: `trace.json`.
        questions: one row per question.
        stored: one row per attempt, to be read in parts; see `scan` and `attempts`.
    """

    path: Path
    manifest: Mapping[str, Any]
    questions: pa.Table
    stored: ds.Dataset

    @classmethod
    def read(cls, path: Path | str) -> TraceSet:
        """Open and check a trace set.

        Raises:
            TraceFormatError: files, columns or questions of attempts are missing, or its version is
                unknown.
        """
        path = Path(path)
        files = "trace.json, questions.parquet and attempts.parquet"
        manifest = read_manifest(path, f"a trace set with {files}; record one with `allot record`")
        if manifest.get("version") != TRACE_VERSION:
            raise TraceFormatError(
                f"{path / MANIFEST}: expected version {TRACE_VERSION}, found "
                f"{manifest.get('version')!r}; upgrade allot or record the set again"
            )
        stored = {name: open_table(path / name, needed) for name, needed in _REQUIRED.items()}
        questions, attempts = stored["questions.parquet"].to_table(), stored["attempts.parquet"]
        traces = cls(path=path, manifest=manifest, questions=questions, stored=attempts)
        known = set(traces.questions["question_id"].to_pylist())
        strangers: set[Any] = set()
        for batch in traces.scan(["question_id"]):
            strangers |= set(batch["question_id"].unique().to_pylist()) - known
        if strangers:
            raise TraceFormatError(
                f"{path}: {len(strangers)} question ids of attempts.parquet are not in "
                f"questions.parquet, for example {min(strangers)!r}"
            )
        return traces

    @cached_property
    def attempts(self) -> pa.Table:
        """All attempts with all columns, in memory; for sets that fit into it."""
        return self.stored.to_table()

    @cached_property
    def num_attempts(self) -> int:
        """Rows of `attempts`, from the file's own notes."""
        return int(self.stored.count_rows())

    def scan(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of the attempts, as far as there are any, in order and a part at a time."""
        held = [name for name in columns if name in self.stored.schema.names]
        yield from self.stored.to_batches(
            columns=held, batch_size=ROW_GROUP, batch_readahead=1, fragment_readahead=1
        )

    @cached_property
    def model_rows(self) -> dict[str, ModelRows]:
        """What there is by each model, in order of their first attempts."""
        ids, splits = (self.questions[name].to_pylist() for name in ("question_id", "split"))
        train = {question for question, split in zip(ids, splits, strict=True) if split == "train"}
        found: dict[str, ModelRows] = {}
        names = ("question_id", "model", "tier", "completion_tokens", "answer", "correct")
        for batch in self.scan(names):
            learned = code_rows(batch["question_id"], lambda q: 1 if q in train else 0)
            right = learned * pc.fill_null(batch["correct"], False).to_numpy(False)
            columns = [batch[name] for name in ("model", "tier", "completion_tokens", "answer")]
            held = ["model", "tier", "tokens", "answer", "train", "right"]
            table = pa.table([*columns, learned, right], held)
            sums = [("answer", "count"), ("train", "sum"), ("right", "sum"), ([], "count_all")]
            parts = table.group_by(["model", "tier"], use_threads=False)
            for row in parts.aggregate([("tokens", "max"), *sums]).to_pylist():
                rows = found.setdefault(row["model"], ModelRows())
                rows.attempts += row["count_all"]
                rows.read += row["answer_count"]
                rows.tiers.add(row["tier"])
                rows.longest = max(rows.longest, row["tokens_max"] or 1)
                rows.train_attempts += row["train_sum"]
                rows.train_right += row["right_sum"]
        return found

    def default_ladder(self) -> tuple[str, ...]:
        """The models to train for, when the caller does not choose.

        Of a set that was recorded here all of them; otherwise a small and a large one. Small: most
        attempts recorded, then fewest parameters. Large: most often right on the train split, among
        models of known size if there are any.

        Raises:
            TraceFormatError: no model of the small tier.
        """
        rows = self.model_rows
        if "recorded" in self.manifest:
            return tuple(name for name in self.manifest["models"] if name in rows)
        smalls, larges = ([m for m in rows if tier in rows[m].tiers] for tier in ("small", "large"))
        if not smalls:
            raise TraceFormatError(f"{self.path}: expected attempts of tier 'small', found none")
        sizes = {model: model_spec(self.manifest, model).parameters for model in rows}
        small = min(smalls, key=lambda m: (-rows[m].attempts, sizes[m] or float("inf"), m))
        candidates = [m for m in larges if sizes[m] and sizes[small]] or larges
        if not candidates:
            return (small,)

        def accuracy(model: str) -> float:
            return rows[model].train_right / max(rows[model].train_attempts, 1)

        return small, max(sorted(candidates), key=accuracy)

    def fitted_rates(self, unit: str) -> dict[str, Rates]:
        """Dollars or seconds of the tokens of each model whose attempts say what they took.

        Least squares without a constant; of a prompt the tokens that were not cached. Where these
        explain it and written ones do not, as a fee for each call, written ones bear all of it.
        """
        sums: defaultdict[str, Floats] = defaultdict(lambda: np.zeros((4, 4)))
        taken = {"dollars": "cost_usd"}.get(unit, unit)
        if taken not in self.stored.schema.names:
            return {}
        columns = ["prompt_tokens", "completion_tokens", taken]
        for batch in self.scan(["model", *columns, "cached_tokens"]):
            told = batch.to_pandas().dropna(subset=columns)
            if "cached_tokens" in told:
                told["prompt_tokens"] -= told["cached_tokens"].fillna(0)
            for name, rows in told.groupby("model"):
                told_of = rows[columns].assign(calls=1).to_numpy(float)
                sums[name] += told_of.T @ told_of
        return {name: _fitted(products) for name, products in sums.items()}

    def models(self, ladder: Sequence[str] | None = None) -> tuple[ModelSpec, ...]:
        """The models of a ladder, the small one first; ConfigError if the set lacks one."""
        ladder = tuple(ladder) if ladder else self.default_ladder()
        held = self.model_rows
        if len(set(ladder)) < len(ladder):
            raise ConfigError(f"ladder: expected each model once, found {', '.join(ladder)}")
        for model in ladder:
            if model not in held:
                raise ConfigError(f"ladder: expected models among {sorted(held)}, found {model!r}")
        specs = (model_spec(self.manifest, model, rung) for rung, model in enumerate(ladder))
        return tuple(
            replace(spec, max_new_tokens=spec.max_new_tokens or held[spec.name].longest)
            for spec in specs
        )

    def arms(self, ladder: Sequence[str] | None = None) -> tuple[Arm, ...]:
        """The same as arms, of more than two in the tiers of their attempts; all of other names."""
        names = [model.name for model in self.models(ladder)]
        small = [name for name in names if "small" in self.model_rows[name].tiers]
        told = self.manifest.get("models", {})
        families = {name: told.get(name, {}).get("family") for name in names}
        menu = menu_of(names, small if len(names) > 2 else (), families)
        return tuple(replace(arm, verifies=arm.name == self.verifier) for arm in menu)

    @property
    def verifier(self) -> str | None:
        """The arm whose judgements the scores are; None if they are an adapter's."""
        told = self.manifest.get("models", {})
        return next((name for name, entry in told.items() if entry.get("verifies")), None)


def _fitted(products: Floats) -> Rates:
    """Rates by sums of products of prompt tokens, written tokens, what they took and 1, (4, 4)."""
    from scipy.optimize import nnls

    tokens, with_cost = products[:2, :2], products[:2, 2]
    root = np.linalg.cholesky(tokens + 1e-9 * np.trace(tokens) * np.eye(2)).T
    prompt, written = nnls(root, np.linalg.solve(root.T, with_cost))[0]
    _, all_written, taken, _ = products[3]
    if written < prompt / 100:  # No list of prices says so.
        prompt, written = 0.0, taken / max(all_written, 1.0)
    return float(prompt * 1e6), float(written * 1e6)


def model_spec(manifest: Mapping[str, Any], name: str, rung: int = 0) -> ModelSpec:
    """A model as `trace.json` describes it."""
    entry = manifest.get("models", {}).get(name, {})
    size = entry.get("active_parameters") or entry.get("parameters")
    listed = entry.get("dollars_per_million_tokens")
    return ModelSpec(
        name=name,
        rung=rung,
        parameters=float(size) if size else None,
        max_new_tokens=entry.get("max_new_tokens"),
        temperature=entry.get("temperature", manifest.get("decoding", {}).get("temperature")),
        digest=entry.get("digest"),
        adapters=tuple(
            AdapterSpec(name=adapter, parameters=int(e["parameters"]), digest=e["digest"])
            for adapter, e in entry.get("adapters", {}).items()
        ),
        prompt=tuple(entry.get("prompt") or ()),
        body=entry.get("body") or {},
        dollars=(float(listed["prompt"]), float(listed["completion"])) if listed else None,
    )


def code_rows(column: pa.Array, code: Callable[[Any], int]) -> NDArray[np.int32]:
    """A number for each row, (n,), worked out once per distinct value."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    encoded = column.dictionary_encode(null_encoding="encode")
    codes = np.array([code(value) for value in encoded.dictionary.to_pylist()], np.int32)
    return np.asarray(codes[encoded.indices.to_numpy(zero_copy_only=False)])


def read_manifest(path: Path, expected: str) -> dict[str, Any]:
    """What a trace set says about itself; raises TraceFormatError if there is no JSON to read.

    `expected` says what should lie in its directory and how to make it.
    """
    file = path / MANIFEST
    if not file.exists():
        raise TraceFormatError(f"{path}: expected {expected}")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise TraceFormatError(f"{file}: expected JSON: {error}") from None
    return manifest


def open_table(path: Path, required: Sequence[str]) -> ds.Dataset:
    """A table; raises TraceFormatError unless it is there with its `required` columns."""
    if not path.exists():
        raise TraceFormatError(f"{path}: expected this file of the trace set, found none")
    try:
        table = ds.dataset(path, format="parquet", filesystem=LocalFileSystem(use_mmap=True))
    except pa.ArrowInvalid as error:
        raise TraceFormatError(f"{path}: expected a parquet file: {error}") from None
    missing = [name for name in required if name not in table.schema.names]
    if missing:
        raise TraceFormatError(f"{path}: expected columns {list(required)}, missing {missing}")
    return table


_STAGED = 8192
"""Rows that wait to be written."""


class TableWriter:
    """A parquet file that is written a part at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema, self._rows = schema, list[Mapping[str, Any]]()
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row; columns that it lacks are null there."""
        self._rows.append(row)
        if len(self._rows) == _STAGED:
            self._flush()

    def close(self) -> None:
        """Write what waits to be written."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows.clear()
