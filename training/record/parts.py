"""Parts of a recording on disk: rows that are there whole or not at all, and who may add more."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
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
        for table, rows in self._rows.items():
            if rows:
                part = pa.Table.from_pylist(rows, schema=self.schemas[table])
                write_table(self.next_path(table), part)
                rows.clear()
        self._flushed = time.monotonic()

    def paths(self, table: str) -> list[Path]:
        """Files with rows of a table, those of a finished trace set first."""
        finished = (self.out / MANIFEST).exists()
        parts = sorted(self.work.glob(f"{table}-*.parquet"))
        return [self.out / f"{table}.parquet", *parts] if finished else parts

    def rows(self, table: str) -> ds.Dataset:
        """Rows of a table, on disk; columns that an older part lacks are null there."""
        return ds.dataset(list(map(str, self.paths(table))), schema=self.schemas[table])

    def read(self, table: str, columns: Sequence[str]) -> dict[str, list[Any]]:
        """Some columns of a table, in memory."""
        if not self.paths(table):
            return {name: [] for name in columns}
        return dict(self.rows(table).to_table(columns=list(columns)).to_pydict())

    def held(self) -> dict[str, set[tuple[str, int]]]:
        """What has been recorded of each question: attempts by model and index, or all at once."""
        held: dict[str, set[tuple[str, int]]] = {}
        if "model" not in self.schemas[self.recorded].names:
            found = self.read(self.recorded, ("question_id",))["question_id"]
            return {question: {WHOLE} for question in found}
        rows = self.read(self.recorded, ("question_id", "model", "index", "parent_id"))
        for question, model, index, parent in zip(*rows.values(), strict=True):
            if parent is None:
                held.setdefault(question, set()).add((model, index))
        return held

    def held_questions(self) -> set[str]:
        """Questions whose own row has been recorded."""
        return set(self.read("questions", ("question_id",))["question_id"])

    def write(self, path: Path, table: str, places: Sequence[int]) -> None:
        """Write rows of a table, by their places in `rows`; one row group at a time in memory."""
        rows, order = self.rows(table), np.asarray(places, np.int64)

        def write(temporary: Path) -> None:
            with pq.ParquetWriter(temporary, self.schemas[table], compression="zstd") as writer:
                for begin in range(0, max(len(order), 1), ROW_GROUP):
                    writer.write_table(rows.take(pa.array(order[begin : begin + ROW_GROUP])))

        write_atomically(path, write)

    def next_path(self, table: str) -> Path:
        """File of the next part."""
        return self.work / f"{table}-{len(list(self.work.glob(f'{table}-*.parquet'))):05d}.parquet"

    def clear(self, left: Collection[Path]) -> None:
        """Let go of all parts but some; if none is left, no trace of the recording is."""
        if not left:
            shutil.rmtree(self.work)
            return
        for table in self.schemas:
            for path in self.work.glob(f"{table}-*.parquet"):
                if path not in left:
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
