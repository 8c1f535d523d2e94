"""Passages in plain characters, and what short ones come to: texts, lists and choices.

Plain means no LaTeX, Markdown or HTML, and one sort of digits and signs. Equal texts and lists have
one spelling.
"""

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
_MATRIX = re.compile(r"\\begin\{[pbBvV]matrix\}((?:(?!\\begin).){1,400}?)\\end\{[pbBvV]matrix\}")
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
    "varnothing": "∅", "cup": "∪", "cap": "∩", "infty": "∞",
    "blacksquare": "", "square": "", "checkmark": "",
    "(": "", ")": "", "[": "", "]": "", "!": "", ",": " ", ";": " ", ":": " ", " ": " ",
}  # fmt: skip

_TAGS = re.compile(
    r"<(/?)(b|i|u|em|strong|p|br|hr|span|div|code|pre|h[1-6]|li|ul|ol|t[drh]|table|math|s|eos|font|"
    r"center|mark|value|unit|ans|answer|final|final_answer|result|end_of_turn|sup)(?:\s[^<>]{0,100})?/?>"
    r"|<\|[a-z_]{1,20}\|>|\[/?INST\]",
    re.IGNORECASE,
)
_LINES = {"p", "br", "hr", "div", "li", "ul", "ol", "tr", "table", "h1", "h2", "h3"}
_BOLD = re.compile(r"(?<![a-zA-Z\d_)])[*_]{2,3}|[*_]{2,3}(?![\w(])|`{1,3}")
_SLANTED = re.compile(r"(?<![\w*\\)}])([*_])(?=[^\s*_])([^*_\n]{1,100})(?<=\S)\1(?![\w*])")
_STRUCK = re.compile(r"~~[^~\n]{1,200}~~|<<[^<>\n]{1,80}>>(?=\s?[-$\d])")
"""What was crossed out, and the sums that GSM8K's solutions have before their results."""
_REPLACED = (
    ("`", re.compile(r"^\s{0,3}```\w*[ \t]*$", re.MULTILINE), ""),
    ("#", re.compile(r"^\s{0,3}#{1,6}\s(?=.*\S)", re.MULTILINE), ""),
    ("half", re.compile(r"(?<=\d) and an? half\b"), " 1/2"),
    (" / ", re.compile(r"(?<=\d) / (?=\d)"), "/"),
    ("= ", re.compile(r"(?<== )([-–—]) (?=\d)"), r"\1"),
    ("/-", re.compile(r"(?<=\d)/-(?![\w.])"), ""),
)
"""What a passage that holds some characters may hold, and what that becomes."""
_LINKED = re.compile(r"\[([^\[\]\n]{1,100})\]\(https?:[^()\s]{1,200}\)|==([^=\n]{1,100})==")

_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "₀₁₂₃₄₅₆₇₈₉₊₋"
_LEVELLED = str.maketrans(_RAISED + _LOWERED, "0123456789+-" * 2)
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_ODD = re.compile(
    rf"[{_RAISED}]+|[{_LOWERED}]+"
    rf"|(?<=[{_IDEOGRAPHS}])(?=[A-Za-z\d])|(?<=[A-Za-z\d])(?=[{_IDEOGRAPHS}])|[^\x00-\x7f]"
)
_SPELLED = {"。": ". ", "、": ", ", "，": ", ", "；": "; ", "\u2044": "/", "∴": ""}
_SPELLED |= dict.fromkeys("⇒⟹", "=>") | dict.fromkeys("।۔", ". ") | {"،": ", "}
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
    for characters, pattern, plain in _REPLACED:
        if characters in passage:
            passage = pattern.sub(plain, passage)
    if any(mark in passage for mark in "*_`=~"):
        passage = _SLANTED.sub(r"\2", _BOLD.sub("", _STRUCK.sub("", passage)))
        passage = _LINKED.sub(r"\1\2", passage)
    if not passage.isascii():
        passage = _ODD.sub(_plain, passage)
    return passage.strip()


def _latex(passage: str) -> str:
    passage = _MATRIX.sub(_rows, _COLOURED.sub("", passage))
    for _ in range(3):
        passage, count = _WRAPPED.subn(r"\1", passage)
        if not count:
            break
    return _TEX.sub(_command, _FRACTION.sub(_fraction, passage))


def _rows(found: re.Match[str]) -> str:
    """The rows of a matrix, each in brackets, in brackets."""
    rows = [" ".join(row.replace("&", " , ").split()) for row in found[1].split("\\\\")]
    return f"[{', '.join(f'[{row}]' for row in rows if row)}]".replace(" ,", ",")


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


LONGEST = 100
"""Characters of the longest text that can be an answer."""

EDGES = " \t\n\"'“”‘’«»「」`*_.,;:!?"

_ABBREVIATED = r"(?<!\b(?:Dr|Mr|Ms|St|Mt|Ft|Jr|Sr|vs))(?<!\b(?:Mrs|Gen|Sen|Rep))(?<!\bProf)"
_SENTENCE_END = re.compile(
    rf"(?:(?<=\w\w)|(?<=[\d)%°\]$€£”\"])){_ABBREVIATED}[.!?]['\"”)]?(?=\s+(?:[A-Z(“\"]|$))|\n"
)
_REASON = re.compile(
    r",?\s(?:because|since)\s|,\s(?:which|who|where|not|but|weil|denn|car|porque|perché)\s"
    r"|,\s\w{2,12}(?:ed|en|wn|rn)\s(?:in|by|on|at|from|as|near)\s"
    r"|,\s(?:the|an?)\s[\w\s]{1,30}?\sof\s|\s[—–]\s(?=[a-z])|(?<=[^\W\d]{2})\s\([^()]{2,100}\)\W*$"
)
_QUOTED = re.compile(
    r"(?:[\"“]|\*\*`?|(?:\bis |\bbe |\breturns |: )`)([^\"“”*`\n]{1,60})[.!。]?"
    r"(?:[\"”`]|`?\*\*)[.!。]?\s*(?:\([^()\n]{1,100}\)\s*)?$"
)
DENIED = re.compile(
    r"(?:\b(?:not|never|cannot|except)|n['’]t)\b"
    r"(?:\s(?:think|believe)\b[^.,;:!?\n]{0,20})?(?:(?!\s(?:but|is|are|was|were)\b)[^.,;:!?\n]){0,20}$",
    re.IGNORECASE,
)
"""What says of what follows that it is not so."""
_ADVICE = re.compile(
    r"\b(?:key|main|important|crucial|central)\s(?:\w+\s)?"
    r"(?:points?|takeaways?|things?|insights?|ideas?|lessons?|concepts?)\b[^.\n]{0,40}$",
    re.IGNORECASE,
)
"""What says of what follows that it matters, not that it is the answer."""
_ARTICLE = re.compile(r"(?:the|an?)\s+(?=\w)(?!(?:and|or)\b)")
_BULLET = re.compile(r"(?m)^\s*(?:[-*•]|\d{1,3}[.)]|[a-z]\))\s+")
_BRACKETS = {"[": "]", "(": ")", "{": "}", "<": ">"}
_SEPARATOR = re.compile(r"[;\n]|,|\s(?:and|or|&|und|et|и)\s|\s[ye]\s(?=-?\d)")
_ARROW = re.compile(r"\s(?:→|->)\s")
_UNSPACED = re.compile(r" ?, ?")
_UNQUOTED = re.compile(r"(?<!\w)['\"]|['\"](?!\w)")
_RELATED = re.compile(r"(?<!-) ?([<>]=?|[≤≥=∈∪∩]) ?")
_ONE_LETTER = re.compile(r"[^a-z]*(?:[a-z]|∞|∪)[^a-z]*")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
EMPTY = ("[]", "{}", "()", "∅", "\\{\\}")


def first_sentence(passage: str) -> str:
    """A cleaned passage up to the end of its first sentence."""
    return _SENTENCE_END.split(passage, maxsplit=1)[0].strip()


def without_reason(sentence: str) -> str:
    """A sentence up to its "because", or a remark in brackets or behind a comma."""
    return _REASON.split(sentence, maxsplit=1)[0]


def last_quoted(text: str) -> str | None:
    """What a text ends with, if it stands in quotes or is bold.

    >>> last_quoted('The word is spelled backward as "nus".'), last_quoted("It is nus.")
    ('nus', None)
    >>> last_quoted("It isn't **Rome**.") is None
    True
    """
    found = _QUOTED.search(text)
    if not found or any(said.search(text, 0, found.start()) for said in (DENIED, _ADVICE)):
        return None
    return short_text(cleaned(found[1]))


def short_text(text: str) -> str | None:
    """One spelling of a short text: small letters, no article, quotes or punctuation around.

    >>> short_text('"The  Nile".'), short_text("A"), short_text("Aunt")
    ('nile', 'a', 'aunt')
    """
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(EDGES)
    if words[:1] in _BRACKETS:
        words = _UNQUOTED.sub("", _UNSPACED.sub(", ", words))
    if _ONE_LETTER.fullmatch(words):
        words = _RELATED.sub(r" \1 ", words)
    while len(words) > 2 and _encloses(words):
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
    marks = marks or list(_ARROW.finditer(passage))
    strong = any(
        found[0] in ";\n" or passage[found.end() : found.end() + 1] == " " for found in marks
    )
    if strong:
        grouped = {found.start() for found in _THOUSANDS.finditer(passage)}
        marks = [found for found in marks if found.start() not in grouped]
    starts = [0, *(found.end() for found in marks)]
    ends = [*(found.start() for found in marks), len(passage)]
    parts = [passage[a:b].strip() for a, b in zip(starts, ends, strict=True)]
    parts = [re.sub(r"^(?:and|or|then|finally)\s+", "", part).strip(EDGES) for part in parts]
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


_RIGHT = r"(?:the\ |our\ |my\ |also\ |clearly\ )?(?:correct|right|true|best|answer|most)\b"
_WRONG = (
    r"(?:(?:is|was|are)\ (?:wrong|incorrect|false|ruled)"
    r"|(?:is|was|are|can?|could|do(?:es)?|wo|would|must|should)(?:n['’]t|\ ?not)"
    r"|wrong|incorrect|fails)\b"
)
_LETTER = re.compile(
    rf"""(?:(?:the|so|therefore|thus|hence),?\ )?(?:correct\ )?
    (?:(?:option|choice|letter|answer|opci[oó]n|opção|alternativa|letra|lettera|lettre|réponse)\b
      :?\ ?)?
    (?:[\[({{"'“‘«]{{1,2}}(?P<bracketed>[A-Za-z])[.]?[\])}}"'”’»]{{1,2}}(?![\w*]|,\s?["'])
    | (?-i:["“]?(?P<marked>[A-Z])\s?[.):](?=\s|\Z|[A-Za-z*]{{3}}|[,.]))
    | (?-i:(?P<dashed>[A-HJ-Z])(?:\ [–—-]|,)(?=\ \w{{2}}))
    | (?-i:(?P<small>[a-z])[.)](?=\s|[.,]?\Z))
    | (?-i:(?P<alone>[A-Z])(?=[ ]*(?:\Z|\n|because\b|since\b|as\b|[.,;!]\s|[.,;!]\Z)|[*_]))
    | (?-i:(?P<plain>[B-HJ-Z])(?=\ (?:[^\W\d]|\()|,|\s[{_IDEOGRAPHS}]))
    | (?-i:(?P<judged>[A-Z])(?=\ (?:is|was|would\ be|must\ be)\ {_RIGHT})))
    (?!\ {_WRONG})""",
    re.VERBOSE | re.IGNORECASE,
)
_FURTHER = re.compile(
    r"[\s*_)\]}.\"':]{0,6}(?:,|/|&|\+|\b(?:and|or|und|oder|et|ou|y|o)\b)[\s*_(\[\"']{0,6}"
    r"(?:(?:and|or|option|choice)\s\(?)?(?:[A-Z]|(?<=\()[a-z])(?![\w'’])"
    r"(?! (?!(?:and|or|und|et|y|are)\b)[a-z])"
)
_FIRST = re.compile(r"[\s\W]{0,4}(?:[A-Z]|(?<=\()[a-z])(?!\w)")
_NAMED = (
    re.compile(
        r"(?i:option|choice|choix|letter|answer|alternativa|opción|réponse|antwort)"
        r"(?: is| est)?[ :,*]{1,4}\(?([A-Z])(?![\w'’/&-])"
        r"(?! (?!is\b|ist\b|es\b|est\b|wählen|nehmen)[a-z])"
        r"|(?i:option|choice|answer)(?: is)? [\"'‘“]([A-Za-z])[\"'’”]"
        r"|\(([A-Z])\)|\[\[([A-Z])\]\]|\*\*\(?([A-Z])[.)]?(?:\*\*| )"
        r"|[选選](?:[择擇项項]|[项項][是为]|択肢)?\s?[:：]?\s?\(?([A-Z])(?![A-Za-z]|\)?\s?(?:不|错|錯|是错))"
        r"|(?:[:：→]|\s[–—])\s?\(?([A-HJ-Z])[.)]?\s*$"
    ),
    re.compile(
        rf"(?<![\w'’])\(?([A-HJ-Z])[).:]?(?:\ (?:(?!\b[A-Z]\b)[^.\n]){{1,60}}?)?"
        rf"\ (?:(?:is|seems|looks|must\ be|would\ be)\ {_RIGHT}|ist\ richtig\b"
        r"|(?:is|fits|matches|works)\ (?:a\ )?(?:better|stronger|best)\b(?!\ than))",
        re.VERBOSE,
    ),
    re.compile(
        r"\b(?i:therefore|thus|hence|so|is|it's|(?<!could\ )(?<!might\ )be|(?<!,\ )with|for"
        r"|towards?|choose"
        r"|für|auf|choisis|elijo|escolho|scelgo|kies|ist|c['’]est|pick|select|definitely|probably|likely|leaves|leaving|say|guess|response|answer['’]s"
        r"|corresponds\ to|matches)[,:]?[ *]{1,3}(?:option\ |choice\ |la\ )?\(?([A-HJ-Z])\)?\**"
        r"(?:[.!]?\s*$|;\s|,?\ (?:since|because|as|though|although)\b)"
        r"|\b(?:is|are):?\ \(?([A-HJ-Z])\)(?=\ [^\n]{1,60}$)"
        r"|(?<!ot\ )\b(?i:only)\ (?:option\ )?\(?([A-HJ-Z])\)?\ (?!is\b)[a-z]{2,}s\b"
        r"|\bnot\ \(?[A-Z]\)?,?\ but\ \(?([A-HJ-Z])(?![\w'’])|\b([A-HJ-Z])\ it\ is\b"
        r"|\b(?i:it['’]s)\ \(?([A-HJ-Z])\)?[.,;!](?=\s)"
    ),
)
OPTION = re.compile(r"(?m)^\W{0,6}(?:(?:Option|Choice) )?([A-H])\b(?=[).:*]|\ is\ )(.*)")
_IS_WRONG = re.compile(r"\W{0,3}[:–—-]\W{0,3}(?:incorrect|wrong|false)\b", re.IGNORECASE)
_IS_RIGHT = re.compile(
    r"[✅✓✔☑]|this is (?:the )?(?:correct|right)\b"
    r"|(?:\A\W*(?:is )?|[–—:(-][\s*]*)(?:also )?(?:correct|right)"
    r"(?=\W*\Z|[.,;:)*!]|\s[–—-]|\s(?:because|since|as)\b)",
    re.IGNORECASE,
)
_YES_NO = re.compile(
    r"((?:ja|nein|oui|non|s[ií]|sim|não|tak|nie|да|нет|是的?|不是|はい|いいえ|네|아니요)"
    r"(?=[*]{0,3}(?:[.,!;:，。、]|$))|(?:yes|no|true|false)\b(?=[*]{0,3}(?:[.,!;:\s–—-]|$)))"
    r"(?!\.? (?:one|matter|more|idea|answer|(?:\w+ )?solutions?|information|way|such|need|problem"
    r"|doubt)\b)"
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
    passage = passage.strip(" \t\n*_>$").lstrip("= ")
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
            judged = _letters(pattern, line)
            if len(judged) == 1:
                return judged.pop()
        named = _letters(_NAMED[0], line)
        if named:
            return named.pop() if len(named) == 1 else None
    return None


def judged_letter(text: str) -> str | None:
    r"""The only option of those on lines of their own that is said to be right.

    >>> judged_letter("A) 10 ❌\nB) 12 ✅"), judged_letter("A. Correct.\nB. Also correct.")
    ('B', None)
    """
    options = OPTION.findall(text)
    right = [letter for letter, verdict in options if _IS_RIGHT.search(verdict)]
    return right[0] if len(right) == 1 < len(options) else None


def _letters(pattern: re.Pattern[str], line: str) -> set[str]:
    """What one of a pattern's groups holds, wherever it fits and nothing says that it does not."""
    fits = ((found, found.lastindex or 0) for found in pattern.finditer(line))
    return {
        found[group].upper()
        for found, group in fits
        if not (
            DENIED.search(line[: found.start(group)]) or _IS_WRONG.match(line, found.end(group))
        )
    }


def yes_or_no(text: str) -> str | None:
    """A yes, no, true or false that a text begins with."""
    found = _YES_NO.match(text.lstrip(EDGES).replace("_", ""))
    return found[1].lower() if found else None
