"""Attempts on their way from logs to a trace set: checked, graded, and written a part at a time."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from controller.answers import EXAMPLES, unread_warning
from controller.errors import TraceFormatError
from envs.questions.files import SPLITS, split_of, wording_digest
from envs.records import Record, read_records
from envs.traces.checks import checked
from envs.traces.format import ATTEMPT_SCHEMA, QUESTION_SCHEMA, ROW_GROUP
from envs.traces.logs import ImportOptions, Log, Row, is_one_of
from envs.traces.sources import TABLE, Source, source_of
from envs.traces.summary import Group

_TOKEN_CHARACTERS = 4
"""Characters per token, where a log has texts without token counts."""


class Intake:
    """Attempts on their way to a trace set; what is checked in the end stays in memory.

    Args:
        staging: directory for the tables.
        options: of the import.
    """

    def __init__(self, staging: Path, options: ImportOptions) -> None:
        self.options = options
        self.models: dict[str, int] = {}
        self.datasets: dict[str, int] = {}
        self.questions: dict[str, int] = {}
        self.sizes: dict[str, float] = {}
        self._raw, self._final = staging / "raw.parquet", staging / "attempts.parquet"
        self._attempts = _Table(self._raw, ATTEMPT_SCHEMA)
        self._questions = _Table(staging / "questions.parquet", QUESTION_SCHEMA)
        self._kinds: dict[str, str] = {}
        self._lowest: str | None = None
        self._tried: Counter[tuple[int, int]] = Counter()
        self._held: Counter[str] = Counter()
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
        self._logs: list[Log] = []

    def __enter__(self) -> Intake:
        return self

    def __exit__(self, *_: object) -> None:
        self._attempts.close()
        self._questions.close()

    def read(self, path: Path) -> Log:
        """Read a log.

        Raises:
            TraceFormatError: see `import_attempts`.
        """
        log, source = Log(path=path, options=self.options), None
        self._logs.append(log)
        for record in read_records(path):
            source = source or source_of(record)
            for entry, row in _attempts(source, record, log):
                kept, unknown = checked(entry, row, self.options.constants)
                log.unread |= dict.fromkeys(unknown)
                self._add(entry, kept, log)
        if source is not TABLE:
            log.unread.clear()
        return log

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
            self._held[column] += 1
        self._note(
            question=question,
            model=place,
            dataset=self.datasets[dataset],
            tokens=tokens,
            log=len(self._logs) - 1,
            correct=right,
            guessed_tokens="completion_tokens" not in row,
            answer=_digest(spelled),
            text=_digest(text),
            own=_digest(own),
            parent=_digest(row.get("parent_id")),
        )
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

    def _note(self, **values: Any) -> None:
        for name, value in values.items():
            self._columns[name].append(value)

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
                self._logs[-1].doubts[
                    "attempts at questions that were worded otherwise before"
                ] += 1
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

    def check(self, logs: Sequence[Log]) -> None:
        """Check what only all attempts together tell.

        Raises:
            TraceFormatError: there are none, none has an answer, two of a question share an id, or
                one revises another that is not there.
        """
        kept = self.columns()
        if not len(kept["question"]):
            notes = {note: n for log in logs for note, n in log.notes.items()}
            raise TraceFormatError(
                f"{[str(log.path) for log in logs]}: expected attempts, found none "
                f"({notes or 'no records'}); logs of services and batches need --references"
            )
        if not kept["answer"].any():
            examples = [text[-60:] for texts in self._unread.values() for text in texts]
            raise TraceFormatError(
                f"expected answers, but none could be read from {len(kept['answer'])} attempts, "
                f"such as {examples[:EXAMPLES]}; say what answers are by --answers"
            )
        own = _pairs(kept["question"], kept["own"])
        order = np.argsort(own, kind="stable", order=("question", "id"))
        same = own[order][1:] == own[order][:-1]
        if same.any():
            self._refuse(int(order[1:][same][0]), "attempt_id", "an id that no other attempt has")
        parent = _pairs(kept["question"], kept["parent"])
        reached, left = own[kept["parent"] == 0], np.flatnonzero(kept["parent"])
        while len(left):
            follows = np.isin(parent[left], reached)
            if not follows.any():
                expected = "the attempt_id of an earlier attempt at the same question"
                self._refuse(int(left[0]), "parent_id", expected)
            reached, left = np.concatenate([reached, own[left[follows]]]), left[~follows]

    def _refuse(self, place: int, column: str, expected: str) -> None:
        path = self._logs[self._columns["log"][place]].path
        for batch in pq.ParquetFile(self._raw).iter_batches(columns=["question_id", column]):
            if place < len(batch):
                row = batch.slice(place, 1).to_pylist()[0]
                raise TraceFormatError(
                    f"{path}, question {row['question_id']}, column {column}: expected {expected}, "
                    f"found {row[column]!r}"
                )
            place -= len(batch)

    def small(self, wanted: str | None) -> str:
        """The model that samples.

        Raises:
            TraceFormatError: it is not there, or none stands out.
        """
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

    def missing(self, small: str, found: Sequence[Group]) -> Iterator[str]:
        """What the logs lack, and what that means, one sentence each."""
        total = len(self._columns["question"])
        if self._held["completion_tokens"] < total:
            yield "token counts: estimated from the length of the text, four characters each"
        if self._held["prompt_tokens"] < total:
            yield "prompt_tokens: estimated from the length of the question"
        for column, meaning in (
            ("mean_logprob", "the policy goes without confidence"),
            ("verifier_score", "no VERIFY"),
            ("parent_id", "no REVISE"),
        ):
            if not self._held[column]:
                yield f"{column}: {meaning}"
        yield "prompt states: difficulty is estimated from the wording alone"
        if len(self.models) == 1:
            yield "a larger model: no ESCALATE"
        if all(group.attempts == group.questions for group in found if group.model == small):
            yield f"repeated samples of {small}: nothing to vote on"
        if unknown := sorted(model for model in self.models if model not in self.sizes):
            yield f"parameters of {', '.join(unknown)}: say --parameters MODEL=COUNT for true costs"


def _attempts(source: Source, record: Record, log: Log) -> Iterator[tuple[Record, Row]]:
    try:
        yield from source.read(record, log)
    except TraceFormatError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise TraceFormatError(
            f"{record.path}, {record.place}: expected an entry as {source.name} writes it, found "
            f"{error!r}"
        ) from error


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


def _pairs(question: NDArray[Any], name: NDArray[Any]) -> NDArray[Any]:
    pairs = np.empty(len(question), [("question", np.int32), ("id", np.int64)])
    pairs["question"], pairs["id"] = question, name
    return pairs


def _estimate(text: str) -> int:
    return max(1, len(text) // _TOKEN_CHARACTERS)
