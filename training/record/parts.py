"""Parts of a recording on disk: rows that are there whole or not at all, and who may add more."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from controller.errors import ConfigError
from envs.traces.format import MANIFEST, ROW_GROUP, write_atomically, write_table

Rows = Sequence[Mapping[str, Any]]

PART_S = 60.0
"""Rows wait no longer than this to be written: what a kill can cost, on servers."""

WHOLE = ("", 0)
"""Stands for all that is recorded of a question at once."""

_WORK = "recording"


class Parts:
    """The rows that a directory holds: those of a trace set, and parts that came after it.

    Args:
        out: directory of the trace set.
        schemas: of its tables by name; the last one's rows are the recorded ones.
    """

    def __init__(self, out: Path, schemas: Mapping[str, pa.Schema]) -> None:
        self.out, self.work, self.schemas = out, out / _WORK, schemas
        self._rows: dict[str, list[Mapping[str, Any]]] = {name: [] for name in schemas}
        self._flushed = time.monotonic()

    @property
    def recorded(self) -> str:
        """Name of the table of what was recorded."""
        return list(self.schemas)[-1]

    @property
    def pending(self) -> int:
        """Recorded rows that are not on disk yet."""
        return len(self._rows[self.recorded])

    @property
    def pending_s(self) -> float:
        """Seconds since the last part was written."""
        return time.monotonic() - self._flushed

    def add(self, rows: Mapping[str, Rows]) -> None:
        """Take rows by table, to be written with the next part."""
        for table, more in rows.items():
            self._rows[table].extend(more)

    def flush(self) -> None:
        """Write a part, unless there is nothing to write; what was recorded comes last."""
        number = len(list(self.work.glob(f"{self.recorded}-*.parquet")))
        for table, rows in self._rows.items():
            if rows:
                part = pa.Table.from_pylist(rows, schema=self.schemas[table])
                write_table(self.work / f"{table}-{number:05d}.parquet", part)
                rows.clear()
        self._flushed = time.monotonic()

    def paths(self, table: str) -> list[Path]:
        """Files with rows of a table, those of a finished trace set first."""
        finished = (self.out / MANIFEST).exists()
        parts = sorted(self.work.glob(f"{table}-*.parquet"))
        return [self.out / f"{table}.parquet", *parts] if finished else parts

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of a table, of all parts; columns that an older part lacks are null there."""
        schema = self.schemas[table]
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        found = [schema.empty_table()]
        for path in self.paths(table):
            names = set(pq.read_schema(path).names)
            part = pq.read_table(path, columns=[n for n in schema.names if n in names])
            for field in schema:
                if field.name not in names:
                    part = part.append_column(field, pa.nulls(len(part), field.type))
            found.append(part.select(schema.names).cast(schema))
        return pa.concat_tables(found)

    def held(self) -> dict[str, set[tuple[str, int]]]:
        """What has been recorded of each question: attempts by model and index, or all at once."""
        held: dict[str, set[tuple[str, int]]] = {}
        if "model" not in self.schemas[self.recorded].names:
            rows = self.read(self.recorded, ("question_id",))
            return {question: {WHOLE} for question in rows["question_id"].unique().to_pylist()}
        columns = ("question_id", "model", "index", "parent_id")
        rows = self.read(self.recorded, columns)
        found = zip(*(rows[name].to_pylist() for name in columns), strict=True)
        for question, model, index, parent in found:
            if parent is None:
                held.setdefault(question, set()).add((model, index))
        return held

    def held_questions(self) -> set[str]:
        """Questions whose own row has been recorded."""
        return set(self.read("questions", ("question_id",))["question_id"].to_pylist())

    def replace(self, table: str, rows: pa.Table, order: Sequence[int]) -> None:
        """Write the trace set's own table, a row group at a time.

        Args:
            table: its name.
            rows: that it is made of.
            order: places of those that it holds, in order.
        """
        stored, places = ds.dataset(rows), np.asarray(order, np.int64)

        def write(temporary: Path) -> None:
            with pq.ParquetWriter(temporary, rows.schema, compression="zstd") as writer:
                for begin in range(0, max(len(places), 1), ROW_GROUP):
                    writer.write_table(stored.take(pa.array(places[begin : begin + ROW_GROUP])))

        write_atomically(self.out / f"{table}.parquet", write)

    def clear(self, left: Mapping[str, pa.Table]) -> None:
        """Let go of the parts.

        Args:
            left: rows by table that go on being a part; if there are none, no trace of the
                recording is left.
        """
        if not any(len(rows) for rows in left.values()):
            shutil.rmtree(self.work)
            return
        before = [path for table in self.schemas for path in sorted(self.work.glob(f"{table}-*"))]
        for table, rows in left.items():
            write_table(self.work / f"{table}-00000.parquet", rows)
        for path in before:
            if not path.name.endswith("-00000.parquet"):
                path.unlink()


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep other processes from recording into a directory; a process that dies lets go of it.

    Raises:
        ConfigError: somebody else records there.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "recording.lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(path, path.read_text()) from None
        held = path.read_text()
        # Not every shared file system tells one machine of another one's locks.
        if held and json.loads(held)["host"] != socket.gethostname():
            raise _taken(path, held)
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        file.flush()
        try:
            yield
        finally:
            path.unlink()


def _taken(path: Path, held: str) -> ConfigError:
    owner = json.loads(held or "{}")
    return ConfigError(
        f"{path.parent}: expected nobody to be recording there, found process "
        f"{owner.get('pid')} on {owner.get('host')}; wait for it or stop it, and if there is no "
        f"such process any more, delete {path}"
    )
