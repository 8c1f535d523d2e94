r"""Where a text states its answer, and the choices, short texts and lists in such passages.

Markers come first, in the order of lm-evaluation-harness's strict filters: `\boxed{...}`,
`<answer>`, `#### ...`, `the answer is ...`. Everything here is linear in the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_LONGEST_TEXT = 1 << 16
"""Characters from the end that are read."""

_LONGEST_PASSAGE = 600
_SHORT_PASSAGE = 80
_TRIES = 8
"""Statements of one kind that are looked at, the last one first."""

_FORMULAS = (("\\[", "\\]"), ("\\(", "\\)"))
_PLAIN_MARKERS = {
    "boxed": re.compile(r"\\boxed\{([^{}]*)\}"),
    "hashes": re.compile(r"####\s*(.+)"),
    "stated": re.compile(r"(?:final answer|answer)\s*(?:is|:)\s*(.+)", re.IGNORECASE),
}
_THOUGHT = "</think>"
_BOXES = ("\\boxed", "\\fbox")
_TAG = re.compile(r"<answer>(.{1,600}?)</answer>", re.IGNORECASE | re.DOTALL)
_STATED = re.compile(
    r"""answers?\b(?:\ key|\ choice)?[\]"'*_`)]{0,6}
    (?:\ \([^()\n]{1,40}\))?
    (?:\ (?:to|for|of|here|in)\b[^\n.:?!=]{0,100}?)?
    \s{0,3}(?:\b(?:is|are|was|would\ be|will\ be|should\ be|must\ be|equals)\b|=|:|→|->|[*_]{0,4}\n)
    (?:\ (?:therefore|thus|then|now|indeed|simply|just|option|choice|letter)\b)*[,:]?""",
    re.IGNORECASE | re.VERBOSE,
)
_SHORT = re.compile(r"(?:^|\n)\W{0,4}ans(?:wer)?\W{1,3}(?=\S)", re.IGNORECASE)
_WRAPPED = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|operatorname|mbox|emph)\s?\{([^{}]*)\}"
)
_FRACTION = re.compile(
    r"(\d?)\\[dtc]?frac\s?(?:\{\s*([^{}]*?)\s*\}\s?\{\s*([^{}]*?)\s*\}|(\d)(\d))"
)
_DOLLARS = re.compile(r"\$\$?(?=\S)([^$\n]{1,200}?)(?<=\S)\$\$?(?!\d)")
_BOLD = re.compile(r"(?<![\w)])[*_]{2,3}|[*_]{2,3}(?![\w(])|`{1,3}")
_FENCE = re.compile(r"^\s{0,3}```\w*[ \t]*$", re.MULTILINE)
_REPLACED = re.compile(
    r"\\[()\[\]]|\\(?:left|right|displaystyle|bf)\b|\{,\}|\\!|\\[,;: ]|\\q?quad\b|\^\{?\\circ\}?"
    r"|\\degree\b|\\(?:times|cdot)\b|\\(?:approx|thickapprox|implies|Rightarrow)\b|\\[$%&#{}]"
    r"|[\u2212\u2010\u2011]|(?<![\w.])[\u2013](?=\d)|[\u00a0\u2009\u202f]|[½¼¾⅓⅔]|<\|[a-z_]{1,20}\|>"
)
_SPELLED = {
    "{,}": ",", "\\!": "", "\\times": "×", "\\cdot": "×", "\\approx": "≈", "\\thickapprox": "≈",
    "\\implies": "=", "\\Rightarrow": "=", "\\degree": "°",
    "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⅓": " 1/3", "⅔": " 2/3",
    "\u2212": "-", "\u2010": "-", "\u2011": "-", "\u2013": "-",
    "\\(": "", "\\)": "", "\\[": "", "\\]": "", "\\left": "", "\\right": "",
}  # fmt: skip

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


def tail(text: str) -> str:
    """The part of a text that can hold its answer: after its thoughts, and not without end."""
    return text.rpartition(_THOUGHT)[2][-_LONGEST_TEXT:]


def is_cut(text: str) -> bool:
    r"""Whether a text ends inside a formula or inside bold words.

    >>> is_cut(r"so \[ 12 + 30 = 4"), is_cut("The answer is **0."), is_cut("It is **42**.")
    (True, True, False)
    """
    if any(text.rfind(opening) > text.rfind(closing) for opening, closing in _FORMULAS):
        return True
    return text[text.rfind("\n") + 1 :].count("**") % 2 == 1


def marked(text: str) -> Iterator[tuple[str, str]]:
    r"""What stands behind markers, and which one it is: the surest and the last ones first.

    >>> list(marked(r"It is \boxed{\frac{1}{2}}. The answer is 0.5."))
    [('boxed', '\\frac{1}{2}'), ('stated', '0.5.')]
    """
    for content in _boxes(text):
        yield "boxed", content
    if "nswer>" in text or "NSWER>" in text:
        for found in _TAG.findall(text)[: -_TRIES - 1 : -1]:
            yield "tagged", found
    for content in _hashed(text):
        yield "hashes", content
    for content in _statements(text[: text.rfind("\n") + 1] if is_cut(text) else text):
        yield "stated", content


def _places(text: str, mark: str) -> Iterator[int]:
    """Where a mark stands, the last places first."""
    at = len(text)
    for _ in range(_TRIES):
        at = text.rfind(mark, 0, at)
        if at < 0:
            return
        yield at


def _boxes(text: str) -> Iterator[str]:
    for box in _BOXES:
        for at in _places(text, box):
            if content := _braced(text, at + len(box)):
                yield content


def _braced(text: str, start: int) -> str | None:
    """What braces that begin there hold; a lone word or number after a space counts too."""
    part = text[start : start + _LONGEST_PASSAGE].lstrip(" ")
    if not part.startswith("{"):
        word = re.match(r"[\w.,/-]{1,40}", part)
        return word and word[0]
    depth = 0
    for at, character in enumerate(part):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return part[1:at].strip()
    return None


def _hashed(text: str) -> Iterator[str]:
    for at in _places(text, "####"):
        line = text[at + 4 : at + 4 + _LONGEST_PASSAGE].partition("\n")[0].strip()
        if line and not text[:at].rpartition("\n")[2].strip(" *"):
            yield line


def _statements(text: str) -> Iterator[str]:
    lowered = text.lower()
    if len(lowered) != len(text):  # a letter that grows when it is made small
        lowered = text
    for at in _places(lowered, "answer"):
        if found := _STATED.match(text, at):
            yield _following(text, found.end())
    for found in list(_SHORT.finditer(text))[: -_TRIES - 1 : -1] if "ns" in lowered else ():
        yield _following(text, found.end())


def _following(text: str, start: int) -> str:
    passage = text[start : start + _LONGEST_PASSAGE].lstrip(" \t\r\n*_:`")
    return passage.partition("\n\n")[0] if len(passage) > _SHORT_PASSAGE else passage


def cleaned(passage: str) -> str:
    r"""A passage without markup: LaTeX, Markdown and odd spaces in plain characters.

    >>> cleaned(r"**\( 2\frac{1}{4} \text{ cm} \)**"), cleaned(r"$72$"), cleaned(r"\$72")
    ('2 1/4  cm', '72', '$72')
    """
    if len(passage) > 2 * _LONGEST_PASSAGE:
        return passage.strip()
    if "\\" in passage:
        for _ in range(3):
            passage, count = _WRAPPED.subn(r"\1", passage)
            if not count:
                break
        passage = _FRACTION.sub(_fraction, passage)
    if "```" in passage:
        passage = _FENCE.sub("", passage)
    if "$" in passage:
        passage = _DOLLARS.sub(r"\1", passage)
    if "\\" in passage or "<|" in passage or "{,}" in passage or not passage.isascii():
        passage = _REPLACED.sub(_spelled, passage)
    if "**" in passage or "__" in passage or "`" in passage:
        passage = _BOLD.sub("", passage)
    return passage.strip()


def _fraction(found: re.Match[str]) -> str:
    whole, above, below = found[1], found[2] or found[4], found[3] or found[5]
    if not (above and below and above.isdecimal() and below.isdecimal()):
        return found[0]
    return f"{whole} {above}/{below}" if whole else f"{above}/{below}"


def _spelled(found: re.Match[str]) -> str:
    text = found[0]
    if text in _SPELLED:
        return _SPELLED[text]
    if "circ" in text:
        return "°"
    return text[1] if text[0] == "\\" and text[1] in "$%&#{}" else " " if text[0] != "<" else ""


def extract_answer(text: str) -> tuple[str, str] | None:
    r"""The answer stated in a text and its marker, or None.

    The last statement wins, in this order of preference: `\boxed{...}`, `#### ...`,
    `Answer: ...` or `the answer is ...`.

    >>> extract_answer("4-1=3\n3-7=-4\nAnswer: -4")
    ('-4', 'stated')
    >>> extract_answer("no idea") is None
    True
    """
    for how, marker in _PLAIN_MARKERS.items():
        found = marker.findall(text)
        if found:
            answer = found[-1].strip().rstrip(".").strip()
            return (answer, how) if answer else None
    return None


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
