"""Trace sets from generations that others recorded; `envs.traces.readers` tells from which.

Attempts are graded, numbered, and compared with one another.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from controller.answers import EXAMPLES, AnswerKind, is_one_of, reading_of
from controller.errors import ConfigError, TraceFormatError
from controller.files import write_json
from controller.process.types import CUT
from envs.questions.files import split_of, wording_digest
from envs.records import Record, Row, read_records
from envs.traces import summary
from envs.traces.format import (
    ARM,
    ATTEMPT_SCHEMA,
    MANIFEST,
    QUESTION_SCHEMA,
    ROW_GROUP,
    TRACE_VERSION,
    VARIANT,
    TableWriter,
    tables_digest,
)
from envs.traces.logs import COLUMNS, REFERENCES, ImportOptions, Log, checked
from envs.traces.readers import TABLE, attempts_of, source_of
from envs.traces.summary import Group, KnownModel


class KnownQuestion(NamedTuple):
    """What is recognized of a question; of references and wording digests, 0 for no reference."""

    place: int
    split: str
    reference: int
    wording: bytes
    dataset: str


def digest(text: str) -> int:
    """Six bytes: whole numbers that stay exact where a column with gaps makes them floats."""
    found = hashlib.blake2b(text.encode(), digest_size=6).digest()
    return int.from_bytes(found, "big")


_TOKEN_CHARACTERS = 4
"""Characters per token, where a log has texts without token counts."""

_TAKEN = "questions or texts spell lists or objects; --map 'THEIRS[]=text', or a path, opens them"
_COMPARED = 1000
_UNLIKE = (
    f"answers, of the first {_COMPARED}, are not what their texts state; if the column answer has "
    "what is right, say --map answer=reference, if whole texts, --map answer=text"
)

_RAW_SCHEMA = pa.schema(
    [
        *ATTEMPT_SCHEMA,
        *(("log", pa.int32()), ("guessed_tokens", pa.bool_())),
        *(("dataset", pa.string()), (VARIANT, pa.string())),
        *((name, pa.int64()) for name in ("place", "spelled", "said", "id", "parent")),
    ]
)
_CHECKED = {
    **{"spelled": "answer", "said": "text", "completion_tokens": "tokens"},
    **{name: name for name in ("model", "dataset", "correct", "guessed_tokens", "id", "parent")},
    "place": "question",
}
"""Columns that stay in memory, and their names there: numbers, digests of texts, and codes."""


class Intake:
    """Attempts on their way to a trace set; what is checked in the end stays in memory.

    `held` counts attempts that have each column; `sizes` are parameters, where they are known;
    `models_of` are the models of arms that a column tells apart.
    """

    def __init__(self, staging: Path, options: ImportOptions) -> None:
        self.options, self.logs = options, list[Log]()
        self.models: dict[str, KnownModel] = {}
        self.sizes: dict[str, float] = {}
        self.models_of: dict[str, str] = {}
        self.held = Counter[str]()
        self._known: dict[str, KnownQuestion] = {}
        self._raw, self._final = staging / "raw.parquet", staging / "attempts.parquet"
        self._attempts = TableWriter(self._raw, _RAW_SCHEMA)
        self._questions = TableWriter(staging / "questions.parquet", QUESTION_SCHEMA)
        self._kinds: dict[str, str] = {}
        self._lowest: str | None = None

    def close(self) -> None:
        """Write what waits to be written."""
        self._attempts.close()
        self._questions.close()

    @property
    def num_questions(self) -> int:
        """How many different ones there are."""
        return len(self._known)

    def read(self, path: Path) -> None:
        """Read a log; raises TraceFormatError, see `import_attempts`."""
        log, source = Log(path=path, options=self.options), None
        self.logs.append(log)
        for record in read_records(path):
            source = source or source_of(record)
            for entry, row in attempts_of(source, record, log):
                kept, unknown = checked(entry, row, log.constants)
                log.unread |= dict.fromkeys(unknown)
                if source is not TABLE and log.graded_again and kept.get("reference"):
                    kept = {k: v for k, v in kept.items() if k not in ("answer", "correct")}
                # What harnesses call an answer is often a whole sentence.
                self._add(entry, kept, log, compare=source is TABLE)
        if log.doubts[_UNLIKE] <= min(log.attempts, _COMPARED) / 10:
            del log.doubts[_UNLIKE]
        if source is not TABLE:
            log.unread.clear()

    def _add(self, record: Record, row: Row, log: Log, *, compare: bool) -> None:
        """Take an attempt; `compare` its verdict with what its answer and references say."""
        self.held.update(row.keys())
        if ARM in row:
            arm = f"{row['model']}:{row.pop(ARM)}"
            self.models_of[arm], row["model"] = row["model"], arm
        text, answer, right = row.get("text"), row.get("answer"), row.get("correct")
        references = row.get("reference", ())
        cut = row.get("finish_reason") == CUT
        spelled, answer, how = _answer(log.answer_kind, text, answer, cut=cut)
        for said in (text or answer or "", row["question"]) if compare else ():
            log.doubts[_TAKEN] += said.startswith(("['", '["', "[{", "{'"))
        if right is None:
            right = spelled is not None and is_one_of(log.answer_kind, spelled, tuple(references))
            log.notes["graded here"] += 1
        elif compare and spelled is not None and references:
            log.otherwise += is_one_of(log.answer_kind, spelled, tuple(references)) != right
        if compare and answer is not None and log.attempts < _COMPARED:
            stated = reading_of(text or answer, None, log.answer_kind, cut=cut)
            unlike = stated is not None and not log.answer_kind.same(answer, stated.answer)
            log.doubts[_UNLIKE] += unlike
        name, dataset = row["model"], row.get("dataset", "")
        model = self._model(record, row, log.answer_kind.name, dataset)
        question, place = self._question(record, row, dataset, references)
        number = model.tried[place]
        model.tried[place] += 1
        model.attempts += 1
        log.attempts += 1
        log.right += right
        if spelled is not None:
            model.read += 1
        else:
            if right:
                log.doubts["attempts that are right by the log, though no answer can be read"] += 1
            if text and len(model.unread) < EXAMPLES:
                model.unread.append(text)
        attempt, parent = row.setdefault("attempt_id", f"{name}:{number}"), row.get("parent_id")
        row.setdefault("prompt_tokens", _estimate(row["question"]))
        row["guessed_tokens"] = "completion_tokens" not in row
        row.setdefault("completion_tokens", _estimate(text or ""))
        row |= {
            "question_id": question,
            "index": number,
            "answer": answer,
            "how": how,
            "correct": right,
            "log": len(self.logs) - 1,
            "dataset": dataset,
            "place": place,
            "spelled": None if spelled is None else digest(spelled),
            "said": None if text is None else digest(text),
            "id": digest(attempt),
            "parent": None if parent is None else digest(parent),
        }
        self._attempts.add(row)

    def _model(self, record: Record, row: Row, kind: str, dataset: str) -> KnownModel:
        if self._kinds.setdefault(dataset, kind) != kind:
            raise record.error("dataset", f"answers of kind {self._kinds[dataset]}", kind)
        name, size = row["model"], row.get("parameters")
        if size and self.sizes.setdefault(name, size) != size:
            raise record.error("parameters", f"{self.sizes[name]} as before", size)
        if row.get("rung") == 0 and self._lowest is None:
            self._lowest = name
        return self.models.setdefault(name, KnownModel())

    def _question(
        self, record: Record, row: Row, dataset: str, references: Sequence[str]
    ) -> tuple[str, int]:
        """Name and place of a question, which is noted when it is new and else has to be the same.

        Ids are those of their data set.
        """
        text, split = row["question"], row.get("split")
        wording = wording_digest(text)
        name = row.get("question_id") or wording.hex()
        if dataset and not name.startswith(f"{dataset}/"):
            name = f"{dataset}/{name}"
        reference = digest("\0".join(references)) if references else 0
        known = self._known.get(name)
        if known is None:
            place, split = len(self._known), split or split_of(text)
            # Of several right answers none can stand for the others.
            only = references[0] if len(references) == 1 else None
            self._questions.add(row | {"question_id": name, "split": split, "reference": only})
            self._known[name] = KnownQuestion(place, split, reference, wording, dataset)
            return name, place
        if known.dataset != dataset:
            raise record.error("question_id", "an id that no other data set has", name)
        if reference and known.reference not in (0, reference):
            expected = f"the reference that question {name} had before"
            raise record.error("reference", expected, references)
        if split not in (None, known.split):
            expected = f"{known.split!r}, as question {name} was in before"
            raise record.error("split", expected, split)
        if wording != known.wording:
            doubt = "attempts at questions that were worded otherwise before"
            self.logs[-1].doubts[f"{doubt}; if others are meant, tell --set dataset={{file}}"] += 1
        return name, known.place

    @cached_property
    def attempts(self) -> pd.DataFrame:
        """What is checked of the attempts once all are there."""
        names = ["model", "dataset"]
        table = pq.read_table(self._raw, columns=list(_CHECKED), read_dictionary=names)
        return table.rename_columns(_CHECKED).to_pandas(self_destruct=True)

    def check(self) -> None:
        """Check what only all attempts together tell: answers, unique ids, known parents."""
        if not self.models:
            notes = {note: n for log in self.logs for note, n in log.notes.items() if n}
            ask = (
                "; give them by --references" if any("reference" in note for note in notes) else ""
            )
            raise TraceFormatError(
                f"{[str(log.path) for log in self.logs]}: expected attempts, found none: "
                f"{notes or 'no file has a record, or more than a header'}{ask}"
            )
        if not any(model.read for model in self.models.values()):
            examples = [text[-60:] for model in self.models.values() for text in model.unread]
            why = (
                "which have neither answer nor text, and verdicts alone cannot be voted on; --map "
                "THEIRS=answer or THEIRS=text names them"
            )
            if examples:
                why = f"such as {examples[:EXAMPLES]}; say what answers are by --answers"
            found = f"none could be read from {len(self.attempts)} attempts"
            raise TraceFormatError(f"expected answers, but {found}, {why}")
        ids = self.attempts[["question", "id", "parent"]]
        repeated = ids.duplicated(["question", "id"])
        if repeated.any():
            self._refuse(int(repeated.argmax()), "attempt_id", "an id that no other attempt has")
        revises = ids["parent"].notna()
        above, left = ids[~revises], ids[revises]
        while len(left):
            known = pd.MultiIndex.from_frame(above[["question", "id"]])
            follows = pd.MultiIndex.from_frame(left[["question", "parent"]]).isin(known)
            if not follows.any():
                expected = "the attempt_id of an earlier attempt at the same question"
                self._refuse(int(left.index[0]), "parent_id", expected)
            above, left = left[follows], left[~follows]

    def _refuse(self, place: int, column: str, expected: str) -> NoReturn:
        row = pq.read_table(self._raw, columns=["log", "question_id", column]).slice(place, 1)
        (found,) = row.to_pylist()
        raise TraceFormatError(
            f"{self.logs[found['log']].path}, question {found['question_id']}, column {column}: "
            f"expected {expected}, found {found[column]!r}"
        )

    def small(self, wanted: str | None) -> str:
        """The model that samples; TraceFormatError if it is not there, or none stands out."""
        if wanted or self._lowest:
            if (wanted or self._lowest) not in self.models:
                expected = f"one of {sorted(self.models)}"
                raise TraceFormatError(f"small: expected {expected}, found {wanted!r}")
            return str(wanted or self._lowest)
        counts = {name: model.attempts for name, model in self.models.items()}
        most = [name for name, n in counts.items() if n == max(counts.values())]
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
        told = [VARIANT] if self.held[VARIANT] else []
        schema = pa.schema([*ATTEMPT_SCHEMA, *(_RAW_SCHEMA.field(name) for name in told)])
        with pq.ParquetWriter(self._final, schema, compression="zstd") as writer:
            for batch in pq.ParquetFile(self._raw).iter_batches(ROW_GROUP):
                table = pa.table(batch).select(schema.names)
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

    def leaks(self) -> Iterator[str]:
        """A message if questions of different splits are worded alike."""
        worded = {(known.wording, known.split) for known in self._known.values()}
        if count := len(worded) - len({wording for wording, _ in worded}):
            yield f"{count} wordings are in more than one split; give them one, or none at all"


def _answer(
    kind: AnswerKind, text: str | None, answer: str | None, *, cut: bool
) -> tuple[str | None, ...]:
    """An answer's spelling, the answer as told or else read, and the rule that read it."""
    if answer is not None:
        spelled = kind.canonical(answer)
        return spelled, None if spelled is None else answer, None
    reading = None if text is None else reading_of(text, None, kind, cut=cut)
    return (reading.answer, reading.answer, reading.how) if reading else (None, None, None)


def _estimate(text: str) -> int:
    return max(1, len(text) // _TOKEN_CHARACTERS)


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

    `small` samples, the model with most attempts if None; all others can be escalated to.
    `parameters` are by model, for the ledger.

    Warns of what is doubtful: answers that cannot be read, models that are always or never right,
    texts that repeat, shares that differ from those that a harness tells.

    Raises:
        TraceFormatError: a file cannot be read, a row holds what it may not, rows contradict one
            another, no answer can be read, or `out` holds a trace set.
    """
    if (out / MANIFEST).exists():
        raise TraceFormatError(f"{out}: expected no trace set there yet; choose another directory")
    _refuse_copies(files)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as staging:
        rows = Intake(Path(staging), options)
        for file in files:
            rows.read(file)
        rows.close()
        if rows.models:
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
                | ({"model": own, "family": own} if (own := rows.models_of.get(model)) else {})
                for model, tier in tiers.items()
            },
            "answers": rows.kinds(),
            "source": [file.name for file in files],
            "questions": rows.num_questions,
        }
        out.mkdir(exist_ok=True)
        for name in ("questions.parquet", "attempts.parquet"):
            (Path(staging) / name).replace(out / name)
        write_json(out / MANIFEST, manifest)
    found = list(summary.groups(rows.attempts))
    doubts = [*summary.doubts(found), *summary.shared(rows.attempts)]
    doubts += summary.differences(rows.logs)
    for message in (*summary.unread(rows.models), *rows.leaks(), *doubts):
        warnings.warn(message, stacklevel=2)
    missing = [*summary.missing(found, rows.held, chosen, rows.sizes)]
    common = len(set.intersection(*(set(model.tried) for model in rows.models.values())))
    if common < rows.num_questions:
        share = f"{rows.num_questions - common} of {rows.num_questions} questions"
        missing.append(f"attempts by every model at {share}: a ladder needs one by each of its own")
    return Imported(groups=found, missing=missing, notes=[*summary.notes(rows.logs)])


def _checked_sizes(sizes: Mapping[str, float], models: Collection[str]) -> Mapping[str, float]:
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
            left = [*dict.fromkeys(name for log in logs for name in log.unread)]
            found = f"{unused}, and nothing is said of {left}"
            raise ConfigError(f"{option}: expected what some log has, found {found}")


def _refuse_copies(files: Sequence[Path]) -> None:
    known: dict[str, Path] = {}
    for file in files:
        if not file.is_file():
            next(read_records(file))  # which says what is there instead
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "blake2b").hexdigest()
        if (first := known.setdefault(digest, file)) is not file:
            raise TraceFormatError(
                f"{file}: expected a log of its own, found the content of {first}; name it once"
            )
