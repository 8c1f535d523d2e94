"""Trace sets from generations that others recorded; `envs.traces.readers` tells from which."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from controller.answers import EXAMPLES, unread_warning
from controller.errors import ConfigError, TraceFormatError
from envs.questions.files import split_of, wording_digest
from envs.records import Record, read_records
from envs.traces import summary
from envs.traces.checks import COLUMNS, checked
from envs.traces.format import (
    ATTEMPT_SCHEMA,
    MANIFEST,
    QUESTION_SCHEMA,
    ROW_GROUP,
    TRACE_VERSION,
    tables_digest,
    write_json,
)
from envs.traces.logs import REFERENCES, ImportOptions, Log, Row, is_one_of
from envs.traces.readers import TABLE, attempts_of, source_of
from envs.traces.summary import Group

_TOKEN_CHARACTERS = 4
"""Characters per token, where a log has texts without token counts."""

_RAW_SCHEMA = pa.schema(
    [
        *ATTEMPT_SCHEMA,
        *(("log", pa.int32()), ("dataset", pa.string()), ("spelled", pa.string())),
        *(("said", pa.int64()), ("guessed_tokens", pa.bool_())),
    ]
)
_CHECKED = {
    **{"question_id": "question", "spelled": "answer", "said": "text"},
    **{"completion_tokens": "tokens", "guessed_tokens": "guessed_tokens"},
    **{name: name for name in ("log", "model", "dataset", "attempt_id", "parent_id", "correct")},
}
"""Columns that stay in memory, and their names there."""

_DEFAULT = ImportOptions()


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Shares by model and data set, and sentences about what is missing or guessed."""

    groups: Sequence[Group]
    missing: Sequence[str]
    notes: Sequence[str]


def import_attempts(
    files: Sequence[Path],
    out: Path,
    *,
    small: str | None = None,
    parameters: Mapping[str, float] | None = None,
    options: ImportOptions = _DEFAULT,
) -> Imported:
    """Write a trace set from recorded generations, a part at a time.

    Warns of what is doubtful: answers that cannot be read, models that are always or never right,
    texts that repeat, shares that differ from those that a harness tells.

    Args:
        files: logs and tables.
        out: directory of the trace set.
        small: the model that samples; the one with most attempts when None. All others
            can be escalated to.
        parameters: by model name, for the ledger.
        options: how logs are to be read.

    Raises:
        TraceFormatError: a file cannot be read, a row holds what it may not, rows contradict one
            another, no answer can be read, or `out` holds a trace set.
    """
    if (out / MANIFEST).exists():
        raise TraceFormatError(f"{out}: expected no trace set there yet; choose another directory")
    _check_options(options)
    _refuse_copies(files)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as staging:
        rows = _Intake(Path(staging), options)
        for file in files:
            rows.read(file)
        rows.close()
        _refuse_unused(options, rows.logs)
        rows.sizes |= _checked_sizes(parameters or {}, rows.models)
        rows.check()
        chosen = rows.small(small)
        rows.write_attempts(chosen)
        tiers = {model: "small" if model == chosen else "large" for model in rows.models}
        manifest = {
            "version": TRACE_VERSION,
            "digest": tables_digest(Path(staging)),
            "models": {
                model: {"tier": tier, "parameters": rows.sizes.get(model)}
                for model, tier in tiers.items()
            },
            "answers": rows.kinds(),
            "source": [file.name for file in files],
            "questions": len(rows.questions),
        }
        out.mkdir(exist_ok=True)
        for name in ("questions.parquet", "attempts.parquet"):
            (Path(staging) / name).replace(out / name)
        write_json(out / MANIFEST, manifest)
    found = list(summary.groups(rows.attempts))
    doubts = *summary.doubts(found), *summary.differences(rows.logs)
    for message in (*rows.unread(), *rows.leaks(), *doubts):
        warnings.warn(message, stacklevel=2)
    missing = summary.missing(found, rows.held, chosen, rows.sizes)
    return Imported(groups=found, missing=[*missing], notes=[*summary.notes(rows.logs)])


def _check_options(options: ImportOptions) -> None:
    for option, names in (("map", options.columns.values()), ("set", options.constants)):
        for name in names:
            if name not in COLUMNS:
                raise ConfigError(f"{option}: expected one of {sorted(COLUMNS)}, found {name!r}")


def _checked_sizes(sizes: Mapping[str, float], models: Sequence[str]) -> Mapping[str, float]:
    column = COLUMNS["parameters"]
    for model, size in sizes.items():
        if model not in models:
            raise ConfigError(f"parameters: expected models among {sorted(models)}, found {model}")
        try:
            column.read(size)
        except ValueError:
            raise ConfigError(
                f"parameters: expected {column.expected} for {model}, found {size}"
            ) from None
    return sizes


def _refuse_unused(options: ImportOptions, logs: Sequence[Log]) -> None:
    used = set().union(*(log.used for log in logs))
    references = [REFERENCES] if options.references else []
    asked = {"filter": options.filters, "metric": options.metrics, "map": options.columns}
    for option, names in (asked | {"references": references}).items():
        if unused := [name for name in names if name not in used]:
            raise ConfigError(f"{option}: expected what some log has, found {unused}")


def _refuse_copies(files: Sequence[Path]) -> None:
    known: dict[str, Path] = {}
    for file in files:
        if not file.is_file():
            raise TraceFormatError(f"{file}: expected a file, found none")
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "blake2b").hexdigest()
        if (first := known.setdefault(digest, file)) is not file:
            raise TraceFormatError(
                f"{file}: expected a log of its own, found the content of {first}; name it once"
            )


class _Known(NamedTuple):
    """What is recognized of a question: its place, split, and digests of reference and wording."""

    place: int
    split: str
    reference: int
    wording: bytes


class _Intake:
    """Attempts on their way to a trace set; what is checked in the end stays in memory."""

    def __init__(self, staging: Path, options: ImportOptions) -> None:
        self.options, self.logs = options, list[Log]()
        self.questions: dict[str, _Known] = {}
        self.sizes: dict[str, float] = {}
        self._raw, self._final = staging / "raw.parquet", staging / "attempts.parquet"
        self._attempts = _Table(self._raw, _RAW_SCHEMA)
        self._questions = _Table(staging / "questions.parquet", QUESTION_SCHEMA)
        self.held, self._tried = Counter[str](), Counter[tuple[int, str]]()
        self._kinds: dict[str, str] = {}
        self._lowest: str | None = None
        self._unread: dict[str, list[str]] = {}

    def close(self) -> None:
        """Write what waits to be written."""
        self._attempts.close()
        self._questions.close()

    def read(self, path: Path) -> None:
        """Read a log; raises TraceFormatError, see `import_attempts`."""
        log, source = Log(path=path, options=self.options), None
        self.logs.append(log)
        for record in read_records(path):
            source = source or source_of(record)
            for entry, row in attempts_of(source, record, log):
                kept, unknown = checked(entry, row, self.options.constants)
                log.unread |= dict.fromkeys(unknown)
                self._add(entry, kept, log)
        if source is not TABLE:
            log.unread.clear()

    def _add(self, record: Record, row: Row, log: Log) -> None:
        references = row.get("reference", [])
        kind, text, answer = log.answer_kind, row.get("text"), row.get("answer")
        spelled = how = None
        if answer is not None:
            spelled = kind.canonical(answer)
        elif text is not None and (reading := kind.read(text)):
            answer = spelled = reading.answer
            how = reading.how
        right = row.get("correct")
        if right is None:
            right = spelled is not None and is_one_of(kind, spelled, tuple(references))
            log.notes["graded here"] += 1
        model, dataset = row["model"], row.get("dataset", "")
        self._note_model(record, row, kind.name, dataset)
        name = self._name(row, dataset)
        question = self._question(record, row, name, references)
        number = self._tried[question, model]
        self._tried[question, model] += 1
        tokens = row.get("completion_tokens", _estimate(text or ""))
        if right and spelled is None:
            log.doubts["attempts that are right by the log, though no answer can be read"] += 1
        if spelled is None and text and len(self._unread.setdefault(model, [])) < EXAMPLES:
            self._unread[model].append(text)
        log.attempts += 1
        log.right += right
        for column in row:
            self.held[column] += 1
        self._attempts.add(
            row
            | {
                "question_id": name,
                "attempt_id": row.get("attempt_id", f"{model}:{number}"),
                "index": number,
                "answer": None if spelled is None else answer,
                "how": how,
                "correct": right,
                "prompt_tokens": row.get("prompt_tokens", _estimate(row["question"])),
                "completion_tokens": tokens,
                "log": len(self.logs) - 1,
                "dataset": dataset,
                "spelled": spelled,
                "said": None if text is None else _digest(text),
                "guessed_tokens": "completion_tokens" not in row,
            }
        )

    def _note_model(self, record: Record, row: Row, kind: str, dataset: str) -> None:
        if self._kinds.setdefault(dataset, kind) != kind:
            raise record.error("dataset", f"answers of kind {self._kinds[dataset]}", kind)
        size = row.get("parameters")
        if size and self.sizes.setdefault(row["model"], size) != size:
            raise record.error("parameters", f"{self.sizes[row['model']]} as before", size)
        if row.get("rung") == 0 and self._lowest is None:
            self._lowest = row["model"]

    @staticmethod
    def _name(row: Row, dataset: str) -> str:
        """A question's id among those of all data sets."""
        own = row.get("question_id") or wording_digest(row["question"]).hex()
        return own if not dataset or own.startswith(f"{dataset}/") else f"{dataset}/{own}"

    def _question(self, record: Record, row: Row, name: str, references: Sequence[str]) -> int:
        """The place of a question, which is noted when it is new and else has to be the same."""
        reference = _digest("\0".join(references)) if references else 0
        wording, split = wording_digest(row["question"]), row.get("split")
        if known := self.questions.get(name):
            if reference and known.reference not in (0, reference):
                expected = f"the reference that question {name} had before"
                raise record.error("reference", expected, references)
            if split not in (None, known.split):
                expected = f"{known.split!r}, as question {name} was in before"
                raise record.error("split", expected, split)
            if wording != known.wording:
                self.logs[-1].doubts["attempts at questions that were worded otherwise before"] += 1
            return known.place
        split, place = split or split_of(row["question"]), len(self.questions)
        self.questions[name] = _Known(place, split, reference, wording)
        # Of several right answers none can stand for the others.
        only = references[0] if len(references) == 1 else None
        self._questions.add(row | {"question_id": name, "split": split, "reference": only})
        return place

    @cached_property
    def attempts(self) -> pd.DataFrame:
        """What is checked of the attempts once all are there."""
        table = pq.read_table(self._raw, columns=list(_CHECKED)).rename_columns(_CHECKED)
        return table.to_pandas()

    @property
    def models(self) -> list[str]:
        """Names in order of appearance."""
        return list(self.attempts["model"].unique())

    def check(self) -> None:
        """Check what only all attempts together tell: answers, unique ids, known parents."""
        kept = self.attempts
        if kept.empty:
            notes = {note: n for log in self.logs for note, n in log.notes.items()}
            raise TraceFormatError(
                f"{[str(log.path) for log in self.logs]}: expected attempts, found none "
                f"({notes or 'no records'}); logs of services and batches need --references"
            )
        if kept["answer"].isna().all():
            examples = [text[-60:] for texts in self._unread.values() for text in texts]
            raise TraceFormatError(
                f"expected answers, but none could be read from {len(kept)} attempts, "
                f"such as {examples[:EXAMPLES]}; say what answers are by --answers"
            )
        repeated = kept[kept.duplicated(["question", "attempt_id"])]
        if len(repeated):
            self._refuse(repeated, "attempt_id", "an id that no other attempt has")
        revises = kept["parent_id"].notna()
        above, left = kept[~revises], kept[revises]
        while len(left):
            ids = pd.MultiIndex.from_frame(above[["question", "attempt_id"]])
            follows = pd.MultiIndex.from_frame(left[["question", "parent_id"]]).isin(ids)
            if not follows.any():
                expected = "the attempt_id of an earlier attempt at the same question"
                self._refuse(left, "parent_id", expected)
            above, left = left[follows], left[~follows]

    def _refuse(self, rows: pd.DataFrame, column: str, expected: str) -> None:
        row = rows.iloc[0]
        raise TraceFormatError(
            f"{self.logs[row['log']].path}, question {row['question']}, column {column}: expected "
            f"{expected}, found {row[column]!r}"
        )

    def small(self, wanted: str | None) -> str:
        """The model that samples; TraceFormatError if it is not there, or none stands out."""
        if wanted or self._lowest:
            if (wanted or self._lowest) not in self.models:
                expected = f"one of {sorted(self.models)}"
                raise TraceFormatError(f"small: expected {expected}, found {wanted!r}")
            return str(wanted or self._lowest)
        counts = self.attempts["model"].value_counts()
        most = [str(model) for model, n in counts.items() if n == counts.max()]
        least = min(self.sizes.get(model, np.inf) for model in most)
        smallest = [model for model in most if len(most) == 1 or self.sizes.get(model) == least]
        if len(smallest) != 1:
            raise TraceFormatError(
                f"small: expected the model that samples, one of {sorted(most)}, which have "
                "equally many attempts; say which by --small, or how large they are by --parameters"
            )
        return smallest[0]

    def write_attempts(self, small: str) -> None:
        """Write the attempts' table, now that the tiers are known."""
        with pq.ParquetWriter(self._final, ATTEMPT_SCHEMA, compression="zstd") as writer:
            for batch in pq.ParquetFile(self._raw).iter_batches(ROW_GROUP):
                table = pa.table(batch).select(ATTEMPT_SCHEMA.names)
                is_small = pc.equal(table["model"], small)
                tier = pc.if_else(is_small, "small", "large")
                action = pc.coalesce(table["action"], pc.if_else(is_small, "sample", "escalate"))
                for name, column in (("tier", tier), ("action", action)):
                    table = table.set_column(table.schema.get_field_index(name), name, column)
                writer.write_table(table)

    def kinds(self) -> str | dict[str, str]:
        """Kind of the answers, or one for each data set."""
        names = set(self._kinds.values())
        return dict(self._kinds) if len(names) > 1 else names.pop()

    def unread(self) -> Iterator[str]:
        """A message for each model of whose attempts less than 80% could be read."""
        for model, answers in self.attempts.groupby("model", sort=False)["answer"]:
            texts = self._unread.get(model, ())
            if message := unread_warning(model, len(answers), int(answers.count()), texts):
                yield message

    def leaks(self) -> Iterator[str]:
        """A message if questions of different splits are worded alike."""
        pairs = {(known.wording, known.split) for known in self.questions.values()}
        if count := len(pairs) - len({wording for wording, _ in pairs}):
            yield f"{count} wordings are in more than one split; give them one, or none at all"


class _Table:
    """A parquet file that is written a part at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema, self._rows = schema, list[Row]()
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) == ROW_GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows.clear()


def _digest(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _estimate(text: str) -> int:
    return max(1, len(text) // _TOKEN_CHARACTERS)
