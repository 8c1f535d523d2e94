"""Short texts and lists: one spelling for each."""

from __future__ import annotations

import re
import unicodedata

LONGEST = 100
"""Characters of the longest text that can be an answer."""

EDGES = " \t\n\"'“”‘’`*_.,;:!?"

_ABBREVIATED = r"(?<!\b(?:Dr|Mr|Ms|St|Mt|Ft|Jr|Sr|vs))(?<!\b(?:Mrs|Gen|Sen|Rep))(?<!\bProf)"
_SENTENCE_END = re.compile(
    rf"(?:(?<=\w\w)|(?<=[\d)%°\]$€£”\"])){_ABBREVIATED}[.!?]['\"”)]?(?=\s+(?:[A-Z(“\"]|$))|\n"
)
_REASON = re.compile(r"\s(?:because|since)\s")
_QUOTED = re.compile(r"[\"“]([^\"“”\n]{1,60})[.!]?[\"”][.!]?\s*$")
_ARTICLE = re.compile(r"(?:the|an?)\s+(?=\w)")
_BULLET = re.compile(r"(?m)^\s*(?:[-*•]|\d{1,3}[.)])\s+")
_BRACKETS = {"[": "]", "(": ")", "{": "}", "<": ">"}
_SEPARATOR = re.compile(r"[;\n]|,|\s(?:and|or|&|und|et|и)\s|\s[ye]\s(?=-?\d)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
EMPTY = ("[]", "{}", "()", "∅", "\\{\\}")


def first_sentence(passage: str) -> str:
    """A cleaned passage up to the end of its first sentence."""
    return _SENTENCE_END.split(passage, maxsplit=1)[0].strip()


def without_reason(sentence: str) -> str:
    """A sentence up to its "because"."""
    return _REASON.split(sentence, maxsplit=1)[0]


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
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(EDGES)
    if len(words) > 2 and _encloses(words):
        words = words[1:-1].strip(EDGES)
    return _ARTICLE.sub("", words, count=1) if _ARTICLE.match(words) else words or None


def items_of(passage: str) -> list[str]:
    r"""The entries of a list: between commas, semicolons, lines or "and", brackets aside.

    Brackets inside an entry hold it together; a list whose brackets do not match has no entries.

    >>> items_of("[3, 1, 2]"), items_of("red, green and blue."), items_of("- a b\n- c")
    (['3', '1', '2'], ['red', 'green', 'blue'], ['a b', 'c'])
    >>> items_of("[(1, 2), (3, 4)]"), items_of("[1, 2"), items_of("1,000; 2,000")
    (['(1, 2)', '(3, 4)'], [], ['1,000', '2,000'])
    """
    passage = _BULLET.sub("", passage.strip().rstrip(".").strip())
    while len(passage) > 1 and _encloses(passage):
        passage = passage[1:-1].strip()
    depths = _depths(passage)
    if depths is None:
        return []
    marks = [found for found in _SEPARATOR.finditer(passage) if not depths[found.start()]]
    strong = any(
        found[0] in ";\n" or passage[found.end() : found.end() + 1] == " " for found in marks
    )
    if strong:
        grouped = {found.start() for found in _THOUSANDS.finditer(passage)}
        marks = [found for found in marks if found.start() not in grouped]
    starts = [0, *(found.end() for found in marks)]
    ends = [*(found.start() for found in marks), len(passage)]
    parts = [passage[a:b].strip() for a, b in zip(starts, ends, strict=True)]
    parts = [re.sub(r"^(?:and|or)\s+", "", part).strip(EDGES) for part in parts]
    return [part for part in parts if part]


def _encloses(passage: str) -> bool:
    """Whether a passage stands in one pair of brackets."""
    if _BRACKETS.get(passage[0]) != passage[-1]:
        return False
    if passage[0] == "<":
        return passage.count("<") == 1
    depths = _depths(passage)
    return depths is not None and min(depths[:-1]) >= 1


def _depths(passage: str) -> list[int] | None:
    """How many brackets are open at each character, itself counted; None if they do not match."""
    depths, open_brackets = list[int](), list[str]()
    for character in passage:
        if character in "[({":
            open_brackets.append(_BRACKETS[character])
        depths.append(len(open_brackets))
        if character in "])}" and (not open_brackets or open_brackets.pop() != character):
            return None
    return None if open_brackets else depths
