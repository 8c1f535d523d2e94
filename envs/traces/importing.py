"""Trace sets from generations that others recorded; `envs.traces.readers` tells from which."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from controller.answers import EXAMPLES, unread_warning
from controller.errors import ConfigError, TraceFormatError
from envs.questions.files import SPLITS, split_of, wording_digest
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
    found = list(summary.groups(rows.attempts(), list(rows.models), list(rows.datasets)))
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


def _checked_sizes(sizes: Mapping[str, float], models: Mapping[str, int]) -> Mapping[str, float]:
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


class _Intake:
    """Attempts on their way to a trace set; what is checked in the end stays in memory."""

    def __init__(self, staging: Path, options: ImportOptions) -> None:
        self.options = options
        self.models: dict[str, int] = {}
        self.datasets: dict[str, int] = {}
        self.questions: dict[str, int] = {}
        self.sizes: dict[str, float] = {}
        self._raw, self._final = staging / "raw.parquet", staging / "attempts.parquet"
        self._attempts = _Table(self._raw, ATTEMPT_SCHEMA)
        self._questions = _Table(staging / "questions.parquet", QUESTION_SCHEMA)
        self.held, self._tried = Counter[str](), Counter[tuple[int, int]]()
        self._kinds: dict[str, str] = {}
        self._lowest: str | None = None
        self._unread: dict[str, list[str]] = {}
        # By question: where a reference and a wording are recognized by, and the split.
        self._references, self._wordings = array("q"), array("q")
        self._splits = array("b")
        # By attempt; digests are 0 for nothing.
        self._columns = {
            **{name: array("i") for name in ("question", "model", "dataset", "tokens", "log")},
            **{name: array("b") for name in ("correct", "guessed_tokens")},
            **{name: array("q") for name in ("answer", "text", "own", "parent")},
        }
        self.logs: list[Log] = []

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
        place = self.models.setdefault(model, len(self.models))
        self._note_model(record, row, kind.name, dataset)
        name = self._name(row, dataset)
        question = self._question(record, row, name, references)
        number = self._tried[question, place]
        self._tried[question, place] += 1
        own = row.get("attempt_id", f"{model}:{number}")
        tokens = row.get("completion_tokens", _estimate(text or ""))
        if right and spelled is None:
            log.doubts["attempts that are right by the log, though no answer can be read"] += 1
        if spelled is None and text and len(self._unread.setdefault(model, [])) < EXAMPLES:
            self._unread[model].append(text)
        log.attempts += 1
        log.right += right
        for column in row:
            self.held[column] += 1
        for column, value in {
            "question": question,
            "model": place,
            "dataset": self.datasets[dataset],
            "tokens": tokens,
            "log": len(self.logs) - 1,
            "correct": right,
            "guessed_tokens": "completion_tokens" not in row,
            "answer": _digest(spelled),
            "text": _digest(text),
            "own": _digest(f"{question}/{own}"),
            "parent": _digest(f"{question}/{row['parent_id']}" if "parent_id" in row else None),
        }.items():
            self._columns[column].append(value)
        self._attempts.add(
            row
            | {
                "question_id": name,
                "attempt_id": own,
                "index": number,
                "answer": None if spelled is None else answer,
                "how": how,
                "correct": right,
                "prompt_tokens": row.get("prompt_tokens", _estimate(row["question"])),
                "completion_tokens": tokens,
            }
        )

    def _note_model(self, record: Record, row: Row, kind: str, dataset: str) -> None:
        self.datasets.setdefault(dataset, len(self.datasets))
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
        reference = _digest("\0".join(references) or None)
        wording = _digest(wording_digest(row["question"]).hex())
        place = self.questions.setdefault(name, len(self.questions))
        split = row.get("split")
        if place < len(self._splits):
            if reference and self._references[place] not in (0, reference):
                expected = f"the reference that question {name} had before"
                raise record.error("reference", expected, references)
            if split and SPLITS[self._splits[place]] != split:
                expected = f"{SPLITS[self._splits[place]]!r}, as question {name} was in before"
                raise record.error("split", expected, split)
            if wording != self._wordings[place]:
                self.logs[-1].doubts["attempts at questions that were worded otherwise before"] += 1
            return place
        split = split or split_of(row["question"])
        self._references.append(reference)
        self._wordings.append(wording)
        self._splits.append(SPLITS.index(split))
        self._questions.add(
            row
            | {
                "question_id": name,
                "split": split,
                # Of several right answers none can stand for the others.
                "reference": references[0] if len(references) == 1 else None,
            }
        )
        return place

    def columns(self) -> dict[str, NDArray[Any]]:
        """What is kept of the M attempts, (M,) each."""
        return {
            name: np.frombuffer(values, values.typecode) for name, values in self._columns.items()
        }

    def attempts(self) -> pd.DataFrame:
        """What is kept of the attempts; NaN where there is no answer or text."""
        kept = pd.DataFrame(self.columns())
        given = kept[["answer", "text"]]
        return kept.assign(**given.astype("Int64").mask(given == 0))

    def check(self) -> None:
        """Check what only all attempts together tell: answers, unique ids, known parents."""
        kept = self.columns()
        own, parent = kept["own"], kept["parent"]
        if not len(own):
            notes = {note: n for log in self.logs for note, n in log.notes.items()}
            raise TraceFormatError(
                f"{[str(log.path) for log in self.logs]}: expected attempts, found none "
                f"({notes or 'no records'}); logs of services and batches need --references"
            )
        if not kept["answer"].any():
            examples = [text[-60:] for texts in self._unread.values() for text in texts]
            raise TraceFormatError(
                f"expected answers, but none could be read from {len(own)} attempts, "
                f"such as {examples[:EXAMPLES]}; say what answers are by --answers"
            )
        repeated = np.flatnonzero(pd.Series(own).duplicated())
        if len(repeated):
            self._refuse(int(repeated[0]), "attempt_id", "an id that no other attempt has")
        reached, left = own[parent == 0], np.flatnonzero(parent)
        while len(left):
            follows = np.isin(parent[left], reached)
            if not follows.any():
                expected = "the attempt_id of an earlier attempt at the same question"
                self._refuse(int(left[0]), "parent_id", expected)
            reached, left = np.concatenate([reached, own[left[follows]]]), left[~follows]

    def _refuse(self, place: int, column: str, expected: str) -> None:
        path = self.logs[self._columns["log"][place]].path
        for batch in pq.ParquetFile(self._raw).iter_batches(columns=["question_id", column]):
            if place < len(batch):
                row = batch.slice(place, 1).to_pylist()[0]
                raise TraceFormatError(
                    f"{path}, question {row['question_id']}, column {column}: expected {expected}, "
                    f"found {row[column]!r}"
                )
            place -= len(batch)

    def small(self, wanted: str | None) -> str:
        """The model that samples; TraceFormatError if it is not there, or none stands out."""
        counts = Counter(dict(enumerate(np.bincount(self.columns()["model"]).tolist())))
        names = {place: model for model, place in self.models.items()}
        if wanted or self._lowest:
            if (wanted or self._lowest) not in self.models:
                raise TraceFormatError(
                    f"small: expected one of {sorted(self.models)}, found {wanted!r}"
                )
            return str(wanted or self._lowest)
        most = [names[place] for place, n in counts.items() if n == max(counts.values())]
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
                table = pa.table(batch)
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
        kept = self.columns()
        for model, place in self.models.items():
            of_model = kept["model"] == place
            read = int(np.count_nonzero(kept["answer"][of_model]))
            texts = self._unread.get(model, ())
            if message := unread_warning(model, int(of_model.sum()), read, texts):
                yield message

    def leaks(self) -> Iterator[str]:
        """A message if questions of different splits are worded alike."""
        pairs = np.column_stack([np.frombuffer(self._wordings, "q"), self._splits])
        wordings = np.unique(pairs, axis=0)[:, 0]
        if count := len(wordings) - len(np.unique(wordings)):
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


def _digest(value: str | None) -> int:
    """63 bits that stand for a text, from 1; 0 for none."""
    if value is None:
        return 0
    digest = hashlib.blake2b(value.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 1) | 1


def _estimate(text: str) -> int:
    return max(1, len(text) // _TOKEN_CHARACTERS)
