r"""Where a text states its answer.

Markers come first, in the order of lm-evaluation-harness's strict filters: `\boxed{...}`,
`<answer>`, `#### ...`, `the answer is ...`. Everything here is linear in the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from controller.answers.markup import LONGEST_PASSAGE, cleaned

_LONGEST_TEXT = 1 << 16
"""Characters from the end that are read."""

_SHORT_PASSAGE = 80
_TRIES = 8
"""Statements of one kind that are looked at, the last one first."""

_FORMULAS = (("\\[", "\\]"), ("\\(", "\\)"))
_BOLD = re.compile(r"\*\*(?!\d)|(?<!\d)\*\*")
_PLAIN_MARKERS = {
    "boxed": re.compile(r"\\boxed\{([^{}]*)\}"),
    "hashes": re.compile(r"####\s*(.+)"),
    "stated": re.compile(r"(?:final answer|answer)\s*(?:is|:)\s*(.+)", re.IGNORECASE),
}
_THOUGHT = (
    r"[\w:]{0,20}(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad"
    r"|monologue)"
)
_THOUGHTS_BEGIN = re.compile(
    rf"[<\[◁]\|?(?:begin_of_|start_)?{_THOUGHT}\|?[>\]▷]|<\|channel\|>(?:analysis|commentary)\b",
    re.IGNORECASE,
)
_THOUGHTS_END = re.compile(
    rf"[<\[◁]\|?(?:/|end_of_|end_){_THOUGHT}\|?[>\]▷]|<\|channel\|>final<\|message\|>"
    r"|(?<=[\w.!?)])assistantfinal(?-i:(?![a-z]))",
    re.IGNORECASE,
)
"""Also of gpt-oss, whose marks may have been left out: `analysis... assistantfinal...`."""
_UNENDED = re.compile(
    r"<(?:think(?:ing)?|thought|reasoning|reflection)>|\[THINK\]|◁think▷"
    r"|<\|(?:begin_of_|start_)?think\w*\|>|<\|channel\|>(?:analysis|commentary)\b"
)
"""After which a text that brings no end of its thoughts holds nothing else."""
_BOXES = ("\\boxed", "\\fbox", "\\framebox")
_TAG = re.compile(
    r"<(answer|final_answer|final)(?: [^<>]{0,60})?>(?P<told>.{1,600}?)(?:</\1>|\Z)"
    r"|<(solution|output|result)>(?P<ends>.{1,600}?)</\3>\s*\Z",
    re.IGNORECASE | re.DOTALL,
)
_OPEN_TAG = re.compile(r"<(?:(?:final_)?answer|final|solution|output|result)\b", re.IGNORECASE)
_MARKS = r"[\]\"'*_`)]{0,6}"
_STATED = re.compile(
    rf"""answers?\b(?:\ key|\ choice)?{_MARKS}
    (?:\ \([^()\n]{{1,40}}\))?
    (?:,\ [^\n.:?!=,\d]{{1,40}}(?:\d+[^\n.:?!=,\d]{{1,30}})?,)?
    (?:\ (?:to|for|of|here|in|as|that|we|expressed|rounded)\b[^\n.:?!=]{{0,100}}?)?
    \s{{0,3}}(?:\b(?:is|are|was|(?:would|will|should|must)(?:\ (?:therefore|then|thus))?\ be|equals
      |(?:comes|turns)\ (?:out\ )?(?:to\ be|to))\b|=|[:：]|→|->|[*_]{{0,4}}\n)
    (?:\ (?:therefore|thus|then|now|indeed|simply|just|clearly|option|choice|letter)\b)*[,:]?""",
    re.IGNORECASE | re.VERBOSE,
)
_SHORT = re.compile(
    r"(?:^|\n)\W{0,4}(ans(?:wer)?|correct|(?:correct|right|best)\ (?:option|choice))"
    r"(?:[*_]{0,2}\s?[:=.)\]*_]{1,3}\s?|\s[-–—]\s|\s)(?=\S)",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(
    rf"""(?:\b(?:antwort|lösung|ergebnis|réponse|respuesta|resposta|risposta|ответ|الإجابة|الجواب)
      |答案|答え|正解|答|정답|उत्तर)
    (?:\ (?:finale?|correcta|correta|exacte))?{_MARKS}\s?
    (?:(?:ist|lautet|est|es|é|è)\b(?:\ (?:de|la|le)\b)?
      |[:：=]|[是为為选選は]|[은는]|هي|(?=\ ?[-\d]))""",
    re.IGNORECASE | re.VERBOSE,
)
_OPENS = re.compile(
    r"(?:[*_](?=\s))?(?:[\s:`]|[=-]{3,}(?=\s*\n)|\n>\s|\*\*+\s*|__+|[*_]+(?=\s*\n))*"
)
_HEADS = re.compile(r"\W*(?:the |final |correct )?answer\W*", re.IGNORECASE)
_FIELD = re.compile(r"""["'](?:final[ _]?|correct[ _]?)?answer["']\s{0,3}:\s{0,3}""", re.IGNORECASE)
_FIELDS = re.compile(
    r"""["'](?:(?:final[ _]?|correct[ _]?)?answer|result|choice|solution|output)["']"""
    r"\s{0,3}:\s{0,3}",
    re.IGNORECASE,
)
_SINGLE_QUOTED = re.compile(r"'((?:[^'\\\n]|\\.){0,200})'\s*[,}]")
_CORRECTED = re.compile(
    r"""(?:[.!?\n,;…–—-]\s*)
    (?:wait|hmm+|oops|sorry|correction|scratch\ that|hold\ on|no(?=,|\ wait|:)|my\ mistake|i\ made
      |actually(?=,?\ (?:it|the\ answer|\(?[A-Z]\b|-?\d))|let\ me\ re\w+
      |that['’]s\ (?:not(?:\ (?:right|correct))?|wrong))
    \b""",
    re.IGNORECASE | re.VERBOSE,
)
_INSTEAD = re.compile(
    r"""(?:[\s,.:;!–—-]|\b(?:no|wait|actually|sorry|i\ meant?|make\ it|rather|correction)\b
      |\b(?:it|that|this|the\ answer)(?:['’]s|\ is|\ (?:should|must)\ be)\b(?!\ (?:not|wrong)))*""",
    re.IGNORECASE | re.VERBOSE,
)


def tail(text: str) -> str:
    """The part of a text that can hold its answer: after its thoughts, and not without end.

    >>> tail("<think>5?</think> 6"), tail("[THINK]so it is 5")
    (' 6', '')
    """
    text = text[-_LONGEST_TEXT:]
    ends = [found.span() for found in _THOUGHTS_END.finditer(text)]
    if not ends:
        begins = [found.start() for found in _UNENDED.finditer(text)]
        return text[: begins[-1]] if begins else text
    before, after = text[: ends[-1][0]], text[ends[-1][1] :]
    if not after.strip():
        return before
    begun = _THOUGHTS_BEGIN.search(before)
    if begun and not _UNENDED.match(begun[0]) and _OPEN_TAG.search(before):
        # Some think about what they have answered.
        return before[: begun.start()] + after
    return after


def is_cut(text: str) -> bool:
    r"""Whether a text ends inside a formula or inside bold words.

    >>> is_cut(r"so \[ 12 + 30 = 4"), is_cut("The answer is **0."), is_cut("It is **42**.")
    (True, True, False)
    """
    if any(text.rfind(opening) > text.rfind(closing) for opening, closing in _FORMULAS):
        return True
    return len(_BOLD.findall(text, text.rfind("\n") + 1)) % 2 == 1


def marked(text: str) -> Iterator[tuple[str, str]]:
    r"""What stands behind markers, and which one it is: the surest and the last ones first.

    >>> list(marked(r"It is \boxed{\frac{1}{2}}. The answer is 0.5."))
    [('boxed', '\\frac{1}{2}'), ('stated', '0.5.')]
    """
    for content in _boxes(text):
        yield "boxed", _restated(content)
    if _OPEN_TAG.search(text):
        for found in list(_TAG.finditer(text))[: -_TRIES - 1 : -1]:
            yield "tagged", _restated(found["told"] or found["ends"])
    for content in _hashed(text):
        yield "hashes", _restated(content)
    for content in _fields(text):
        yield "tagged", content
    for at, content in _statements(text[: text.rfind("\n") + 1] if is_cut(text) else text):
        yield from _corrections(text, at)
        yield "stated", content


def _restated(content: str) -> str:
    """What a marked passage states, if it has a marker of its own."""
    if "ns" not in content and "NS" not in content:
        return content
    plain = cleaned(content)
    return next((passage for _, passage in _statements(plain)), content)


def _corrections(text: str, start: int) -> Iterator[tuple[str, str]]:
    """What a text says instead of a statement before, "wait, no, it is 12"."""
    cues = list(_CORRECTED.finditer(text, start + 1, start + 4 * LONGEST_PASSAGE))
    if not cues:
        return
    instead = _INSTEAD.match(text, cues[-1].end())
    rest = text[instead.end() if instead else cues[-1].end() :][:LONGEST_PASSAGE]
    is_said = instead is not None and any(c.isalpha() for c in instead[0])
    yield "stated" if is_said else "rethought", rest


def _fields(text: str) -> Iterator[str]:
    """Values of a field `answer` in JSON."""
    fields = _FIELDS if text.lstrip("` jsonJSON\n").startswith("{") else _FIELD
    for found in list(fields.finditer(text))[: -_TRIES - 1 : -1]:
        part = text[found.end() : found.end() + LONGEST_PASSAGE]
        try:
            value: Any = json.JSONDecoder().raw_decode(part)[0]
        except (ValueError, RecursionError):
            quoted = _SINGLE_QUOTED.match(part)
            value = quoted[1] if quoted else None
        if isinstance(value, (bool, int, float, list)):
            value = json.dumps(value, ensure_ascii=False)
        if isinstance(value, str) and value.strip():
            yield _restated(value)


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
    part = text[start : start + LONGEST_PASSAGE].lstrip(" ")
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
        line = text[at + 4 : at + 4 + LONGEST_PASSAGE].partition("\n")[0].strip()
        is_heading = _HEADS.fullmatch(line) is not None
        if line and not is_heading and not text[:at].rpartition("\n")[2].strip(" *"):
            yield line


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Statements and where they end, the last ones first."""
    ends = dict[int, int]()
    lowered = text.lower()
    if len(lowered) != len(text):  # a letter that grows when it is made small
        lowered = text
    for at in _places(lowered, "answer"):
        if found := _STATED.match(text, at):
            ends[at] = found.end()
    for pattern in (_SHORT, _ELSEWHERE):
        for found in list(pattern.finditer(text))[-_TRIES:]:
            ends.setdefault(found.start(found.lastindex or 0), found.end())
    for end in sorted(ends.values(), reverse=True):
        yield end, _following(text, end)


def _following(text: str, start: int) -> str:
    """A passage; it begins with a line's end if it begins on a new line."""
    passage = text[start : start + LONGEST_PASSAGE]
    markup = _OPENS.match(passage)
    plain = passage[markup.end() if markup else 0 :]
    is_new_line = "\n" in text[start - 1 : start + len(passage) - len(plain)]
    plain = plain.partition("\n\n")[0] if len(plain) > _SHORT_PASSAGE else plain
    return "\n" + plain if is_new_line else plain


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
