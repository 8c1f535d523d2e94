"""Records of a file, one at a time, with the place that each was found at.

JSON Lines, JSON (an object or an array), CSV, TSV and tables separated by semicolons, all of these
compressed by gzip, parquet, and the `.eval` archives of inspect_ai.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import struct
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from controller.errors import TraceFormatError

Row = dict[str, Any]

EXPECTED = "JSON Lines, JSON, CSV, TSV (all in UTF-8), parquet or an inspect_ai archive (.eval)"

INDEX = "Unnamed: 0"
"""Stands for a first column without a name, where pandas writes its index, as in pandas."""

_DELIMITERS = ",;\t"
_BATCH = 4096
_SHOWN = 1000
_ZSTANDARD = 93


class _KeyTwiceError(ValueError):
    """An object of JSON has a key twice, and which counts is unknown."""


_FAULTS = (
    _KeyTwiceError,
    json.JSONDecodeError,
    UnicodeDecodeError,
    csv.Error,
    pa.ArrowException,
    zipfile.BadZipFile,
    EOFError,
    OSError,
    RecursionError,
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row of a table, line of a log, or entry of an array, by column.

    `place` is where in its file people look for it, such as "line 7".
    """

    path: Path
    place: str
    row: Row

    def error(self, column: str, expected: str, found: Any) -> TraceFormatError:
        """An error that names file, line, column, what was expected and what was found."""
        shown = repr(found)
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        return TraceFormatError(
            f"{self.path}, {self.place}, column {column}: expected {expected}, found {shown}"
        )


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file, in order; TraceFormatError if it is missing, alien or damaged."""
    if not path.is_file():
        found = "a directory; name its files" if path.is_dir() else "none"
        raise TraceFormatError(f"{path}: expected a file ({EXPECTED}), found {found}")
    place = "start"
    try:
        for place, row in _rows(path):
            if not isinstance(row, dict):
                raise TraceFormatError(
                    f"{path}, {place}: expected an object with columns, found {row!r:.60}"
                )
            yield Record(path=path, place=place, row=row)
    except _FAULTS as error:
        raise TraceFormatError(f"{path}, after {place}: expected {EXPECTED}: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = _twice(name for name, _ in pairs)
        raise _KeyTwiceError(f"each key once, found {twice!r} twice in one object")
    return row


def _twice(names: Iterable[str]) -> str | None:
    """The first name that is there again, if one is."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


_parsed = json.JSONDecoder(object_pairs_hook=_object).decode


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix in (".pkl", ".pickle"):
        how = "one that you trust becomes parquet by pandas.read_pickle(FILE).to_parquet(TABLE)"
        raise TraceFormatError(f"{path}: expected {EXPECTED}, found a pickle; {how}")
    if suffix == ".parquet":
        yield from _parquet(path)
    elif suffix in (".csv", ".tsv"):
        yield from _separated(path)
    elif suffix == ".eval":
        yield from _archive(path)
    else:
        yield from _json(path)


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    with pq.ParquetFile(path) as file:
        if twice := _twice(file.schema_arrow.names):
            raise TraceFormatError(f"{path}: expected a name once, found {twice!r} twice")
        rows = chain.from_iterable(batch.to_pylist() for batch in file.iter_batches(_BATCH))
        for number, row in enumerate(rows, start=1):
            yield f"row {number}", row


def _opened(path: Path, newline: str) -> TextIO:
    """A text, compressed or not; Windows writes UTF-16 where it redirects or exports."""
    with path.open("rb") as file:
        start = file.read(2)
    encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    if start == b"\x1f\x8b":
        return gzip.open(path, "rt", newline=newline, encoding=encoding)
    return path.open(newline=newline, encoding=encoding)


def _separated(path: Path) -> Iterator[tuple[str, Any]]:
    """Rows of a table whose cells are separated by whichever mark its first line has most of."""
    csv.field_size_limit(sys.maxsize)  # by default texts of 131,072 characters are refused
    with _opened(path, newline="") as file:
        header = file.readline()
        file.seek(0)
        delimiter = max(_DELIMITERS, key=header.count)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        names = [name.strip() for name in next(reader, [])]
        if names[:1] == [""]:
            names[0] = INDEX
        if twice := _twice(names):
            raise TraceFormatError(f"{path}, line 1: expected a name once, found {twice!r} twice")
        if not all(names):
            raise TraceFormatError(f"{path}, line 1: expected names of columns, found {names}")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(names):
                raise TraceFormatError(
                    f"{path}, line {reader.line_num}: expected {len(names)} cells separated by "
                    f"{delimiter!r}, found {len(cells)}"
                )
            row = {name: cell or None for name, cell in zip(names, cells, strict=True)}
            yield f"line {reader.line_num}", row


def _archive(path: Path) -> Iterator[tuple[str, Any]]:
    with zipfile.ZipFile(path) as archive:
        if "header.json" not in archive.namelist():
            raise TraceFormatError(f"{path}: expected header.json in it, as of a run that ended")
        header = _parsed(_member(archive, archive.getinfo("header.json")))
        for info in archive.infolist():
            if info.filename.startswith("samples/"):
                sample = _parsed(_member(archive, info))
                yield info.filename, {"eval": header["eval"]} | sample


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    """The text of a file in an archive, which `zipfile` cannot read where it is Zstandard's.

    Source: the local file header in section 4.3.7 of PKWARE's .ZIP file format specification.
    """
    if info.compress_type != _ZSTANDARD:
        return archive.read(info).decode("utf-8-sig")
    file = archive.fp
    assert file is not None
    file.seek(info.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    file.seek(name + extra, os.SEEK_CUR)
    content = pa.py_buffer(file.read(info.compress_size))
    return str(pa.input_stream(content, compression="zstd").read(), "utf-8-sig")


def _line(path: Path, number: int, line: str) -> Any:
    try:
        return _parsed(line)
    except json.JSONDecodeError as error:
        torn = "" if line.endswith("\n") else "; the file ends with this line: was it cut short?"
        found = f"{error.msg}, character {error.colno}{torn}"
        raise TraceFormatError(f"{path}, line {number}: expected {EXPECTED}: {found}") from None


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    """Lines of JSON, or else one JSON text, whose array stands for its entries.

    Lines end at a line feed alone: JSON may hold U+2028, U+0085 and their like inside strings.
    """
    with _opened(path, newline="\n") as file:
        first = next((line for line in file if line.strip()), "")
        try:
            is_lines = isinstance(json.loads(first or "0"), dict)
        except json.JSONDecodeError:
            is_lines = False
        file.seek(0)
        if is_lines or not first:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"line {number}", _line(path, number, line)
            return
        if first.lstrip()[0] not in "[{":
            raise TraceFormatError(f"{path}, line 1: expected {EXPECTED}, found {first[:60]!r}")
        content = _parsed(file.read())
    if isinstance(content, dict):
        yield "object", content
        return
    for number, entry in enumerate(content, start=1):
        yield f"entry {number}", entry
