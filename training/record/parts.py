"""Parts of a recording on disk: rows that are there whole or not at all, and who may add more."""

from __future__ import annotations

import fcntl
import json
import math
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
from controller.files import write_atomically
from controller.process.actions import ActionKind
from controller.process.types import Attempt
from envs.traces.format import ATTEMPT_SCHEMA, MANIFEST, QUESTION_SCHEMA, ROW_GROUP, write_table

Rows = Sequence[Mapping[str, Any]]

PART_S = 60.0
"""Rows wait no longer than this to be written: what a kill can cost, on servers."""

_SCORES = ("verifier_score", "verifier_tokens")

SCHEMAS = {"questions": QUESTION_SCHEMA, "attempts": ATTEMPT_SCHEMA}
"""Of the tables of a trace set; what was recorded comes last."""

_PARTS = {
    "scores": pa.schema([ATTEMPT_SCHEMA.field(n) for n in ("question_id", "attempt_id", *_SCORES)]),
    **SCHEMAS,
}
"""Of the parts: scores of attempts that were recorded before go into the attempts' table."""

_SHOWN = {
    *("attempt_id", "question_id", "model", "action", "index", "parent_id"),
    *("text", "answer", "prompt_tokens", "completion_tokens", "error", *_SCORES),
}


def _attempt(row: Mapping[str, Any]) -> Attempt:
    """An attempt by some model; its rung is for others to tell."""
    return Attempt(rung=0, **{**row, "action": ActionKind(row["action"])})


class Parts:
    """The rows that a directory holds: those of a trace set, and parts that came after it."""

    def __init__(self, out: Path) -> None:
        self.out, self.work = out, out / "recording"
        self._rows: dict[str, list[Mapping[str, Any]]] = {name: [] for name in _PARTS}
        self._flushed = time.monotonic()

    def add(self, rows: Mapping[str, Rows], most: float = math.inf) -> None:
        """Take rows by table; a part is written once `most` wait, or have waited for a minute."""
        for table, more in rows.items():
            self._rows[table].extend(more)
        late = time.monotonic() - self._flushed >= PART_S
        if late or len(self._rows["attempts"]) + len(self._rows["scores"]) >= most:
            self.flush()

    def flush(self) -> None:
        """Write a part, unless there is nothing to write; what was recorded comes last."""
        for table, rows in self._rows.items():
            if rows:
                part = pa.Table.from_pylist(rows, schema=_PARTS[table])
                write_table(self._next_path(table), part)
                rows.clear()
        self._flushed = time.monotonic()

    def paths(self, table: str) -> list[Path]:
        """Files with rows of a table, those of a finished trace set first."""
        finished = table in SCHEMAS and (self.out / MANIFEST).exists()
        parts = sorted(self.work.glob(f"{table}-*.parquet"))
        return [self.out / f"{table}.parquet", *parts] if finished else parts

    def _next_path(self, table: str) -> Path:
        """One after the last: parts in between may have gone into a finished set."""
        numbers = [
            int(path.stem.rpartition("-")[2]) for path in self.work.glob(f"{table}-*.parquet")
        ]
        return self.work / f"{table}-{max(numbers, default=-1) + 1:05d}.parquet"

    def _dataset(self, table: str, known: Sequence[Path] = ()) -> ds.Dataset:
        """Rows of a table in files that are not `known`; columns that a part lacks are null."""
        files = [str(path) for path in self.paths(table) if path not in known]
        return ds.dataset(files, schema=_PARTS[table])

    def _read(self, table: str, *columns: str) -> list[list[Any]]:
        """Some columns of a table, in memory."""
        if not self.paths(table):
            return [[] for _ in columns]
        found = self._dataset(table).to_table(columns=list(columns))
        return [found[name].to_pylist() for name in columns]

    def held(self) -> dict[str, set[tuple[str, int]]]:
        """What has been recorded of each question: attempts by model and index."""
        held: dict[str, set[tuple[str, int]]] = {}
        rows = self._read("attempts", "question_id", "model", "index", "parent_id")
        for question, model, index, parent in zip(*rows, strict=True):
            if parent is None:
                held.setdefault(question, set()).add((model, index))
        return held

    def parents(
        self, first: int, known: Sequence[Path] = ()
    ) -> dict[str, list[tuple[Attempt, set[str]]]]:
        """By question, the first attempts of each model that have a text, and who revised each.

        Attempts in files that are `known` are left out, and so are all of their revisions.
        """
        rows = self._texts(known)
        by: dict[tuple[str, str], set[str]] = {}
        for row in rows:
            if row["parent_id"] is not None:
                by.setdefault((row["question_id"], row["parent_id"]), set()).add(row["model"])
        found: dict[str, list[tuple[Attempt, set[str]]]] = {}
        for row in rows:
            if row["parent_id"] is None and row["index"] < first and row["text"]:
                attempt = _attempt(row)
                revisers = by.get((attempt.question_id, attempt.attempt_id), set())
                found.setdefault(attempt.question_id, []).append((attempt, revisers))
        return found

    def unscored(self, known: Sequence[Path] = ()) -> dict[str, list[Attempt]]:
        """By question, attempts with a text and no score, in files that are not `known`."""
        judged = {*zip(*self._read("scores", "question_id", "attempt_id"), strict=True)}
        found: dict[str, list[Attempt]] = {}
        for row in self._texts(known):
            # A judgement that failed has no score, but was paid for.
            scored = row["verifier_score"] is not None or row["verifier_tokens"] is not None
            scored |= (row["question_id"], row["attempt_id"]) in judged
            if row["text"] and row["error"] is None and not scored:
                found.setdefault(row["question_id"], []).append(_attempt(row))
        return found

    def _texts(self, known: Sequence[Path]) -> list[dict[str, Any]]:
        """Attempts in files that are not `known`, as those who revise or judge them are told."""
        if set(self.paths("attempts")) <= set(known):
            return []
        rows = self._dataset("attempts", known).to_table(columns=sorted(_SHOWN))
        return list(rows.to_pylist())

    def described(self) -> set[str]:
        """Questions whose own row has been recorded."""
        return set(self._read("questions", "question_id")[0])

    def put_together(self, questions: Sequence[str], models: Sequence[str]) -> set[Path]:
        """Write the tables of some questions, in order; returns parts with all other rows."""
        places = {question: place for place, question in enumerate(questions)}
        left = set()
        for table in SCHEMAS:
            order, others = self._ordered(table, places, models)
            if others:
                path = self._next_path(table)
                left.add(path)
                self._write(path, table, others)
            self._write(self.out / f"{table}.parquet", table, order)
        return left

    def _ordered(
        self, table: str, places: Mapping[str, int], models: Sequence[str]
    ) -> tuple[list[int], list[int]]:
        """Rows of the questions that have `places`, and all others.

        The first are ordered by these places, then models, then index, revisions last. A kill
        while a set was written may have left a row twice.
        """
        (questions,) = self._read(table, "question_id")
        kept = [row for row, question in enumerate(questions) if question in places]
        others = [row for row, question in enumerate(questions) if question not in places]
        if table == "questions":
            kept = list({questions[row]: row for row in kept}.values())
            return sorted(kept, key=lambda row: places[questions[row]]), others
        ids, names, index = self._read(table, "attempt_id", "model", "index")

        def key(row: int) -> tuple[Any, ...]:
            root, *revisions = ids[row].split(">")
            number = int(root.rpartition(":")[2]) if revisions else index[row]
            by = models.index(names[row]) if names[row] in models else -1
            return places[questions[row]], len(revisions), by, number, ids[row]

        return sorted({(questions[row], ids[row]): row for row in kept}.values(), key=key), others

    def _write(self, path: Path, table: str, places: Sequence[int]) -> None:
        """Write rows of a table by their places in it; one row group at a time in memory."""
        rows, order = self._dataset(table), np.asarray(places, np.int64)
        names = ("question_id", "attempt_id", *_SCORES) if table == "attempts" else ()
        *ids, scores, tokens = self._read("scores", *names) if names else ([], [], [], [])
        known = dict(zip(zip(*ids, strict=True), zip(scores, tokens, strict=True), strict=True))

        def write(temporary: Path) -> None:
            with pq.ParquetWriter(temporary, SCHEMAS[table], compression="zstd") as writer:
                for begin in range(0, max(len(order), 1), ROW_GROUP):
                    taken = rows.take(pa.array(order[begin : begin + ROW_GROUP]))
                    writer.write_table(_with_scores(taken, known) if known else taken)

        write_atomically(path, write)

    def clear(self, left: set[Path]) -> None:
        """Let go of all parts but some; if none is left, no trace of the recording is."""
        if not left:
            shutil.rmtree(self.work)
            return
        for path in self.work.glob("*-*.parquet"):
            if path not in left:
                path.unlink()


def _with_scores(attempts: pa.Table, known: Mapping[tuple[str, str], tuple[Any, Any]]) -> pa.Table:
    """The same with the scores, and tokens for them, that are known by question and attempt."""
    keys = zip(*(attempts[n].to_pylist() for n in ("question_id", "attempt_id")), strict=True)
    held = zip(*(attempts[name].to_pylist() for name in _SCORES), strict=True)
    merged = [known.get(key, before) for key, before in zip(keys, held, strict=True)]
    for name, column in zip(_SCORES, zip(*merged, strict=True), strict=True):
        place = attempts.schema.get_field_index(name)
        field = attempts.schema.field(place)
        attempts = attempts.set_column(place, field, pa.array(column, field.type))
    return attempts


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep others from recording into a directory, or raise ConfigError; a death lets go of it."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "recording.lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = False
        except BlockingIOError:
            taken = True
        owner = json.loads(path.read_text() or "{}")
        # Not every shared file system tells one machine of another one's locks.
        if taken or owner.get("host") not in (None, socket.gethostname()):
            raise ConfigError(
                f"{out}: expected nobody to be recording there, found process "
                f"{owner.get('pid')} on {owner.get('host')}; wait for it or stop it, and if there "
                f"is no such process any more, delete {path}"
            )
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        file.flush()
        try:
            yield
        finally:
            path.unlink()
