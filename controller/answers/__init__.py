"""From what a model wrote to an answer that can be compared and voted on.

A kind of answer says what is read and which answers are equal: for votes, grading, service and
imports alike. See docs/answers.md.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from controller.answers.kinds import AnswerKind as AnswerKind
from controller.answers.kinds import (
    Auto,
    Exact,
    Letter,
    Number,
    Own,
    Several,
    Text,
    Whole,
)
from controller.answers.kinds import Reading as Reading
from controller.errors import ConfigError

_LISTS = (Several("list", ordered=True), Several("set", ordered=False))
KINDS: dict[str, AnswerKind] = {
    kind.name: kind for kind in (Auto(), Number(), Letter(), Text(), *_LISTS, Exact(), Whole())
}

UNSTATED = "auto"
"""For people who say nothing about their answers."""
UNNAMED = "exact"
"""Of trace sets and checkpoints that name none: they are older than the kinds."""

EXAMPLES = 3
"""Texts that a warning shows."""

_LAST = ("bare", "last_number", "listed", "quoted")
"""Rules that take what a text ends with."""
_LEAST_READ, _SHOWN = 0.8, 100
_PAIR = re.compile(r"\s*-?\d+,-?\d{1,2}\s*")
"""Two numbers, or one with a decimal comma."""
_WORKED = ("####", "\\boxed")


def answer_kind(name: str) -> AnswerKind:
    r"""A kind by name; nothing is imported, so names may come from files.

    Raises:
        ConfigError: no such kind.

    >>> answer_kind("number").read("So the final answer is:\n\n$72")
    Reading(answer='72', how='stated')
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
    _OWN[name] = Own(name, imported("answers", name))
    return _OWN[name]


def imported(option: str, name: str) -> Callable[..., Any]:
    """A caller's own function, MODULE:FUNCTION. Raises ConfigError: there is none of that name."""
    module, _, function = name.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{option}: expected a function {name}: {error}") from None
    return found


def reading_of(
    text: str, named: str | None, otherwise: AnswerKind, *, cut: bool = False
) -> Reading | None:
    """The answer that a text states, by the kind that its question names, if it does.

    Of a text that was cut short, what comes last is no answer unless it is all there is.
    """
    reading = (answer_kind(named) if named else otherwise).read(text)
    last = cut and reading is not None and reading.how in _LAST and len(text.split()) > 1
    return None if last else reading


def read_answer(
    text: str, named: str | None, otherwise: AnswerKind, *, cut: bool = False
) -> str | None:
    """The answer alone; see `reading_of`."""
    reading = reading_of(text, named, otherwise, cut=cut)
    return None if reading is None else reading.answer


def is_right(kind: AnswerKind, answer: str | None, reference: str | None) -> bool:
    r"""Whether an answer is the reference, which may be a worked solution that states one.

    >>> is_right(answer_kind("number"), "0.5", "Half of 1 is 1/2.\n#### 1/2")
    True
    """
    if answer is None or reference is None:
        return False
    stated = kind.read(reference) if any(mark in reference for mark in _WORKED) else None
    expected = kind.canonical(reference) if stated is None else stated.answer
    if expected is not None and _PAIR.fullmatch(reference) and kind.name == "auto":
        return kind.same(answer, expected) or kind.same(answer, reference.replace(",", ", "))
    return expected is not None and kind.same(answer, expected)


def right_answers(reference: Any) -> list[str]:
    """The answers that a reference calls right: itself, or the entries of a list.

    lm-evaluation-harness writes a list as Python spells it.

    >>> right_answers("['5', 'five']"), right_answers("[0, 5)"), right_answers(5)
    (['5', 'five'], ['[0, 5)'], ['5'])
    """
    if isinstance(reference, str) and reference.startswith("["):
        try:
            entries = ast.literal_eval(reference)
        except (ValueError, SyntaxError):
            entries = None
        if isinstance(entries, list) and entries and all(isinstance(e, str) for e in entries):
            return entries
    if isinstance(reference, (list, tuple)):
        return [str(entry) for entry in reference]
    return [] if reference is None else [str(reference)]


@lru_cache(65_536)
def is_one_of(kind: AnswerKind, answer: str | None, references: tuple[str, ...]) -> bool:
    """Whether an answer is one of the right ones."""
    return any(is_right(kind, answer, reference) for reference in references)


def first_same(kind: AnswerKind, answer: str, known: Sequence[str]) -> str:
    """The first known answer that an answer is the same as, else the answer itself."""
    if answer in known or all(kind.settled(text) for text in (answer, *known)):
        return answer
    return next((other for other in known if kind.same(other, answer)), answer)


def unread_warning(who: str, attempts: int, read: int, unread: Sequence[str] = ()) -> str | None:
    """What to tell people if less than 80% of someone's attempts could be read; else None.

    `unread` are texts of some that could not.
    """
    if read >= _LEAST_READ * attempts:
        return None
    shown = "".join(f"\n  {text.strip()[-_SHOWN:]!r}" for text in unread[:EXAMPLES])
    return (
        f"{who}: an answer could be read from {read} of {attempts} attempts "
        f"({read / attempts:.0%}); the others count as wrong. Say what answers are (--answers "
        f"{'|'.join(KINDS)}; `allot read FILE --kind KIND` tries it), ask for a form (--prompt), "
        "or let attempts be longer (--max-new-tokens) if they are cut."
        f"{' The ends of some:' if shown else ''}{shown}"
    )
