"""From what a model wrote to an answer that can be compared and voted on.

A kind of answer says what is read and which answers are equal: for votes, grading, service and
imports alike. See docs/answers.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable


from controller.answers.kinds import (
    AnswerKind,
    Auto,
    Choice,
    Exact,
    Number,
    Own,
    Reading,
    Several,
    Text,
    Whole,
)
from controller.errors import ConfigError

__all__ = [
    "KINDS",
    "UNNAMED",
    "UNSTATED",
    "AnswerKind",
    "Reading",
    "answer_kind",
    "load_kind",
    "read_answer",
    "unread_warning",
]

KINDS: dict[str, AnswerKind] = {
    kind.name: kind
    for kind in (
        Auto(),
        Number(),
        Choice(),
        Text(),
        Several("list", ordered=True),
        Several("set", ordered=False),
        Exact(),
        Whole(),
    )
}

UNSTATED = "auto"
"""For people who say nothing about their answers."""
UNNAMED = "exact"
"""Of trace sets and checkpoints that name none: they are older than the kinds."""

_LEAST_READ = 0.8
_EXAMPLES, _SHOWN = 3, 100


def answer_kind(name: str) -> AnswerKind:
    """A kind by name; nothing is imported, so names may come from files.

    Raises:
        ConfigError: no such kind.

    >>> answer_kind("number").read("So the final answer is:\\n\\n$72").answer
    '72'
    """
    if name in KINDS:
        return KINDS[name]
    if name.count(":") == 1 and all(name.split(":")):
        return _OWN.get(name) or Own(name)
    raise ConfigError(
        f"answers: expected one of {sorted(KINDS)} or MODULE:FUNCTION, found {name!r}"
    )


_OWN: dict[str, AnswerKind] = {}


def load_kind(name: str) -> AnswerKind:
    """A kind that the caller names: an own function is imported, and known from then on.

    Raises:
        ConfigError: no such kind, module or function.
    """
    kind = answer_kind(name)
    if name in KINDS or name in _OWN:
        return kind
    module, function = name.split(":")
    try:
        read = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"answers: expected a function {name}: {error}") from None
    _OWN[name] = Own(name, read)
    return _OWN[name]


def read_answer(text: str, named: str | None, otherwise: AnswerKind) -> str | None:
    """The answer of an attempt.

    Args:
        text: what a model wrote.
        named: kind that the question names, see `Question.answers`.
        otherwise: for questions that name none.
    """
    reading = (answer_kind(named) if named else otherwise).read(text)
    return None if reading is None else reading.answer


def unread_warning(attempts: Iterable[tuple[str | None, str | None]], who: str) -> str | None:
    """What to tell people of whose attempts less than 80% could be read; None if all is well.

    Args:
        attempts: text, None if it was not kept, and answer of each, None if there is none.
        who: whose attempts they are.
    """
    total = read = 0
    unread: list[str] = []
    for text, answer in attempts:
        total += 1
        read += answer is not None
        if answer is None and text and len(unread) < _EXAMPLES:
            unread.append(text)
    if not total or read >= _LEAST_READ * total:
        return None
    shown = "".join(f"\n  ...{text.strip()[-_SHOWN:]!r}" for text in unread)
    return (
        f"{who}: an answer was read from {read / total:.0%} of {total} attempts; the others count "
        f"as wrong. Choose what answers are (--answers {'|'.join(KINDS)}; try with `allot read`), "
        f"ask for a form (--prompt), or allow longer attempts (--max-new-tokens) if they are cut."
        f"{' For example:' if shown else ''}{shown}"
    )
