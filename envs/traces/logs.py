"""What a person says of a log that is imported, the log itself, and what its attempts may hold."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from controller.answers import UNSTATED, AnswerKind, answer_kind, right_answers
from controller.errors import ConfigError, TraceFormatError
from controller.process.actions import ACTIONS, REVISING
from controller.process.types import CUT
from envs.records import Record, Row, read_records
from envs.traces.format import ARM, SPLITS, VARIANT

TRUTHS = dict.fromkeys(
    ("1", "1.0", "true", "yes", "c", "pass", "passed", "correct", "right"), True
) | dict.fromkeys(
    ("0", "0.0", "false", "no", "i", "n", "fail", "failed", "timeout", "incorrect", "wrong"), False
)
"""Spellings of right and wrong; C, I and N (no answer) are those of inspect_ai, pass, fail and
timeout those of EvalPlus."""

_MEDIUM = re.compile(r"(?:input_)?(image|audio|video|document|file)")
SHOWS = re.compile(r"\[(?:image|audio|video|document|file) [0-9a-f]{6}\]|<image>")
"""What stands in a question for a medium."""

FAILED = "requests that failed, left out"

SLOT = re.compile(r"\{(\w+)(?::([^}]*))?\}")
"""In the name of a column: what stands there is the value of a field, one of those that follow."""

NONE = "none"
"""What a column is mapped to that is to be left out."""
_MAPPED = (NONE, "error", "tokens")
"""What a column may be mapped to beside `COLUMNS`."""

REFERENCES = "--references"
"""What stands in `Log.used` for their having been of use."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What the person who imports says about logs.

    Attributes:
        filters: of lm-evaluation-harness; of each log the first one that it has.
        metrics: that tell which attempts are right; of each log the first one that it has.
        columns: fields of an attempt by the column that holds them; NONE leaves a column out.
        constants: fields of all attempts whose log does not tell them; `{file}` and `{folder}`
            stand for the names of a log and its directory.
        references: rows by question id and by question, for logs without ground truth.
        answers: kind of the answers, which are read and graded again; None to take a
            harness's answers and scores where it has them.
    """

    filters: Sequence[str] = ()
    metrics: Sequence[str] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    references: Mapping[str, Row] = field(default_factory=dict)
    answers: str | None = None

    def __post_init__(self) -> None:
        slots = [found for found in map(SLOT.search, (*self.columns, *self.metrics)) if found]
        fields = {found[1] for found in slots}
        ours = (*self.columns.values(), *fields)
        for option, names in (("map", ours), ("set", self.constants)):
            for name in names:
                if name not in COLUMNS and not (option == "map" and name in _MAPPED):
                    expected = f"expected one of {sorted(COLUMNS)}"
                    raise ConfigError(f"{option}: {expected}, found {name!r}")
        if len(fields) > 1:
            raise ConfigError(f"map: expected one field in braces, found {sorted(fields)}")
        if slots and all(found[0] == found.string and not found[2] for found in slots):
            expected = f"columns by name, as in {{{slots[0][1]}:A,B}}"
            raise ConfigError(f"map: expected {expected}, found {slots[0][0]}, which is any column")


@dataclass(kw_only=True)
class Log:
    """One file that is being imported.

    Attributes:
        notes, doubts: what was chosen or guessed, and what to warn of, and how often.
        unread: columns that mean nothing here.
        kind: of the answers of this log, where it is known to be another one.
        stated: share of attempts that are right, as the harness tells.
        attempts, right: how many there are so far.
        otherwise: attempts whose answer and reference say otherwise than the verdict in the log.
        steps: of the training whose completions these are.
        used: filters, metrics and columns that the person named and this log has.
        beside_it: what was read beside the log, by name.
    """

    path: Path
    options: ImportOptions
    notes: Counter[str] = field(default_factory=Counter)
    doubts: Counter[str] = field(default_factory=Counter)
    unread: dict[str, None] = field(default_factory=dict)
    kind: str | None = None
    stated: float | None = None
    attempts: int = 0
    right: int = 0
    otherwise: int = 0
    steps: set[int] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    beside_it: dict[str, Any] = field(default_factory=dict)
    _filter: str | None = None

    @property
    def answer_kind(self) -> AnswerKind:
        """How answers of this log are read."""
        return answer_kind(self.options.answers or self.kind or UNSTATED)

    @property
    def graded_again(self) -> bool:
        """Whether texts are to be read and graded here, whatever the harness says of them."""
        return self.options.answers is not None and self.kind is None

    def beside(self, name: str) -> Any:
        """The JSON in a file, seen from the log's directory, read once; an empty object if none."""
        if name not in self.beside_it:
            path = self.path.parent / name
            try:
                text = path.read_text(encoding="utf-8-sig") if path.exists() else "{}"
                self.beside_it[name] = json.loads(text)
            except (OSError, ValueError) as error:
                raise TraceFormatError(f"{path}: expected JSON: {error}") from None
        return self.beside_it[name]

    @cached_property
    def stem(self) -> str:
        """Its name without an ending, of what was compressed as well."""
        return Path(self.path.name.removesuffix(".gz")).stem

    @cached_property
    def constants(self) -> Row:
        """What the person said of all attempts, of this log."""
        return {
            name: str(value).replace("{file}", self.stem).replace("{folder}", self.folder)
            for name, value in self.options.constants.items()
        }

    @cached_property
    def folder(self) -> str:
        """Name of the directory that it lies in."""
        return self.path.resolve().parent.name

    @property
    def folder_as_model(self) -> str:
        """The same as the name of a model, where nothing else tells it; a note says so."""
        if "model" in self.constants:
            return str(self.constants["model"])
        self.notes["the directory's name for the model's"] += 1
        return self.folder

    @cached_property
    def filters(self) -> list[str]:
        """Filters of a log of lm-evaluation-harness, as they appear in it."""
        return list({str(record.row.get("filter")): None for record in read_records(self.path)})

    def metric(self, record: Record, found: Collection[str], known: Collection[str] = ()) -> str:
        """The metric that tells what is right, of those `found` in a record.

        If none was chosen it has to be the only one of `known` ones, or of all if none are given.
        """
        chosen = next((name for name in self.options.metrics if name in found), None)
        candidates = [name for name in found if not known or name in known]
        if chosen is None and len(candidates) != 1:
            told = f", one of {sorted(known)}" if known and not candidates else ""
            raise record.error(
                "metrics",
                f"a metric that is 1 for right and 0 for wrong{told}; say which is by --metric",
                sorted(found),
            )
        chosen = chosen or candidates[0]
        self.used.add(chosen)
        self.notes[f"right by {chosen}"] += 1
        return chosen

    def filter(self, record: Record) -> str:
        """The filter whose answers count; TraceFormatError if none of several was chosen."""
        if self._filter is None:
            wanted = [name for name in self.options.filters if name in self.filters]
            self.used.update(wanted)
            self._filter = wanted[0] if wanted else str(record.row["filter"])
        is_other = str(record.row["filter"]) != self._filter
        if is_other and self._filter not in self.options.filters:
            raise record.error("filter", "one filter; say which by --filter", self.filters)
        return self._filter

    def known(self, name: str, question: str | None = None) -> Row | None:
        """The row of `--references` for a question; None if there is none."""
        references = self.options.references
        found = references.get(name) or references.get(question or name)
        if found is not None:
            self.used.add(REFERENCES)
        return found


def truth(value: Any) -> bool:
    """Whether a score means right.

    Raises:
        ValueError: it is neither right nor wrong.

    >>> truth("C"), truth(0.0)
    (True, False)
    """
    found = TRUTHS.get(str(value).strip().lower())
    if found is None:
        raise ValueError(value)
    return found


def scored(record: Record, column: str, value: Any, attempts: int = 1) -> bool:
    """The same of a score in a column of a record, for all of its attempts.

    Raises:
        TraceFormatError: it is neither, or a share, which does not tell which are right.
    """
    try:
        return truth(value)
    except ValueError:
        expected = "1 for right or 0 for wrong"
        if attempts > 1:
            expected += (
                f" (it tells how many of {attempts} attempts are right, and not which; record "
                "them as runs of one attempt each, with different seeds)"
            )
        raise record.error(column, expected, value) from None


def conversation(messages: Any) -> str:
    """What a model was asked: a text, or the messages of a chat.

    >>> conversation([{"role": "user", "content": "1 + 1?"}])
    '1 + 1?'
    """
    if not isinstance(messages, (list, tuple)):
        return str(messages)
    texts = [(speaker(message), message_text(message)) for message in messages]
    if len(texts) == 1:
        return texts[0][1]
    return "\n\n".join(f"{role}: {text}" for role, text in texts)


def said_last(messages: Any) -> str:
    """What a model said: a text, or the last message of a chat."""
    return messages if isinstance(messages, str) else conversation(messages[-1:])


def is_chat(found: Any) -> bool:
    """Whether these are messages."""
    return isinstance(found, list) and bool(found) and all(map(is_message, found))


def is_message(found: Any) -> bool:
    """Whether this is a message of a chat."""
    said = isinstance(found, Mapping) and speaker(found) is not None
    return said and not found.keys().isdisjoint(HELD)


HELD = ("content", "prompt", "parts", "value")
"""Where a message has its text; the last three are OpenCompass's, Gemini's and ShareGPT's."""
_SPEAKERS = {"human": "user", "user": "user", "system": "system"}
_SPEAKERS |= dict.fromkeys(("gpt", "ai", "model", "assistant"), "assistant")


def speaker(message: Mapping[str, Any]) -> str | None:
    """Who said a message: its role, or `from` in ShareGPT's and `type` in LangChain's words."""
    told = str(message.get("role", message.get("from", message.get("type"))))
    is_any = "role" in message or {"from", "value"} <= message.keys()
    return _SPEAKERS.get(told, told if is_any else None)


def opened_chat(messages: Any) -> Any:
    """A chat that a log holds as text of JSON, as it was; anything else as it is.

    >>> opened_chat('[{"role": "user", "content": "1 + 1?"}]'), opened_chat("[1] + [2]?")
    ([{'role': 'user', 'content': '1 + 1?'}], '[1] + [2]?')
    """
    if not (isinstance(messages, str) and messages.startswith("[{")):
        return messages
    try:
        found = json.loads(messages)
    except ValueError:
        return messages
    return found if all(isinstance(m, dict) and speaker(m) for m in found) else messages


def message_text(message: Mapping[str, Any]) -> str:
    """The text of one message of a chat, in one piece or in parts.

    A part that is a medium is named by its kind and a digest, so that questions about different
    pictures differ.

    >>> message_text({"content": [{"type": "text", "text": "How many? "}, {"type": "image"}]})
    'How many? [image b91580]'
    """
    content = next((message[name] for name in HELD if message.get(name) is not None), None)
    parts = content if isinstance(content, (list, tuple)) else [content]
    texts = (_part_text(part) if isinstance(part, Mapping) else part for part in parts)
    return "".join(str(text) for text in texts if text is not None)


def _part_text(part: Mapping[str, Any]) -> Any:
    """The text of a part, or what stands for it."""
    medium = _MEDIUM.match(str(part.get("type") or part.get("content_type") or ""))
    if part.get("text") is not None or not medium:
        return part.get("text")
    spelled = json.dumps(part, sort_keys=True, default=str)
    return f"[{medium[1]} {hashlib.blake2b(spelled.encode(), digest_size=3).hexdigest()}]"


_MOST = 2**31 - 1
_HALVES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a column may hold, in words, and a reader that raises ValueError or TypeError else."""

    expected: str
    read: Callable[[Any], Any]


def _whole_text(text: str) -> str:
    """A text without halves of characters, which JSON may hold where a model was cut short."""
    return text if text.isascii() else _HALVES.sub("\ufffd", text)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return _whole_text(value)


def _asked(value: Any) -> str:
    chat = opened_chat(value)
    if is_chat(chat) and speaker(chat[-1]) == "assistant":
        raise ValueError
    return _text(conversation(chat) if is_chat(chat) else value)


def _said(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return _text(value[0])
    is_spelled = isinstance(value, str) and value.startswith("{")
    chat = [value] if is_message(value) else opened_chat(f"[{value}]") if is_spelled else value
    return _text(said_last(chat) if is_chat(chat) else value)


def _spelled(*refused: type) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if isinstance(value, refused) or value != value:
            raise TypeError
        return _whole_text(str(value))

    return read


def _reference(value: Any) -> list[str]:
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, (dict, list)) or entry != entry or entry is None:
            raise TypeError
    return [_whole_text(answer) for answer in right_answers(value)]


def _number(least: float, most: float, whole: bool = False) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if type(value) is int and least <= value <= most:
            return value if whole else float(value)
        number = float(value)
        if isinstance(value, bool) or not least <= number <= most or (whole and number % 1):
            raise ValueError
        return int(number) if whole else number

    return read


_WHOLE = _number(0, _MOST, whole=True)


def _level(value: Any) -> int:
    """A level, which MATH and its relatives spell "Level 3"."""
    return int(_WHOLE(value.removeprefix("Level ") if isinstance(value, str) else value))


def _one_of(*names: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in names:
            raise ValueError
        return str(value)

    return read


def _ended(value: Any) -> str:
    """Why a text ended, `length` in whatever words it was cut."""
    return CUT if str(value).lower() in _CUTS else str(_NAME.read(value))


_CUTS = ("max_tokens", "max_output_tokens", "max_new_tokens", "max_length", "model_length", CUT)


_ACTIONS = tuple(kind.value for kind, spec in ACTIONS.items() if spec.attempt)
_NAME = Column(expected="a name", read=_spelled(bool, float, dict, list))
_COUNT = Column(expected="a whole number from 0", read=_WHOLE)
_LABEL = Column(expected="a name or a number", read=_spelled(dict, list))
_LOGPROB = Column(expected="nats, a number up to 0", read=_number(-math.inf, 0))

COLUMNS: Mapping[str, Column] = {
    "question": Column(expected="text, or a chat without its answer", read=_asked),
    "reference": Column(expected="a right answer or a list of them", read=_reference),
    "question_id": _NAME,
    "dataset": _NAME,
    "level": Column(expected=_COUNT.expected, read=_level),
    "split": Column(expected=f"one of {list(SPLITS)}", read=_one_of(*SPLITS)),
    "model": _NAME,
    "parameters": Column(expected="a number from 1", read=_number(1, 1e18)),
    "rung": _COUNT,
    "action": Column(expected=f"one of {list(_ACTIONS)}", read=_one_of(*_ACTIONS)),
    "attempt_id": _NAME,
    "parent_id": _NAME,
    "answer": Column(expected="text or a number", read=_spelled(dict, list)),
    "text": Column(expected="text", read=_said),
    "correct": Column(expected="1 or true for right, 0 or false for wrong", read=truth),
    "prompt_tokens": _COUNT,
    "completion_tokens": _COUNT,
    "cached_tokens": _COUNT,
    "reasoning_tokens": _COUNT,
    "finish_reason": Column(expected=_NAME.expected, read=_ended),
    "seconds": Column(expected="a number from 0", read=_number(0, math.inf)),
    "cost_usd": Column(expected="a number from 0", read=_number(0, math.inf)),
    "mean_logprob": _LOGPROB,
    "min_logprob": _LOGPROB,
    "verifier_score": Column(expected="a number from 0 to 1", read=_number(0, 1)),
    "verifier_tokens": _COUNT,
    VARIANT: _LABEL,
    ARM: _LABEL,
}
"""Columns of an attempt that is imported."""


def read_cell(record: Record, name: str, value: Any, like: str = "") -> Any:
    """What a column says, read as the one of `COLUMNS` that it is `like`; TraceFormatError else."""
    column = COLUMNS[like or name]
    try:
        return column.read(value)
    except (TypeError, ValueError, OverflowError):
        raise record.error(name, column.expected, value) from None


NEEDED = ("question", "model")

_MAY_BE_EMPTY = ("text", "answer")
"""A model may have written nothing, and a harness may have found no answer."""


def checked(record: Record, row: Row, constants: Mapping[str, Any]) -> tuple[Row, list[str]]:
    """An attempt whose columns hold what they may, and the columns that mean nothing here.

    `constants` stand in for columns that it lacks.

    Raises:
        TraceFormatError: a column holds something else, or one that is needed is missing.
    """
    kept: Row = {}
    unknown = []
    if constants:
        row = {**constants, **{name: value for name, value in row.items() if value is not None}}
    for name, value in row.items():
        # NaN stands for nothing, but is no verdict.
        is_told = value is not None and (value == value or name == "correct")
        if name not in COLUMNS:
            unknown.append(name)
        elif is_told and (value != "" or name in _MAY_BE_EMPTY):
            try:
                kept[name] = read_cell(record, name, value)
            except TraceFormatError as error:
                if name in record.row and name not in (*NEEDED, "correct"):
                    error = TraceFormatError(f"{error}; --map {name}={NONE} leaves it out")
                raise error from None
    there = [*record.row]
    for name in NEEDED:
        if not kept.get(name, "").strip():
            named = f"--map THEIRS={name} or --set {name}=VALUE"
            expected = f"{COLUMNS[name].expected}, see {named}"
            raise record.error(name, expected, row.get(name) or f"columns {there}")
    if "text" not in kept and "completion_tokens" not in kept:
        expected = "a whole number from 0, or text that it can be told by, see --map THEIRS=text"
        raise record.error("completion_tokens", expected, f"columns {there}")
    if "correct" not in kept and not kept.get("reference"):
        expected = "a column correct, or a reference, see --map, and --references by id or wording"
        raise record.error("correct", expected, f"columns {there}")
    if kept.get("action") in REVISING and "parent_id" not in kept:
        raise record.error("parent_id", "the attempt_id of what is revised", None)
    return kept, unknown
