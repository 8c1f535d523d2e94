"""Choices, short texts and lists in passages."""

from __future__ import annotations

import re
import unicodedata

LONGEST = 100
"""Characters of the longest text that can be an answer."""

_LETTER = re.compile(
    r"""(?:[Tt]he\ )?(?:correct\ )?(?:(?:[Oo]ption|[Cc]hoice|[Ll]etter|[Aa]nswer)\b:?\ ?)?
    (?:[\[({"'](?P<bracketed>[A-Za-z])[\])}"'] | (?P<marked>[A-Z])(?:[.):]|,(?=\ [a-z]))(?!\d|\w)
    | (?P<small>[a-z])\)(?=\s) | (?P<alone>[A-Z])(?=[ ]*(?:\Z|\n|because\b|since\b|as\b)|[*_])
    | (?P<plain>[B-HJ-Z])(?=\ [A-Za-z(]|,) )""",
    re.VERBOSE,
)
_NAMED = re.compile(
    r"(?:[Oo]ption|[Cc]hoice|[Ll]etter|[Aa]nswer)(?: is)?[ :*]{1,4}\(?([A-Z])\b(?! [a-z])"
    r"|\(([A-Z])\)|\*\*\(?([A-Z])[.)]?(?:\*\*| )"
)
_SENTENCE_END = re.compile(r"(?<=\w\w)[.!?]['\"”)]?(?=\s+(?:[A-Z(]|$))|\n")
_QUOTED = re.compile(r"[\"“]([^\"“”\n]{1,60})[.!]?[\"”][.!]?\s*$")
_ARTICLE = re.compile(r"(?:the|an?)\s+(?=\S)")
_EDGES = " \t\n\"'“”‘’`*_.,;:!?"
_YES_NO = re.compile(
    r"(yes|no|true|false)\b(?=[.,!;:\s]|$)(?! (?:one|matter|more)\b)", re.IGNORECASE
)
_SEPARATOR = re.compile(r"\s*[;\n]\s*|\s*,\s*(?:and\s+|or\s+)?|\s+and\s+")
_BULLET = re.compile(r"(?m)^\s*(?:[-*•]|\d{1,3}[.)])\s+")
_BRACKETS = {"[": "]", "(": ")", "{": "}", "<": ">"}


def letter_at_start(passage: str) -> str | None:
    """The choice that a cleaned passage begins with.

    >>> letter_at_start("(b)"), letter_at_start("B. dogs"), letter_at_start("Option C")
    ('B', 'B', 'C')
    >>> letter_at_start("A dog"), letter_at_start("Berlin")
    (None, None)
    """
    passage = passage.strip(" \t\n*_")
    if len(passage.rstrip(".")) == 1 and passage[0].isalpha() and passage.isascii():
        return passage[0].upper()
    found = _LETTER.match(passage)
    return found[found.lastgroup or 0].upper() if found else None


def named_letter(text: str) -> str | None:
    """The only choice that the last line to name one names."""
    for line in reversed(text.splitlines()[-40:]):
        named = {next(filter(None, found)) for found in _NAMED.findall(line)}
        if named:
            return named.pop() if len(named) == 1 else None
    return None


def first_sentence(passage: str) -> str:
    """A cleaned passage up to the end of its first sentence."""
    return _SENTENCE_END.split(passage, maxsplit=1)[0].strip()


def yes_or_no(text: str) -> str | None:
    """A yes, no, true or false that a text begins with."""
    found = _YES_NO.match(text.lstrip(_EDGES))
    return found[1].lower() if found else None


def last_quoted(text: str) -> str | None:
    """What a text ends with, if it stands in quotes.

    >>> last_quoted('The word is spelled backward as "nus".'), last_quoted("It is nus.")
    ('nus', None)
    """
    found = _QUOTED.search(text)
    return short_text(found[1]) if found else None


def short_text(text: str) -> str | None:
    """One spelling of a short text: small letters, no article, quotes or punctuation around.

    >>> short_text('"The  Nile".'), short_text("A"), short_text("Aunt")
    ('nile', 'a', 'aunt')
    """
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_EDGES)
    if len(words) > 2 and words[0] in _BRACKETS and words[-1] == _BRACKETS[words[0]]:
        words = words[1:-1].strip(_EDGES)
    return _ARTICLE.sub("", words, count=1) if _ARTICLE.match(words) else words or None


def items_of(passage: str) -> list[str]:
    r"""The entries of a list: between commas, semicolons, lines or "and", brackets aside.

    >>> items_of("[3, 1, 2]"), items_of("red, green and blue."), items_of("- a b\n- c")
    (['3', '1', '2'], ['red', 'green', 'blue'], ['a b', 'c'])
    """
    passage = passage.strip().rstrip(".").strip()
    while len(passage) > 1 and passage[0] in _BRACKETS and passage[-1] == _BRACKETS[passage[0]]:
        passage = passage[1:-1].strip()
    parts = _SEPARATOR.split(_BULLET.sub("", passage))
    return [part.strip(_EDGES) for part in parts if part.strip(_EDGES)]
