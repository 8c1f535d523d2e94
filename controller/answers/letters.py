"""Choices: which letter, or which of yes, no, true and false, a passage names."""

from __future__ import annotations

import re

from controller.answers.phrases import EDGES

_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_RIGHT = r"(?:the\ |also\ |clearly\ )?(?:correct|right|true|best|answer|most)\b"
_LETTER = re.compile(
    rf"""(?:(?:the|so|therefore|thus|hence),?\ )?(?:correct\ )?
    (?:(?:option|choice|letter|answer)\b:?\ ?)?
    (?:[\[({{"'](?P<bracketed>[A-Za-z])[.]?[\])}}"'](?![\w*])
    | (?-i:(?P<marked>[A-Z])\s?[.):](?=\s|\Z|[A-Za-z*]{{3}}|[,.]))
    | (?-i:(?P<dashed>[A-HJ-Z])(?:\ [–—-]|,)(?=\ \w{{2}}))
    | (?-i:(?P<small>[a-z])[.)](?=\s|[.,]?\Z))
    | (?-i:(?P<alone>[A-Z])(?=[ ]*(?:\Z|\n|because\b|since\b|as\b|[.,;!]\s|[.,;!]\Z)|[*_]))
    | (?-i:(?P<plain>[B-HJ-Z])(?=\ [A-Za-z(]|,|\s[{_IDEOGRAPHS}]))
    | (?-i:(?P<judged>[A-Z])(?=\ (?:is|was|would\ be|must\ be)\ {_RIGHT})))
    (?!\ (?:is|was|are)\ (?:not|wrong|incorrect|false|ruled)\b)""",
    re.VERBOSE | re.IGNORECASE,
)
_FURTHER = re.compile(
    r"[\s*_)\]}.\"':]{0,6}(?:,|/|&|\+|\b(?:and|or|und|oder|et|ou|y|o)\b)[\s*_(\[\"']{0,6}"
    r"(?:(?:and|or|option|choice)\s\(?)?(?:[A-Z]|(?<=\()[a-z])(?![\w'’])"
    r"(?! (?!(?:and|or|und|et|y)\b)[a-z])"
)
_FIRST = re.compile(r"[\s\W]{0,4}(?:[A-Z]|(?<=\()[a-z])(?!\w)")
_NAMED = (
    re.compile(
        r"(?i:option|choice|letter|answer|alternativa|opción|antwort)(?: is)?[ :*]{1,4}\(?"
        r"([A-Z])(?![\w'’/&-])(?! (?!is\b|ist\b|es\b|est\b)[a-z])"
        r"|\(([A-Z])\)|\*\*\(?([A-Z])[.)]?(?:\*\*| )"
        r"|[选選](?:择|擇)?\s?[:：]?\s?\(?([A-Z])(?![A-Za-z])"
    ),
    re.compile(
        rf"(?<![\w'’])\(?([A-HJ-Z])[).:]?(?:\ [^.\n]{{1,60}}?)?"
        rf"\ (?:is|seems|must\ be|would\ be)\ {_RIGHT}",
        re.VERBOSE,
    ),
    re.compile(
        r"\b(?i:therefore|thus|hence|so|is|it's|be|with|for|choose|pick|select|definitely|probably)"
        r",?[ *]{1,3}\(?([A-HJ-Z])\)?\**[.!]?\s*$"
    ),
)
_YES_NO = re.compile(
    r"(yes|no|true|false)\b(?=[.,!;:\s–—-]|$)"
    r"(?!\.? (?:one|matter|more|idea|answer|solution|information|way|such|need|problem|doubt)\b)"
    r"(?!\.? \d)",
    re.IGNORECASE,
)


def letter_at_start(passage: str) -> str | None:
    """The choice that a cleaned passage begins with; None if it names several.

    >>> letter_at_start("(b)"), letter_at_start("B. dogs"), letter_at_start("Option C")
    ('B', 'B', 'C')
    >>> letter_at_start("A dog"), letter_at_start("Berlin"), letter_at_start("B or C")
    (None, None, None)
    """
    passage = passage.strip(" \t\n*_")
    if len(passage.rstrip(".)")) == 1 and passage[0].isalpha() and passage.isascii():
        return passage[0].upper()
    found = _LETTER.match(passage)
    if not found or names_several(passage[max(0, found.start(found.lastgroup or 0) - 1) :]):
        return None
    return str(found[found.lastgroup or 0]).upper()


def names_several(passage: str) -> bool:
    """Whether a cleaned passage begins with several choices."""
    found = _FIRST.match(passage)
    return found is not None and _FURTHER.match(passage, found.end()) is not None


def named_letter(text: str) -> str | None:
    r"""The only choice that the last line to name one names.

    >>> named_letter("I'd go with C."), named_letter("B is wrong.\\nOption C is correct.")
    ('C', 'C')
    """
    for line in reversed(text.splitlines()[-40:]):
        for pattern in reversed(_NAMED[1:]):
            judged: set[str] = set(pattern.findall(line))
            if len(judged) == 1:
                return judged.pop()
        named: set[str] = {next(filter(None, found)) for found in _NAMED[0].findall(line)}
        if named:
            return named.pop() if len(named) == 1 else None
    return None


def yes_or_no(text: str) -> str | None:
    """A yes, no, true or false that a text begins with."""
    found = _YES_NO.match(text.lstrip(EDGES))
    return found[1].lower() if found else None
