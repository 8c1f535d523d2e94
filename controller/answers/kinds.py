"""Kinds of answers: how each is read from a text, spelled, and compared."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from controller.answers.expressions import expression, is_expression, same_value
from controller.answers.numbers import SEVERAL, normalize_answer, number_at_start, only_number
from controller.answers.passages import (
    CONCLUDES,
    NO_ANSWER,
    before_next,
    extract_answer,
    is_cut,
    last_number,
    marked,
    number_in,
    tail,
)
from controller.answers.phrases import (
    EMPTY,
    LONGEST,
    OPTION,
    cleaned,
    first_sentence,
    items_of,
    judged_letter,
    last_quoted,
    letter_at_start,
    named_letter,
    names_several,
    short_text,
    without_reason,
    yes_or_no,
)
from controller.errors import ConfigError

_SETTLED = re.compile(r"-?\d+(?:\.\d+|/\d+)?")
_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|equals|let|cannot|does|did|returns|ist|sind|est|sont|è|sono|são|\w+n['’]t)\b"
    r"|\b(?:it|that)['’]s\b|\b(?:would|will) be\b"
    r"|^\W*(?:so|therefore|thus|hence|i|we|she|he|they|you|it|there|here)\b(?!\W*\Z)",
    re.IGNORECASE,
)
_BULLET = re.compile(r"\s*(?:[-*•>]|\d{1,3}[.)])\s+(?=\S)")
_ENUMERATED = re.compile(r"\s*\d{1,3}[.)]\s")
_ASSIGNS = re.compile(r"([a-zA-Z]|\([a-z](?:,\s?[a-z])+\))\w{0,12}\s?[=∈]\s?(?=\S)")
_LISTED = re.compile(
    r"(?:((?:\A|[.!?]\s)(?:(?:So|Thus|Therefore),? )?[Tt]he(?: [\w-]+){1,5}?"
    r" (?:are|(?<=order )is|(?<=list )is)"
    r"|(?:\A|[.!?]\s)(?:Les|Die|Los|Las|Le|I|Os|As)(?: [\w-]+){1,5}? (?:sont|sind|son|sono|são))"
    r"|\b(?:is|are|be|∈)\b)(?: at)?:?\s+(?=\S)|:\s+(?=\S)"
    r"|(?<=[\u3040-\u9fff]):\s?(?=\S)"
)
_WITHIN = re.compile(r"[^(),]+")
_ROUND = str.maketrans("[]{}", "()()")
_LABEL = re.compile(r"(?!.*\bexcept\b)[^\d:=→?]{2,40}[:=→]\s*(\S.{0,30})")
_NO_BUT = re.compile(r"no,? (?:it|that)(?:['’]s| is) (-?[$€£]?\d\S*|[A-Z])", re.IGNORECASE)
"""A correction, rather than a no with its reason."""
_SPOKEN = re.compile(
    r"(?:\S+\ ){2,}.*[^\d\s][.!]|(?:\S+\ ){3,}.*[.!]|.*[\u3040-\u9fff\uac00-\ud7af].*[.!]",
    re.VERBOSE,
)
"""A sentence, rather than a name with a number such as "World War 2"."""
_LOOSE = 600
"""Characters from the end that are read without a marker."""
_SHORT_LINE = 60
_CALLED = re.compile(
    r"(?:\A|\n)(?:final |[\w-]+ )?(?:sentiment|label|category|class|verdict|conclusion|result"
    r"|output|a|prediction|intent|topic|emotion|language|winner|name|author|date|day|order|list|interval"
    r"|domain|range):\s+(\S.{0,60})\Z"
    r"|(?:\A|[.!?\n])(?:(?!\b(?:not|never|no)\b|n['’]t\b)[^.!?\n])*"
    r"\b(?:is|are):?\s+(true|false|valid|invalid)[.!]?\Z"
    r"|(?:\A|[.!?\n])\s*(?:so|therefore|thus|hence),?\s(yes|no|true|false)(?:\Z|[.!]\Z|,[^.\n]*\.\Z)",
    re.IGNORECASE,
)
_IS_BOLD = re.compile(
    r"(?i)(?<!\*)\bthe\b[^.\n]*\s(?:is|are|was|were) \*\*[^*\n]{1,60}\*\*"
    r"(?![^.,;:(–—\n]*\w)"
)
_SAID = re.compile(
    r"(?:The|It|This|That|He|She|De[rn]|Die|Das|L[aeo'’]|El|Il)(?![a-z])"
    r"(?:(?!\b(?:not|nicht|non?|pas)\b|n['’]t\b)[^.;]){0,90}"
    r"\s(?:is|are|was|were|ist|war|est|es|è)\s(?:at |(?:\w+(?:ed|en|ng) )(?:by|in) )?"
    r"(?=(?:the )?[A-Z\"“]|\d{1,4}[/-]\d\d?[/-]\d\d|\d+:\d+)((?:[^,;]|,(?= \d{4}\Z)){1,60})"
)
_TOLD = re.compile(r"The\s(?:\S+\s){3,}.*\d.*\.")
"""A sentence with a number in it."""
_FORMULA = re.compile(
    r"(?:\b(?:is|are|equals|gives|be|is at)|:)\s+(?:\*\*)?"
    r"(?:\$\$?([^$\n]{1,200})\$\$?|\\\((.{1,200}?)\\\))(?:\*\*)?(?:\s(?!and\b|or\b)[a-z]{1,12}[²³]?){0,2}[.!]?\s*\Z"
)
_PARTS = re.compile(
    r"(?m)^\W*(?:\(?a\)|part (?:a|1)\b)(?:.|\n)*^\W*(?:\(?[b-f]\)|part [b-f2-6]\b)[^\n]*\w[^\n]*\Z",
    re.IGNORECASE,
)
_TO_PART = re.compile(
    r"answers? (?:to|for|of) (?:the )?(first|second|third|last|(?:part|question|problem) \(?\w)"
)
_TITLE = re.compile(r"\A#{1,6} .*\n\s*(?=\S)")
_BLOCK = re.compile(
    r":\s*\n\s*((?:(?:[-*•]|\d{1,3}[.)])\s[^\n,]+(?:\n|\Z)){2,}|\[[^\n]*\]\s*(?:\n|\Z)|[^\n,;:=(]+,[^\n;:=(]+\Z)"
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was read.

    Attributes:
        answer: in the spelling under which equal answers are equal.
        how: the rule that applied: boxed, tagged, hashes, stated; less surely bare,
            first_number, first_letter, named_letter, first_word, quoted, listed, last_number.
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
        before = before_next(text)
        if before != text and (line := _short_line(before)) and not _NO_NAME.search(line):
            text = before if self._loosely(before) else text
        for how, passage in marked(text):
            if how == "rethought":
                if loose := self._loosely(passage):
                    return loose
                continue
            if how == "stated" and len(set(_TO_PART.findall(text[-_LOOSE:].lower()))) > 1:
                return None
            answer = self._passage(passage, how)
            if answer is not None:
                return Reading(answer=answer, how=how)
            if self._says(passage, how):
                return None
        return None if is_cut(text) else self._loosely(text)

    def _loosely(self, text: str) -> Reading | None:
        found = ((how, answer) for how, answer in self._loose(text) if answer is not None)
        return next((Reading(answer=answer, how=how) for how, answer in found), None)

    def _says(self, passage: str, how: str) -> bool:
        """Whether a passage that could not be read states something, so that no other counts."""
        return how != "stated"

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
        return _SETTLED.fullmatch(answer) is not None or not is_expression(answer)


class Number(_Valued):
    """A number, or what evaluates to one; units, currencies and percent signs are left out."""

    name = "number"

    def _passage(self, passage: str, how: str) -> str | None:
        return _number(passage, how) or (
            number_in(_first(passage)) if how in ("stated", "tagged") else None
        )

    def _says(self, passage: str, how: str) -> bool:
        return how != "stated" or any(character.isdigit() for character in _first(passage))

    def _loose(self, text: str) -> Iterator[tuple[str, str | None]]:
        yield "first_number", _number_first(text)
        if _is_parted(text) or _LINES.search(text):
            return
        if line := _short_line(text):
            yield "bare", only_number(line) or expression(text) or expression(line)
        yield "bare", _last_formula(text)
        yield "last_number", last_number(cleaned(text[-_LOOSE:]))

    def _spell(self, answer: str) -> str | None:
        return _number(answer, "spelled") or " ".join(cleaned(answer).split()) or None


class Letter(_Marked):
    """A letter."""

    name = "choice"

    def _passage(self, passage: str, how: str) -> str | None:
        plain = cleaned(passage)
        return letter_at_start(plain) or named_letter(first_sentence(plain))

    def _says(self, passage: str, how: str) -> bool:
        is_number = passage.lstrip("$ -")[:1].isdigit()  # of the choice that is named elsewhere
        return names_several(cleaned(passage)) or (how != "stated" and not is_number)

    def _loose(self, text: str) -> Iterator[tuple[str, str | None]]:
        plain = cleaned(text[:LONGEST])
        letter = letter_at_start(plain)
        short = len(text) <= _SHORT_LINE and "\n" not in text.strip()
        if names_several(plain) and short:
            return
        ends = cleaned(text[-_LOOSE:])
        if (concluded := _CONCLUDED.search(ends)) and len(OPTION.findall(concluded[1])) < 2:
            yield "bare", letter_at_start(concluded[1])
        if short or not letter or not _is_list_of_choices(text):
            yield "bare" if short else "first_letter", letter
        judged = judged_letter(text)
        yield "named_letter", named_letter(OPTION.sub("", ends) if judged else ends) or judged
        hedged = _HEDGED.search(ends)
        if hedged and len(set(_ALONE.findall(plain))) == 1:
            yield "named_letter", hedged[1]
        bold = text.rstrip().rpartition("\n")[2].startswith("**")
        last = ends.rpartition("\n" if bold else "\n\n")[2]
        yield "named_letter", letter_at_start(last) if len(last) <= len("(B).") else None

    def _spell(self, answer: str) -> str | None:
        return letter_at_start(cleaned(answer)) or short_text(cleaned(answer))


class Text(_Marked):
    """A word or a few; case, quotes, final punctuation and a first article do not count."""

    name = "text"

    def _passage(self, passage: str, how: str) -> str | None:
        return _lines_of(passage) or _text_of(_unbulleted(passage), how)

    def _loose(self, text: str) -> Iterator[tuple[str, str | None]]:
        yield "first_word", yes_or_no(text[:40])
        if said := _called(text):
            yield "bare", short_text(said)
        yield "first_word", _phrase_first(text)
        yield "quoted", _quoted(text)
        yield "bare", _said(text)
        if (line := _short_line(text)) and _is_phrase(line):
            yield "bare", short_text(line)

    def _spell(self, answer: str) -> str | None:
        return short_text(cleaned(answer))


class Several(_Marked):
    """Numbers or short texts, separated by commas, lines or "and"; their order may count."""

    def __init__(self, name: str, *, ordered: bool) -> None:
        self.name, self._ordered = name, ordered

    def _passage(self, passage: str, how: str) -> str | None:
        block = passage.lstrip("\n").split("\n\n", 1)[0]
        plain = cleaned(block)
        if how == "stated" and not passage.startswith("\n") and plain[:1] not in "[({":
            plain = first_sentence(plain)
        return self._spell(plain)

    def _says(self, passage: str, how: str) -> bool:
        return how != "stated" or any(bracket in passage for bracket in "[({")

    def _loose(self, text: str) -> Iterator[tuple[str, str | None]]:
        ends = cleaned(text[-_LOOSE:])
        blocks = _BLOCK.findall(ends)
        if len(blocks) == 1:
            yield "listed", self._short_entries(blocks[0])
        if fenced := _LINES.search(text):
            yield "listed", self._short_entries(fenced[1])
        yield "listed", self._listed(_TO_LAST.sub(": ", ends).rpartition("\n")[2])
        first = cleaned(text.partition("\n\n")[0])
        above = text.strip().partition("\n\n")[0].splitlines()
        bulleted = len(above) > 1 and all(_BULLET.match(f"{line} ") for line in above)
        if first[:1] + first[-1:] == "[]":
            yield "listed", self._spell(first)
        elif bulleted:
            yield "listed", self._short_entries(first)
        plain = _unassigned(cleaned(_TITLE.sub("", text, count=1)))
        if len(plain) <= 6 * LONGEST and "\n\n" not in plain and not _VERB.search(plain):
            items = items_of(plain)
            if plain in EMPTY or (len(items) > 1 and all(map(_is_item, items))):
                yield "bare", self._spell(plain)
        if "\n" not in first and len(first) <= _LOOSE:
            yield "listed", self._listed(first)

    def _short_entries(self, block: str) -> str | None:
        """The list that a block is if all its entries are short."""
        return self._spell(block) if all(map(_is_item, items_of(block))) else None

    def _listed(self, line: str) -> str | None:
        """The list that a line ends with, after "are" or a colon, or that it calls correct."""
        right = _ARE_RIGHT.match(line)
        items = items_of(right[1]) if right else []
        if right and len(items) > 1 and all(len(item.split()) == 1 for item in items):
            return self._spell(right[1])
        for found in reversed(list(_LISTED.finditer(line))):
            block = _unassigned(first_sentence(line[found.end() :]).rstrip("."))
            items = items_of(block)
            if len(items) > 1:
                named = ":" in found[0] or (found[1] and (len(items) > 2 or " and " in block))
                sure = block[0] in "[({" or all(map(only_number, items))
                said = any(_VERB.search(item) or not _is_item(item) for item in items)
                return self._spell(block) if sure or (named and not said) else None
        return None

    def _spell(self, answer: str) -> str | None:
        plain = cleaned(answer)
        if plain.rstrip(".") in EMPTY:
            return EMPTY[0]
        entries = _entries(plain)
        return ", ".join(entries if self._ordered else sorted(entries, key=_by_value)) or None


class Auto(_Valued):
    """A number, a choice, a short text or a list: whichever is stated."""

    name = "auto"

    def _passage(self, passage: str, how: str) -> str | None:
        if lines := _lines_of(passage):
            return lines
        sentence = _first(passage) if how == "stated" else cleaned(passage)
        lettered = _LETTERED.match(cleaned(passage))
        number = None if lettered else _number(passage, how, expressions=how != "stated")
        letter = None if number else letter_at_start(cleaned(passage))
        told_of = how == "stated" and _OPTION.match(sentence)
        letter = letter or (named_letter(sentence) if lettered or told_of else None)
        if number or letter:
            return number or letter
        said = how == "stated" or (how == "tagged" and _VERB.search(sentence))
        spoken = said and " " in sentence and not _UNREAD_NUMBER.match(sentence)
        told = without_reason(sentence)
        named = told != sentence and _NAME.fullmatch(told) and not _VERB.search(told)
        if spoken and (instead := _NO_BUT.fullmatch(sentence)):
            return only_number(instead[1]) or letter_at_start(instead[1]) or "no"
        return (
            (yes_or_no(sentence) or (None if named else number_in(sentence)) if spoken else None)
            or _numbers_of(sentence)
            or _text_of(_unbulleted(passage), how)
        )

    def _loose(self, text: str) -> Iterator[tuple[str, str | None]]:
        line = _short_line(text)
        yield "first_number", _number_first(text)
        if _is_parted(text) or _LINES.search(text):
            return
        if line:
            yield "bare", only_number(line) or _labelled(line)
        if not named_letter(cleaned(text[-_LOOSE:])) and (said := _called(text)):
            yield "bare", self._passage(said, "bare")
        if line and _is_phrase(line):
            yield "last_number", last_number(line) if _SPOKEN.fullmatch(line) else None
            yield "named_letter", named_letter(line)
            yield "bare", self._passage(text, "bare")
        yield "first_word", yes_or_no(text[:40])
        yield from _CHOICE._loose(text)
        yield "bare", _last_formula(text)
        yield "last_number", last_number(cleaned(text[-_LOOSE:]))
        yield "bare", _last_relation(text)
        yield "quoted", _quoted(text)
        yield "bare", _said(text)
        if not _is_list_of_choices(text):
            yield from (told for told in _LIST._loose(text) if told[0] == "listed")

    def _spell(self, answer: str) -> str | None:
        plain = cleaned(answer)
        return (
            _number(answer, "spelled")
            or letter_at_start(plain)
            or _numbers_of(plain)
            or short_text(plain)
        )


_CHOICE, _LIST = Letter(), Several("list", ordered=True)
_CONCLUDED = re.compile(r"\b(?:is|be):\s*\n\s*((?:\S|[ \t]|\n(?!\n))+)\Z")
_NAME = re.compile(r"[^\W\d_a-z][^\W\d]*(?: [^\W\d]+){0,3}")
_UNREAD_NUMBER = re.compile(r"[^\w\s]{0,3}\d")
_LETTERED = re.compile(r"\([A-H]\)\s+\S|[^()\n]{1,30}\ \([A-H]\)[.*]*(?:\n|\Z)")
_OPTION = re.compile(r"(?i)not |.*\b(?:option|choice|statement) |.* is \([A-J]\)")
_HEDGED = re.compile(r"\b(?:might|could|may) be (?:option |choice )?\(?([A-HJ-Z])\)?[.!]?\s*\Z")
_ALONE = re.compile(r"(?<![\w'’])[B-HJ-Z](?![\w'’])|\bA\b(?! [a-z])")


class Own(AnswerKind):
    """Read by a function of the caller's, `module:function`; None where only a file names it."""

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


def _lines_of(passage: str) -> str | None:
    """The short entries of a list below a marker, an entry in each of its lines."""
    block = passage.lstrip("\n").partition("\n\n")[0].splitlines() if passage[:1] == "\n" else []
    items = items_of(cleaned("\n".join(block))) if len(block) > 1 else []
    listed = all(map(_BULLET.match, block)) and len(items) == len(block)
    named = listed and not any(not _is_item(item) or _VERB.search(item) for item in items)
    return short_text(", ".join(items)) if named else None


def _unbulleted(passage: str) -> str:
    """A passage without the bullet of its first line, if it begins on a new line."""
    bullet = _BULLET.match(passage) if passage.startswith("\n") else None
    return passage[bullet.end() :] if bullet else passage


def _first(passage: str) -> str:
    """The first sentence of a passage, cleaned."""
    return first_sentence(cleaned(_unbulleted(passage)))


def _number(passage: str, how: str, *, expressions: bool = True) -> str | None:
    """The number or expression that a marked passage begins with."""
    is_stated = how == "stated"
    plain = _first(passage) if is_stated else cleaned(passage)
    if exact := _exact(_maths(passage) if is_stated else passage):
        return exact
    is_factorial = not is_stated and "!" in plain
    number = None if is_factorial else number_at_start(plain)
    if number is not None or not expressions:
        return number
    return expression(_maths(passage) if is_stated else passage) or expression(plain)


def _exact(passage: str) -> str | None:
    """What is rounded in a passage, "25π ≈ 78.54", if no number is: a root, a logarithm, π."""
    left, rounded, _ = passage.replace("\\approx", "≈").partition("≈")
    found = expression(_OF_UNIT.sub("", left.rpartition("=")[2])) if rounded else None
    return found if found and _IRRATIONAL.search(found) else None


_OF_UNIT = re.compile(r"(?:\s|\\[a-z]{4,6}\{)\s?(?:[a-zA-Z]{2,12}|m)[²³}]?(?:\^[23])?\s*\Z")
_IRRATIONAL = re.compile(r"π|√|pi\b|sqrt|\\l(?:n|og)\b|e\^")


def _number_first(text: str) -> str | None:
    """The number that a text gives before it explains it, unless it concludes at its end."""
    plain = _RESULT.sub("", cleaned(text[: 2 * LONGEST]))
    line, sentence = plain.partition("\n\n")[0], first_sentence(plain)
    if (
        sentence == plain.rstrip(".!")
        or not (sentence[:1].isdigit() or sentence[:1] in "$€£-")
        or len(sentence.split()) > 4
        or "=" in sentence
        or (len(line) > len(sentence) + 1 and "\n" in line)
        or CONCLUDES.search(_SENTENCES.split(text[-_LOOSE:].strip())[-1])
    ):
        return None
    if _ENUMERATED.match(plain) and ("\n" in text.strip() or plain.startswith("1.")):
        return None
    return only_number(sentence)


_RESULT = re.compile(r"(?i)\A(?:result|output|total|final(?: result)?|a): ")
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n")
_OTHER_FIELD = re.compile(
    r"(?im)^[^\w\n]{0,9}(?!reas|expl|conf|just|note|rat)[a-z ]{1,20}:[^\w\n]{0,9}\s\w"
)
_TO_LAST = re.compile(r":\s*\n\s*(?=[^\n]*\Z)")
_LINES = re.compile(r"```\w*\n((?:[^\n`=():;,]{1,60}\n){2,40})```\s*\Z")
_ARE_RIGHT = re.compile(
    r"(?:\A|.*[.:]\s)([^.:]{3,60}?) are (?:all |both )?(?:correct|right|true)\b"
)
_BECAUSE = re.compile(r"(?i)(?:he|she|it|they|explanation|reason\w*|because|here['’]s why)\b")
_NO_NAME = re.compile(
    r"(?i)\b(?:analysis|solution|explanation|reasoning|summary|step|question|let|sure|ok|okay|great"
    r"|certainly|absolutely|alright|right|good|hm+|well|maybe|perhaps|unclear|say)\b|[:?!]\Z|\A\d+[.)]"
)


def _phrase_first(text: str) -> str | None:
    """The name that a text gives before it says why."""
    plain = cleaned(text[: 2 * LONGEST])
    phrase = first_sentence(plain)
    rest = plain[len(phrase) :].lstrip(" .\n").casefold()
    says_why = _BECAUSE.match(rest) or (rest and rest.startswith(phrase.casefold()))
    is_name = _is_phrase(phrase) and len(phrase.split()) <= 5 and not _NO_NAME.search(phrase)
    return short_text(phrase) if says_why and is_name else None


def _text_of(passage: str, how: str) -> str | None:
    """The word or few that a marked passage states."""
    plain = cleaned(passage)
    if word := yes_or_no(plain):
        return word
    if plain.startswith('{"'):
        return None
    sentence = without_reason(first_sentence(plain)) if how == "stated" else plain
    if said := _SAID.fullmatch(sentence) or (how == "stated" and _CALLED.search(sentence)):
        sentence = said[said.lastindex or 0]
    return short_text(sentence) if len(sentence) <= LONGEST else None


def _said(text: str) -> str | None:
    """The name that something is, as a lone sentence says, or a last one with "so" before it."""
    *before, last = _SENTENCES.split(text[-_LOOSE:].strip())
    sentence = _IT_IS.sub(r"\1 is", cleaned(_SO.sub("", last)).rstrip(".!"))
    sentence = without_reason(_ASIDE.sub("", sentence[:1].upper() + sentence[1:]))
    found = _SAID.fullmatch(sentence)
    if not found or (before and not _SO.match(last)) or sentence.lower().startswith("this "):
        return None
    title = _TITLED.match(found[1])
    said = title[1] if title else _WHO.split(found[1], maxsplit=1)[0]
    return short_text(said) if _is_phrase(said) else None


_SO = re.compile(r"\A(?:So|Thus|Therefore|Hence|I (?:think|believe|guess)(?: that)?),? ")
_ASIDE = re.compile(r", (?:but|though) [^,]*\Z")
_WHO = re.compile(r"\s(?:who|that)\s")
_TITLED = re.compile(r"[\"“]([^\"”]+)[\"”]")
_IT_IS = re.compile(r"(?i)\A(It|That|This|He|She)(?:['’]s| would be)\b")


def _maths(passage: str) -> str:
    r"""The formula that a passage begins with, or its first words."""
    found = re.match(
        r"\s*(?:\$\$?([^$]{1,200})\$|\\[(\[]([^\\]{0,200}(?:\\[a-zA-Z][^\\]{0,200}){0,20})\\[)\]])",
        passage,
    )
    return (found[1] or found[2] or "") if found else first_sentence(passage.lstrip())


def _short_line(text: str) -> str:
    """A text, cleaned, if that is one short line; else nothing."""
    plain = cleaned(text.lstrip("> ")) if len(text) <= 2 * LONGEST else ""
    return plain if len(plain) <= _SHORT_LINE and "\n" not in plain else ""


def _called(text: str) -> str | None:
    """What a text ends with under a name for answers, "label: positive", or calls true or false."""
    first, _, rest = text.partition("\n")
    first = "" if _OTHER_FIELD.search(rest) else first
    parts = (_SUBJECT.sub("it", part) for part in (text[-_LOOSE:], first[:_LOOSE]))
    told = (_CALLED.search(cleaned(part)) for part in parts)
    for is_first, found in enumerate(told):
        said = found and found[found.lastindex or 0]
        if said and _is_phrase(said) and not (is_first and any(map(str.isdigit, said))):
            return said
    return None


def _quoted(text: str) -> str | None:
    """What a text ends with in quotes or bold; or the only bold words, if its start says "is"."""
    bold = _IS_BOLD.search(text.partition("\n\n")[0]) if text.count("**") == 2 else None
    said = last_quoted(text[-_LOOSE:]) or (last_quoted(text[: bold.end()]) if bold else None)
    return None if said and len(said.split()) > 4 and _IS.search(said) else said


_IS = re.compile(r"\b(?:is|are|was|were)\b")
_SUBJECT = re.compile(r"([\"`])[^\"`\n]{1,80}\1(?= is\b)")


def _last_relation(text: str) -> str | None:
    """The same of an interval, an inequality or an equation."""
    found = _FORMULA.search(text[-_LOOSE:])
    told = cleaned(found[1] or found[2]) if found else ""
    return short_text(told) if told[:1] in ("(", "[") or any(c in told for c in "<>≤≥=") else None


def _last_formula(text: str) -> str | None:
    """The formula that the last sentence says something is."""
    found = _FORMULA.search(text[-_LOOSE:])
    told = found and _number(found[1] or found[2], "bare")
    assigned = found and _ASSIGNS.match(found[1] or found[2])
    return told if told and "=" not in told and (assigned or not _SETTLED.fullmatch(told)) else None


def _is_parted(text: str) -> bool:
    """Whether a text ends with the last of several answers, each to a part of the question."""
    return _PARTS.search(text[-_LOOSE:]) is not None


def _is_phrase(plain: str) -> bool:
    """Whether a line can be an answer alone: no sentence, and no marker without one."""
    is_said = (
        _VERB.search(plain) or _TOLD.fullmatch(plain) or NO_ANSWER.search(plain) or "nswer" in plain
    )
    return len(plain.split()) <= 8 and not is_said


def _labelled(line: str) -> str | None:
    """The number, choice, yes or no that a line tells after a word for it in any language."""
    found = None if SEVERAL.search(line) else _LABEL.fullmatch(line)
    if not found:
        return None
    told = found[1]
    letter = letter_at_start(told) if len(told.strip(".()*")) == 1 else None
    return only_number(told) or letter or (yes_or_no(told) if " " not in told else None)


def _is_list_of_choices(text: str) -> bool:
    letters = [letter for letter, _ in OPTION.findall(text[: 4 * _LOOSE])]
    return len(letters) > 1 and letters == sorted(letters)


def _is_item(item: str) -> bool:
    return len(item) <= _SHORT_LINE and len(item.split()) <= 4


def _numbers_of(plain: str) -> str | None:
    """Several numbers in one spelling."""
    plain = _unassigned(plain)
    parts = items_of(plain) if any(c.isdigit() for c in plain) else []
    if any(c.isalpha() or c in "=<>" for c in plain):
        return None
    numbers = [only_number(part) for part in parts]
    known = [number for number in numbers if number]
    return ", ".join(known) if len(known) == len(parts) > 1 else None


def _entries(plain: str) -> list[str]:
    """Entries of a list, each in one spelling; a variable that all are assigned to is left out."""
    items = items_of(_unassigned(plain))
    assigned = [_ASSIGNS.match(item) for item in items]
    if len({found[1] if found else None for found in assigned}) == 1 and None not in assigned:
        items = [item[found.end() :] for item, found in zip(items, assigned, strict=True) if found]
    return [entry for entry in map(_entry, items) if entry]


def _unassigned(plain: str) -> str:
    """A list without the variable that it is assigned to."""
    found = _ASSIGNS.match(plain)
    return plain[found.end() :] if found and "=" not in plain[found.end() :] else plain


def _entry(item: str) -> str | None:
    if item[:1] in "([{" and "," in item:
        inner = _WITHIN.sub(lambda part: _entry(part[0].strip()) or "", item.translate(_ROUND))
        return inner.replace(",", ", ")
    if "=" in item or re.search(r"\d!", item):
        return " ".join(item.casefold().split())
    return only_number(item) or short_text(item)


def _by_value(entry: str) -> tuple[bool, Fraction, str]:
    is_number = _SETTLED.fullmatch(entry) is not None and number_at_start(entry) == entry
    return not is_number, Fraction(entry) if is_number else Fraction(0), entry
