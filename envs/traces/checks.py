"""The columns of an attempt that is imported, and what each may hold."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from controller.process.actions import ACTIONS, REVISING
from envs.questions.files import SPLITS
from envs.records import Record
from envs.traces.format import VARIANT
from envs.traces.logs import Row, right_answers, truth

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


_ACTIONS = tuple(kind.value for kind, spec in ACTIONS.items() if spec.attempt)
_NAME = Column(expected="a name", read=_spelled(bool, float, dict, list))
_COUNT = Column(expected="a whole number from 0", read=_WHOLE)
_LOGPROB = Column(expected="nats, a number up to 0", read=_number(-math.inf, 0))

COLUMNS: Mapping[str, Column] = {
    "question": Column(expected="text", read=_text),
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
    "text": Column(expected="text", read=_text),
    "correct": Column(expected="1 or true for right, 0 or false for wrong", read=truth),
    "prompt_tokens": _COUNT,
    "completion_tokens": _COUNT,
    "cached_tokens": _COUNT,
    "reasoning_tokens": _COUNT,
    "finish_reason": _NAME,
    "seconds": Column(expected="a number from 0", read=_number(0, math.inf)),
    "mean_logprob": _LOGPROB,
    "min_logprob": _LOGPROB,
    "verifier_score": Column(expected="a number from 0 to 1", read=_number(0, 1)),
    "verifier_tokens": _COUNT,
    VARIANT: Column(expected="a name or a number", read=_spelled(dict, list)),
}
"""Columns of an attempt that is imported."""

NEEDED = ("question", "model")

_MAY_BE_EMPTY = ("text", "answer")
"""A model may have written nothing, and a harness may have found no answer."""


def checked(record: Record, row: Row, constants: Mapping[str, Any]) -> tuple[Row, set[str]]:
    """An attempt whose columns hold what they may, and the columns that mean nothing here.

    `constants` stand in for columns that it lacks.

    Raises:
        TraceFormatError: a column holds something else, or one that is needed is missing.
    """
    kept: Row = {}
    unknown = set()
    for name, value in (row if not constants else {**constants, **_told(row)}).items():
        column = COLUMNS.get(name)
        if column is None:
            unknown.add(name)
        elif value is not None and (value != "" or name in _MAY_BE_EMPTY):
            try:
                kept[name] = column.read(value)
            except (TypeError, ValueError, OverflowError):
                raise record.error(name, column.expected, value) from None
    for name in NEEDED:
        if not kept.get(name, "").strip():
            named = f"--map THEIRS={name} or --set {name}=VALUE"
            expected = f"{COLUMNS[name].expected}, see {named}"
            raise record.error(name, expected, row.get(name) or f"columns {list(record.row)}")
    if "text" not in kept and "completion_tokens" not in kept:
        raise record.error(
            "completion_tokens", "a whole number from 0, or the text that it can be told by", None
        )
    if "correct" not in kept and not kept.get("reference"):
        raise record.error("correct", "a column correct, or a reference to grade with", None)
    if kept.get("action") in REVISING and "parent_id" not in kept:
        raise record.error("parent_id", "the attempt_id of what is revised", None)
    return kept, unknown


def _told(row: Row) -> Row:
    return {name: value for name, value in row.items() if value is not None}
