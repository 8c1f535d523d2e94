"""Passages in plain characters: no LaTeX, Markdown or HTML, one sort of digits and signs."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

LONGEST_PASSAGE = 600
"""Characters of the longest passage that is read behind a marker."""

_WRAPPED = re.compile(
    r"\\(?:text\w{0,6}|math\w{2,4}|operatorname|[mh]box|emph|boldsymbol|bm|underline|boxed)"
    r"\s?\{([^{}]*)\}"
)
_COLOURED = re.compile(
    r"\\(?:(?:text)?color|pmod)\s?\{[^{}]{0,20}\}"
    r"|\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge)(?![a-zA-Z])"
)
_PART = r"\{\s*([^{}]*?)\s*\}"
_FRACTION = re.compile(rf"([-+]?)(\d?)\\[dtc]?frac\s?(?:{_PART}\s?{_PART}|(\d)(\d))")
_OF_FRACTION = re.compile(r"(-?)(\d+(?:\.\d+)?)")
_DOLLARS = re.compile(r"(?<!\\)\$\$?(?=\S)((?:[^$\n\\]|\\.){1,200}?)(?<=\S)\$\$?(?!\d)")
_TEX = re.compile(
    r"\\(?:([a-zA-Z]{2,12})(?![a-zA-Z])|([()\[\]!,;: $%&#{}_]))|\{([,.:;=])\}|\^\{?\\circ\}?"
)
_TEX_SPELLED = {
    "left": "", "right": "", "displaystyle": "", "bf": "", "quad": " ", "qquad": " ",
    "degree": "°", "times": "×", "cdot": "×", "div": "÷", "approx": "≈", "thickapprox": "≈",
    "implies": "=", "Rightarrow": "=", "to": "→", "rightarrow": "→", "ge": "≥", "geq": "≥",
    "le": "≤", "leq": "≤", "pm": "±", "mp": "±", "ne": "≠", "neq": "≠", "lt": "<", "gt": ">",
    "in": "∈", "pounds": "£", "euro": "€", "yen": "¥", "therefore": "", "emptyset": "∅",
    "varnothing": "∅",
    "(": "", ")": "", "[": "", "]": "", "!": "", ",": " ", ";": " ", ":": " ", " ": " ",
}  # fmt: skip

_TAGS = re.compile(
    r"<(/?)(b|i|u|em|strong|p|br|hr|span|div|code|pre|h[1-6]|li|ul|ol|t[drh]|table|math|s|eos|font|"
    r"center|mark|ans|answer|final|final_answer|result|end_of_turn|sup)(?:\s[^<>]{0,100})?/?>"
    r"|<\|[a-z_]{1,20}\|>|\[/?INST\]",
    re.IGNORECASE,
)
_LINES = {"p", "br", "hr", "div", "li", "ul", "ol", "tr", "table", "h1", "h2", "h3"}
_BOLD = re.compile(r"(?<![\w)])[*_]{2,3}|[*_]{2,3}(?![\w(])|`{1,3}")
_SLANTED = re.compile(r"(?<![\w*\\)}])([*_])(?=[^\s*_])([^*_\n]{1,100})(?<=\S)\1(?![\w*])")
_STRUCK = re.compile(r"~~[^~\n]{1,200}~~|<<[^<>\n]{1,80}>>(?=\s?[-$\d])")
"""What was crossed out, and the sums that GSM8K's solutions have before their results."""
_HEADING = re.compile(r"^\s{0,3}#{1,6}\s(?=.*\S)", re.MULTILINE)
_AND_A_HALF, _SPACED = re.compile(r"(?<=\d) and an? half\b"), re.compile(r"(?<=\d) / (?=\d)")
_LINKED = re.compile(r"\[([^\[\]\n]{1,100})\]\(https?:[^()\s]{1,200}\)|==([^=\n]{1,100})==")
_FENCE = re.compile(r"^\s{0,3}```\w*[ \t]*$", re.MULTILINE)

_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "₀₁₂₃₄₅₆₇₈₉₊₋"
_LEVELLED = str.maketrans(_RAISED + _LOWERED, "0123456789+-" * 2)
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_ODD = re.compile(
    rf"[{_RAISED}]+|[{_LOWERED}]+"
    rf"|(?<=[{_IDEOGRAPHS}])(?=[A-Za-z\d])|(?<=[A-Za-z\d])(?=[{_IDEOGRAPHS}])|[^\x00-\x7f]"
)
_SPELLED = {"。": ". ", "、": ", ", "，": ", ", "；": "; ", "\u2044": "/", "∴": ""}
_SPELLED |= dict.fromkeys("⇒⟹", "=>")
_SPELLED |= dict.fromkeys("\u2212\u2010\u2011\ufe63\uff0d", "-")
_KEPT = "°™®"


def cleaned(passage: str) -> str:
    r"""A passage without markup: LaTeX, Markdown, HTML and odd characters in plain ones.

    >>> cleaned(r"**\( 2\frac{1}{4} \text{ cm} \)**"), cleaned(r"$72$"), cleaned(r"\$72")
    ('2 1/4  cm', '72', '$72')
    >>> cleaned("<b>3</b> × 10⁸ （Ｃ）"), cleaned("~~5~~ −½")
    ('3 × 10^8 (C)', '- 1/2')
    """
    if len(passage) > 2 * LONGEST_PASSAGE:
        return passage.strip()
    if "$" in passage:
        passage = _DOLLARS.sub(r"\1", passage)
    if "\\" in passage or "{" in passage:
        passage = _latex(passage)
    if "<" in passage or "[" in passage:
        passage = _LINKED.sub(r"\1\2", _TAGS.sub(_tag, passage))
    if "`" in passage:
        passage = _FENCE.sub("", passage)
    if "#" in passage:
        passage = _HEADING.sub("", passage)
    if "half" in passage:
        passage = _AND_A_HALF.sub(" 1/2", passage)
    if " / " in passage:
        passage = _SPACED.sub("/", passage)
    if "*" in passage or "_" in passage or "`" in passage or "=" in passage or "~" in passage:
        passage = _SLANTED.sub(r"\2", _BOLD.sub("", _STRUCK.sub("", passage)))
        passage = _LINKED.sub(r"\1\2", passage)
    if not passage.isascii():
        passage = _ODD.sub(_plain, passage)
    return passage.strip()


def _latex(passage: str) -> str:
    passage = _COLOURED.sub("", passage)
    for _ in range(3):
        passage, count = _WRAPPED.subn(r"\1", passage)
        if not count:
            break
    return _TEX.sub(_command, _FRACTION.sub(_fraction, passage))


def _fraction(found: re.Match[str]) -> str:
    sign, whole = found[1], found[2]
    parts = [
        _OF_FRACTION.fullmatch(part.replace("{,}", "").replace(",", ""))
        for part in (found[3] or found[5] or "", found[4] or found[6] or "")
    ]
    above, below = parts
    if not (above and below):
        return found[0]
    if above[1] + below[1]:
        if whole or sign == "-":
            return found[0]
        sign = "" if above[1] == below[1] else "-"
    ratio = f"{above[2]}/{below[2]}"
    return f"{sign}{whole} {ratio}" if whole else sign + ratio


def _command(found: re.Match[str]) -> str:
    if found[3]:
        return found[3]
    if found[0][0] == "^":
        return "°"
    name = found[1] or found[2]
    return _TEX_SPELLED.get(name, name if found[2] else found[0])


def _tag(found: re.Match[str]) -> str:
    name = (found[2] or "").lower()
    if name == "sup":
        return "" if found[1] else "^"
    return "\n" if name in _LINES else " | " if name in ("td", "th") and found[1] else ""


def _plain(found: re.Match[str]) -> str:
    text = found[0]
    if not text:
        return " "
    if text[0] in _RAISED or text[0] in _LOWERED:
        return ("^" if text[0] in _RAISED else "_") + text.translate(_LEVELLED)
    before_digit = text in "–—" and found.string[found.end() : found.end() + 1].isdigit()
    return "-" if before_digit else _character(text)


@lru_cache(4096)
def _character(character: str) -> str:
    if character in _SPELLED:
        return _SPELLED[character]
    if character.isdecimal():
        return str(int(character))
    category = unicodedata.category(character)
    if category == "No" and "FRACTION" in unicodedata.name(character, ""):
        return " " + unicodedata.normalize("NFKC", character).replace("\u2044", "/")
    if category in ("Zs", "Cf") or (category == "So" and character not in _KEPT):
        return " " if category != "Cf" else ""
    return (
        unicodedata.normalize("NFKC", character) if "\uff00" < character < "\uffef" else character
    )
