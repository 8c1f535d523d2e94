"""Kinds of answers: how each is read from a text, spelled, and compared."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from controller.answers.numbers import (
    last_number,
    normalize_answer,
    number_at_start,
    number_in,
    same_value,
)
from controller.answers.passages import (
    LONGEST,
    cleaned,
    extract_answer,
    first_sentence,
    is_cut,
    items_of,
    last_quoted,
    letter_at_start,
    marked,
    named_letter,
    short_text,
    tail,
    yes_or_no,
)
from controller.errors import ConfigError

_SETTLED = re.compile(r"-?\d+(?:\.\d+|/\d+)?")
_EXPRESSION = re.compile(
    r"(?:[-+*×·/^_(){}=.!|\d\s√π]|\\(?:sqrt|pi|frac|cdot|times|div|infty|ln|log|sin|cos|tan|left|right)"
    r"|[a-zA-Z](?![a-zA-Z]))+"
)
_MATHS = re.compile(r"\\|\^|\d\s*[+*×√π]|[+*×√]\s*[\d(]|[-/]\s*[a-z]|[a-z]\s*[-/+]|\d\s?[a-z]$")
_VERB = re.compile(r"\b(?:is|are|was|were|has|have|equals)\b", re.IGNORECASE)
_DIGIT_RUNS = re.compile(r"\d[\d.,/ ]*")
_LOOSE = 600
"""Characters from the end that are read without a marker."""
_SHORT_LINE = 60


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was read.

    Attributes:
        answer: in the spelling under which equal answers are equal.
        how: the rule that applied: boxed, tagged, hashes, stated; less surely bare,
            first_letter, named_letter, first_word, quoted, last_number.
    """

    answer: str
    how: str


class AnswerKind(ABC):
    """What counts as an answer, and which answers are equal: those of one spelling.

    Attributes:
        name: as people choose it.
    """

    name: str

    @abstractmethod
    def read(self, text: str) -> Reading | None:
        """The answer that a text states, None if none can be read."""

    def canonical(self, answer: str) -> str | None:
        """The spelling of an answer or reference; None for one without content."""
        return " ".join(answer.split()) or None

    def same(self, one: str, other: str) -> bool:
        """Whether two answers are equal.

        Raises:
            ConfigError: comparing them needs a package that is not installed.
        """
        return self.canonical(one) == self.canonical(other)

    def settled(self, answer: str) -> bool:
        """Whether an answer, in its spelling, equals another settled one only if spelled so."""
        return True


class Exact(AnswerKind):
    """As stated after a marker; plain numbers by value. The kind of the bundled tasks."""

    name = "exact"

    def read(self, text: str) -> Reading | None:
        """See `AnswerKind.read`."""
        found = extract_answer(text)
        answer = self.canonical(found[0]) if found else None
        return Reading(answer=answer, how=found[1]) if found and answer else None

    def canonical(self, answer: str) -> str | None:
        """See `AnswerKind.canonical`."""
        return normalize_answer(answer)


class Whole(AnswerKind):
    """The whole text, for open questions."""

    name = "whole"

    def read(self, text: str) -> Reading | None:
        """See `AnswerKind.read`."""
        return Reading(answer=text.strip(), how="whole") if text.strip() else None

    def canonical(self, answer: str) -> str | None:
        """See `AnswerKind.canonical`."""
        return answer.strip() or None


class _Marked(AnswerKind):
    """Kinds that are read behind markers first, and less surely elsewhere."""

    def read(self, text: str) -> Reading | None:
        """See `AnswerKind.read`."""
        text = tail(text)
        for how, passage in marked(text):
            answer = self._passage(passage, how)
            if answer is not None:
                return Reading(answer=answer, how=how)
            if how != "stated":
                return None
        for how, answer in () if is_cut(text) else self._loose(text):
            if answer is not None:
                return Reading(answer=answer, how=how)
        return None

    def canonical(self, answer: str) -> str | None:
        """See `AnswerKind.canonical`; what is too long to be an answer is spelled as it is."""
        return self._spell(answer) if len(answer) <= _LOOSE else super().canonical(answer)

    @abstractmethod
    def _spell(self, answer: str) -> str | None:
        """The spelling of something short."""

    @abstractmethod
    def _passage(self, passage: str, how: str) -> str | None:
        """The answer that a marked passage states."""

    @abstractmethod
    def _loose(self, text: str) -> Iterator[tuple[str, str | None]]:
        """What a text without a marker might state, and how, the surest first."""


class _Valued(_Marked):
    """Kinds whose answers may be expressions, which are equal if their values are."""

    def same(self, one: str, other: str) -> bool:
        """See `AnswerKind.same`."""
        if one == other:
            return True
        one, other = self.canonical(one) or "", self.canonical(other) or ""
        if one == other or not (one and other) or (self.settled(one) and self.settled(other)):
            return one == other
        return same_value(one, other)

    def settled(self, answer: str) -> bool:
        """See `AnswerKind.settled`."""
        return _SETTLED.fullmatch(answer) is not None or not _is_expression(answer)


class Number(_Valued):
    """A number, or what evaluates to one; units, currencies and percent signs are left out."""

    name = "number"

    def _passage(self, passage: str, how: str) -> str | None:
        plain = cleaned(passage)
        sentence = plain if how != "stated" else first_sentence(plain)
        number = number_at_start(plain)
        if number is None:
            number = _expression(passage if how != "stated" else _maths(passage))
        if number is None and how in ("stated", "tagged"):
            number = number_in(sentence)
        return number

    def _loose(self, text: str) -> Iterator[tuple[str, str | None]]:
        if line := _short_line(text):
            yield "bare", _only_number(line) or _expression(text)
        yield "last_number", last_number(cleaned(text[-_LOOSE:]))

    def _spell(self, answer: str) -> str | None:
        plain = cleaned(answer)
        return number_at_start(plain) or _expression(answer) or " ".join(plain.split()) or None


class Letter(_Marked):
    """A letter."""

    name = "choice"

    def _passage(self, passage: str, how: str) -> str | None:
        return letter_at_start(cleaned(passage))

    def _loose(self, text: str) -> Iterator[tuple[str, str | None]]:
        plain = cleaned(text[:LONGEST])
        letter = letter_at_start(plain)
        short = len(text) <= _SHORT_LINE and "\n" not in text.strip()
        yield "bare" if short else "first_letter", letter
        yield "named_letter", named_letter(text[-_LOOSE:])

    def _spell(self, answer: str) -> str | None:
        return letter_at_start(cleaned(answer)) or short_text(cleaned(answer))


class Text(_Marked):
    """A word or a few; case, quotes, final punctuation and a first article do not count."""

    name = "text"

    def _passage(self, passage: str, how: str) -> str | None:
        return _text_of(passage, how)

    def _loose(self, text: str) -> Iterator[tuple[str, str | None]]:
        yield "first_word", yes_or_no(text[:20])
        if (line := _short_line(text)) and _is_phrase(line):
            yield "bare", short_text(line)
        yield "quoted", last_quoted(text[-_LOOSE:])

    def _spell(self, answer: str) -> str | None:
        return short_text(cleaned(answer))


class Several(_Marked):
    """Numbers or short texts, separated by commas, lines or "and".

    Args:
        name: as people choose it.
        ordered: whether their order counts.
    """

    def __init__(self, name: str, *, ordered: bool) -> None:
        self.name, self._ordered = name, ordered

    def _passage(self, passage: str, how: str) -> str | None:
        block = passage.split("\n\n", 1)[0]
        if how == "stated" and not re.match(r"\s*(?:[-*•]|\d{1,3}[.)])\s", block):
            block = first_sentence(block)
        return self.canonical(block)

    def _loose(self, text: str) -> Iterator[tuple[str, str | None]]:
        plain = cleaned(text)
        items = items_of(plain) if len(plain) <= 6 * LONGEST and "\n\n" not in plain else []
        if (
            len(items) > 1
            and not _VERB.search(plain)
            and all(len(item) <= _SHORT_LINE for item in items)
        ):
            yield "bare", self.canonical(plain)

    def _spell(self, answer: str) -> str | None:
        found = [_entry(item) for item in items_of(cleaned(answer))]
        entries = [entry for entry in found if entry]
        return ", ".join(entries if self._ordered else sorted(entries, key=_by_value)) or None


class Auto(_Valued):
    """A number, a choice or a short text: whichever is stated."""

    name = "auto"

    def _passage(self, passage: str, how: str) -> str | None:
        plain = cleaned(passage)
        number = number_at_start(plain) or (None if how == "stated" else _expression(passage))
        letter = None if number else letter_at_start(plain)
        if number or letter:
            return number or letter
        sentence = first_sentence(plain) if how == "stated" else plain
        return (
            (number_in(sentence) if how == "stated" and " " in sentence else None)
            or _numbers_of(sentence)
            or _text_of(passage, how)
        )

    def _loose(self, text: str) -> Iterator[tuple[str, str | None]]:
        if line := _short_line(text):
            yield "bare", self._passage(text, "bare") if _is_phrase(line) else None
        yield "first_word", yes_or_no(text[:20])
        yield "first_letter", letter_at_start(cleaned(text[:LONGEST]))
        yield "named_letter", named_letter(text[-_LOOSE:])
        yield "last_number", last_number(cleaned(text[-_LOOSE:]))

    def _spell(self, answer: str) -> str | None:
        plain = cleaned(answer)
        return (
            number_at_start(plain)
            or _expression(answer)
            or letter_at_start(plain)
            or _numbers_of(plain)
            or short_text(plain)
        )


class Own(AnswerKind):
    """Read by a function of the caller's.

    Args:
        name: `module:function`.
        function: from a text to its answer; None where the caller has not named it.
    """

    def __init__(self, name: str, function: Callable[[str], str | None] | None = None) -> None:
        self.name, self._function = name, function

    def read(self, text: str) -> Reading | None:
        """See `AnswerKind.read`."""
        if self._function is None:
            raise ConfigError(
                f"answers: {self.name} is named by a file, and files do not run code; pass "
                f"--answers {self.name}"
            )
        found = self._function(text)
        answer = None if found is None else self.canonical(found)
        return None if answer is None else Reading(answer=answer, how="own")


def _text_of(passage: str, how: str) -> str | None:
    """The word or few that a marked passage states."""
    plain = cleaned(passage)
    if word := yes_or_no(plain):
        return word
    sentence = first_sentence(plain) if how == "stated" else plain
    return short_text(sentence) if len(sentence) <= LONGEST else None


def _expression(passage: str) -> str | None:
    """A mathematical expression in LaTeX, for math-verify to compare; None for other things."""
    text = passage.strip().strip("$").strip().rstrip(".")
    text = re.sub(r"\\[()\[\]]|\\[,;:! ]|\\(?:text|mathrm)\{[^{}]{0,40}\}", "", text).strip()
    text = re.sub(r"^[a-zA-Z](?:\(\w\))?\s*=\s*", "", text).replace("\\dfrac", "\\frac")
    if not _is_expression(text):
        return None
    return " ".join(text.replace("\\left", "").replace("\\right", "").split())


def _is_expression(text: str) -> bool:
    return (
        len(text) <= 2 * LONGEST
        and _EXPRESSION.fullmatch(text) is not None
        and _MATHS.search(text) is not None
        and text.rstrip()[-1:] not in "+-*/=×^_({"
    )


def _maths(passage: str) -> str:
    r"""The formula that a passage begins with, or its first words."""
    found = re.match(
        r"\s*(?:\$\$?([^$]{1,200})\$|\\[(\[]([^\\]{0,200}(?:\\[a-zA-Z][^\\]{0,200}){0,20})\\[)\]])",
        passage,
    )
    return (found[1] or found[2] or "") if found else first_sentence(passage)


def _short_line(text: str) -> str:
    """A text, cleaned, if that is one short line; else nothing."""
    plain = cleaned(text) if len(text) <= 2 * LONGEST else ""
    return plain if len(plain) <= _SHORT_LINE and "\n" not in plain else ""


def _is_phrase(plain: str) -> bool:
    return len(plain.split()) <= 8 and not _VERB.search(plain)


def _only_number(plain: str) -> str | None:
    """The number that a line begins with, if there is no other."""
    right = plain.rpartition("=")[2]
    return (
        number_at_start(plain) if len(_DIGIT_RUNS.findall(right)) <= 1 or " " not in right else None
    )


def _numbers_of(plain: str) -> str | None:
    """Several numbers in one spelling."""
    parts = items_of(plain) if any(c.isdigit() for c in plain) else []
    numbers = [number_at_start(part) for part in parts]
    known = [number for number in numbers if number]
    return ", ".join(known) if len(known) == len(parts) > 1 else None


def _entry(item: str) -> str | None:
    return number_at_start(item) or short_text(item)


def _by_value(entry: str) -> tuple[bool, Fraction, str]:
    is_number = number_at_start(entry) == entry
    return not is_number, Fraction(entry) if is_number else Fraction(0), entry
