r"""Where a text states its answer.

Markers come first, in the order of lm-evaluation-harness's strict filters: `\boxed{...}`,
`<answer>`, `#### ...`, `the answer is ...`. Everything here is linear in the text.

Without a marker sentences may come to a number: after their last "is", or the last one in them.
Those that were cut, refuse, check or tell how to go on come to nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from controller.answers.numbers import (
    MONTHS,
    OPEN_END,
    REMARK,
    SEVERAL,
    after_hedges,
    quantities,
    spelt_at,
    spelt_in,
)
from controller.answers.phrases import DENIED, LONGEST_PASSAGE, cleaned

_LONGEST_TEXT = 1 << 16
"""Characters from the end that are read."""

_SHORT_PASSAGE = 80
_TRIES = 8
"""Statements of one kind that are looked at, the last one first."""

_FORMULAS = (("\\[", "\\]"), ("\\(", "\\)"))
_BOLD = re.compile(r"\*\*(?!\d)|(?<!\d)\*\*")
_PLAIN_MARKERS = {
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
    r"|<\|(?:begin_of_|start_)?think\w*\|>|<\|channel\|>(?:analysis|commentary)\b",
    re.IGNORECASE,
)
"""After which a text that brings no end of its thoughts holds nothing else."""
_NEXT = re.compile(
    r"\n\W{0,4}(?:question|human|user|q|problem|exercise|example)(?: \d+)?\W{0,3}:"
    r"|\n#{1,6} (?:question|problem)\b|\nexample \d",
    re.IGNORECASE,
)
"""Begins another question, which some models go on to ask themselves."""
_JOINED = re.compile(
    r"[}\s$\\)\]]{0,8}(?:,|;|(?:,\s?)?(?:and|or)\b)[\s$\\(\[]{0,6}(?=\\[bf]\w{3,8}[\s{])"
)
"""What stands between boxes that hold one answer together, `\\boxed{2} and \\boxed{3}`."""
_BOXES = ("\\boxed", "\\fbox", "\\framebox")
_TAG = re.compile(
    r"<(answer|final_answer|final)(?: [^<>]{0,60})?>(?P<told>.{1,600}?)(?:</\1>|\Z)"
    r"|<(solution|output|result|choice)>(?P<ends>.{1,600}?)</\3>\s*(?:</\w+>\s*)?\Z",
    re.IGNORECASE | re.DOTALL,
)
_OPEN_TAG = re.compile(r"(?i)<(?:(?:final_)?answer|final|solution|output|result|choice)\b")
_MARKS = r"[\]\"'*_`)]{0,6}"
_STATED = re.compile(
    rf"""answers?\b(?:\ key|\ choice)?{_MARKS}
    (?:\ \([^()\n]{{1,40}}\))?
    (?:,\ [^\n.:?!=,\d]{{1,40}}(?:\d+[^\n.:?!=,\d]{{1,30}})?,)?
    (?:\ (?:to|for|of|here|in|as|that|we|expressed|rounded)\b[^\n.:?!=]{{0,100}}?)?
    \s{{0,3}}(?:\b(?:is|are|was|(?:would|will|should|must)(?:\ (?:therefore|then|thus))?\ be|equals
      |(?:comes|turns)\ (?:out\ )?(?:to\ be|to))\b|=|[:：]|→|->|[*_]{{0,4}}\n)
    (?:\ (?:therefore|thus|then|now|indeed|simply|just|clearly|obviously|definitely|actually|really
      |in\ fact|option|choice|letter)\b)*[,:]?""",
    re.IGNORECASE | re.VERBOSE,
)
_PREDICATE = re.compile(r"(?<!here )\b(?:is|was) (?:the |our |my )?(?:[a-z]+ )?\Z", re.IGNORECASE)
"""What stands before "answer" where that tells of what came before it."""
_UNKNOWN = re.compile(
    r"(?:n['’]t|\bcannot|\bnot|\bunable to) (?:know|determine|find|give|tell|provide)"
    r" (?:the|an?) (?:\w+ )?\Z",
    re.IGNORECASE,
)
_SHORT = re.compile(
    r"(?:^|\n)\W{0,4}(ans(?:wer)?|correct(?!\ )|(?:correct|right|best)\ (?:option|choice)s?)"
    r"(?:[*_]{0,2}\s?[:=.)\]*_]{1,3}\s?|\s[-–—]\s|\s(?-i:(?![a-z])))(?=\S)",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(
    rf"""(?:\b(?:antwort|antwoord|svaret|vastaus|odpověď|lösung|ergebnis|réponse|respuesta|resposta
      |risposta|ответ|jawaban|cevap
      |(?:opci[oó]n|opção|alternativa)(?=\ corre)
      |odpowiedź|đáp\ án|الإجابة|الجواب|תשובה|απάντηση|відповідь|उत्तर|คำตอบ)
      |答案|答え|正解|答|답변?)
    (?:\ (?:finale?|corre\w+|exacte|yang\ benar|đúng(?:\ là)?|الصحيحة|akhir
      |końcowa|cuối\ cùng|النهائية))?{_MARKS}\s?
    (?:(?:ist|lautet|est|es|é|è|is|är|je|on|είναι|adalah|to|là)\b
      (?:,?\ (?:donc|also|daher|somit|por\ (?:lo\ )?tanto|entonces|portanto|quindi|dus|zatem)\b,?)?
      (?:\ (?:de|la|le)\b)?
      |[:：=]|\ ?[—–]\ |应?[是为為选選は]|[은는]|هي|คือ|(?=\ ?(?:[-\d]|[A-H]\b)))""",
    re.IGNORECASE | re.VERBOSE,
)
_CHOSEN = re.compile(
    r"\b(?:correct|right|best|closest) (?:option|choice|completion|match)"
    r"(?: (?:is|(?:would|should|must) be)\b(?! (?:that|to|not|given)\b)|(?=:)):?",
    re.IGNORECASE,
)
_OPENS = re.compile(
    r"(?:[*_](?=\s))?(?:[\s:`|]|[=-]{3,}(?=\s*\n)|\n>\s|\*\*+\s*|__+|[*_]+(?=\s*\n))*"
)
_SHOWN = re.compile(r"(?<=\w)[:,]?\s*\n\s*(?=\$\$|\\\[)")
"""Where a sentence goes on in a formula on lines of its own."""
_INSIDE = re.compile(r"\\\w{2,12}\{[^{}]{0,30}\Z")
"""What stands before a passage where its marker is in braces: `\\text{Answer: } B`."""
_ON_LINES = re.compile(r"(\A|[ \n])(\$\$|\\\[)\s*\n\s*([^\n]+?)\s*\n\s*(?=\$\$|\\\])")
_IS_BEHIND = re.compile(r"\s?(?:입니다|이다|です|である)(?=(?:が|ので|ね|よ)?(?:\W|\Z))")
"""Languages that put "is" behind what they state."""
_TOLD_FIRST = re.compile(r"[^\w\n]*(?:\d(?!\d?[.)]\s)|[A-Za-z](?=[).:]|\W*\Z))")
"""What `####` stands before where it is no heading of what comes below."""
_HEADS = re.compile(r"\W*(?:the |final |correct )?answer\W*", re.IGNORECASE)
_FIELD = re.compile(r"""["'](?:final[ _]?|correct[ _]?)?answer["']\s{0,3}:\s{0,3}""", re.IGNORECASE)
_FIELDS = re.compile(
    r"""["'](?:(?:final|correct|chosen|selected|best)?[ _]?(?:answer|choice|option)(?:_letter)?"""
    r"""|result|solution|output)["']"""
    r"\s{0,3}:\s{0,3}",
    re.IGNORECASE,
)
_OBJECT = re.compile(r"(?:\A|\n)\s{0,20}(\{[^{}]{1,2000}\})\s*(?:```)?\s*\Z")
_REASONS = re.compile(
    r"reason|rational|expla|thought|think|analys|justif|evidence|confiden|certain|steps|work|note"
    r"|calcul|\bid\b|question|comment",
    re.IGNORECASE,
)
_HEADED = re.compile(
    r"\[\[ ## (?!completed\b)(?P<name>\w+) ## \]\]\s*(?P<told>(?:(?!\[\[ ##).){1,600})", re.DOTALL
)
"""A field in the form of DSPy's adapters."""
_SINGLE_QUOTED = re.compile(r"'((?:[^'\\\n]|\\.){0,200})'\s*[,}]")
_CORRECTED = re.compile(
    r"""(?:[.!?\n,;:…–—-]\s*)
    (?:wait|hmm+|oops|sorry|correction|scratch\ that|hold\ on|no(?=,|\ wait|:)|my\ mistake|i\ made
      |actually(?=,?\ (?:it|the\ answer|\(?[A-Z]\b|-?\d))|let\ me\ re\w+
      |that['’]s\ (?:not(?:\ (?:right|correct))?|wrong))
    \b""",
    re.IGNORECASE | re.VERBOSE,
)
_SHOULD = re.compile(
    r"\b(?:it|that|this|which) (?:should|must|has to) (?:instead |actually )?be\b:?", re.IGNORECASE
)
_INSTEAD = re.compile(
    r"""(?:[\s,.:;!–—-]|\b(?:no|wait|actually|sorry|i\ meant?|make\ it|rather|correction)\b
      |\b(?:it|that|this|the\ answer)(?:['’]s|\ is|\ (?:should|must)\ be)\b(?!\ (?:not|wrong)))*""",
    re.IGNORECASE | re.VERBOSE,
)


def tail(text: str) -> str:
    """The part of a text that can hold its answer: between its thoughts and the next question.

    >>> tail("<think>5?</think> 6"), tail("[THINK]so it is 5")
    (' 6', '')
    """
    text = _without_thoughts(text[-_LONGEST_TEXT:])
    before = before_next(text)
    return before if before == text or next(marked(before), None) else text


def before_next(text: str) -> str:
    """The part of a text before the next question; all of it where none is asked."""
    asked = _NEXT.search(text)
    return text[: asked.start()] if asked else text


def _without_thoughts(text: str) -> str:
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
    line = text[text.rfind("\n") + 1 :]
    unclosed = "\\" in line and line.count("{") > line.count("}")
    return unclosed or len(_BOLD.findall(line)) % 2 == 1


def marked(text: str) -> Iterator[tuple[str, str]]:
    r"""What stands behind markers, and which one it is: the surest and the last ones first.

    >>> list(marked(r"It is \boxed{\frac{1}{2}}. The answer is 0.5."))
    [('boxed', '\\frac{1}{2}'), ('stated', '0.5.')]
    """
    last = max(map(text.rfind, _BOXES))
    if last >= 0 and (taken_back := _CORRECTED.search(text, last)):
        for at, content in _statements(text):
            if at > taken_back.end():
                yield "stated", content
    for content in _boxes(text):
        yield "boxed", _restated(content)
    if _OPEN_TAG.search(text):
        for found in list(_TAG.finditer(text))[: -_TRIES - 1 : -1]:
            yield "tagged", _restated(found["told"] or found["ends"])
    for found in list(_HEADED.finditer(text))[-1:]:
        if not _REASONS.search(found["name"]):
            yield "tagged", _restated(found["told"])
    for content in _hashed(text):
        yield "hashes", _restated(content)
    for content in _fields(text):
        yield "tagged", content
    text = text[: text.rfind("\n") + 1] if is_cut(text) else text
    below = text.rfind("\n\n")
    aside = below >= 0 and _ASIDE.match(text[below + 1 :][:LONGEST_PASSAGE])
    for at, content in [*_statements(text[:below] if aside else ""), *_statements(text)]:
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
    for found in list(_SHOULD.finditer(rest))[-1:]:
        yield "stated", rest[found.end() :]
    yield "stated" if is_said else "rethought", rest


def _fields(text: str) -> Iterator[str]:
    """Values of a field `answer` in JSON, or of the only field that gives no reason."""
    if whole := _OBJECT.search(text):
        try:
            values = json.loads(whole[1])
        except (ValueError, RecursionError):
            values = {}
        told = [value for name, value in values.items() if not _REASONS.search(name)]
        if len(told) == 1 and isinstance(told[0], (str, bool, int, float, list)):
            yield told[0] if isinstance(told[0], str) else json.dumps(told[0], ensure_ascii=False)
    fields = _FIELDS if text.lstrip("` jsonJSON\n").startswith("{") else _FIELD
    for found in list(fields.finditer(text))[: -_TRIES - 1 : -1]:
        part = text[found.end() : found.end() + LONGEST_PASSAGE]
        try:
            value: Any = json.JSONDecoder().raw_decode(part)[0]
        except (ValueError, RecursionError):
            quoted = _SINGLE_QUOTED.match(part)
            value = quoted[1] if quoted else None
        if isinstance(value, dict):
            value = value.get("value", next(iter(value.values())) if len(value) == 1 else None)
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
        told: list[str] = []
        next_at = len(text)
        for at in _places(text, box):
            if content := _braced(text, at + len(box)):
                joined = _JOINED.match(text, text.find(content, at) + len(content))
                if not joined or joined.end() != next_at:
                    told.append(content)
                elif content not in told[-1]:
                    told[-1] = f"{content}, {told[-1]}"
                next_at = at
        yield from told


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
        rest = text[at:].partition("\n")[2]
        told = _TOLD_FIRST.match(line) and next(_statements(rest), None) is None
        below = not told and cleaned(rest[:LONGEST_PASSAGE])
        is_heading = below or _HEADS.fullmatch(line)
        if line and not is_heading and not text[:at].rpartition("\n")[2].strip(" *"):
            yield line


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Statements and where they end, the last ones first."""
    ends = dict[int, int]()
    lowered = text.lower()
    if len(lowered) != len(text):  # a letter that grows when it is made small
        lowered = text
    for at in _places(lowered, "answer"):
        found = _STATED.match(text, at)
        before = text[max(0, at - 30) : at]
        if found and not (
            _UNKNOWN.search(before) or (found[0][-1] == "\n" and _PREDICATE.search(before))
        ):
            ends[at] = found.end()
    for pattern in (_SHORT, _ELSEWHERE, _CHOSEN):
        for found in list(pattern.finditer(text))[-_TRIES:]:
            ends.setdefault(found.start(found.lastindex or 0), found.end())
    for end in sorted(ends.values(), reverse=True):
        yield end, _following(text, end)


def _following(text: str, start: int) -> str:
    """A passage; it begins with a line's end if it begins on a new line."""
    passage = text[start : start + LONGEST_PASSAGE]
    if _INSIDE.search(text, max(0, start - 44), start):
        passage = passage.replace("}", "", 1)
    plain = _OPENS.sub("", passage, count=1)
    is_new_line = "\n" in text[start - 1 : start + len(passage) - len(plain)]
    plain = _SHOWN.sub(" ", _ON_LINES.sub(r"\1\2\3", plain))
    plain = _IS_BEHIND.split(plain, maxsplit=1)[0] or plain
    plain = plain.partition("\n\n")[0] if len(plain) > _SHORT_PASSAGE else plain
    return "\n" + plain if is_new_line else plain


def extract_answer(text: str) -> tuple[str, str] | None:
    r"""The answer stated in a text and its marker, or None.

    The last statement wins, in this order of preference: `\boxed{...}`, `#### ...`,
    `Answer: ...` or `the answer is ...`.

    >>> extract_answer("4-1=3\n3-7=-4\nAnswer: -4")
    ('-4', 'stated')
    >>> extract_answer(r"\boxed{\frac{1}{2}}"), extract_answer("no idea") is None
    (('\\frac{1}{2}', 'boxed'), True)
    """
    stated = ((how, marker.findall(text)[-1:]) for how, marker in _PLAIN_MARKERS.items())
    for how, found in chain([("boxed", [*_boxes(text)][:1])], stated):
        if found:
            answer = found[0].strip().rstrip(".").strip()
            return (answer, how) if answer else None
    return None


_OTHER = re.compile(
    rf"""\b\d{{1,2}}:\d\d(?::\d\d)?(?:\.\d+)?(?:\s?[ap]\.?m\b\.?)?             # times
    |\b\d{{1,2}}\s?(?:[ap]\.?m\b|o['’]clock)
    |\b(?:{MONTHS})\.?\ \d{{1,2}}(?:st|nd|rd|th)?\b(?:,?\ \d{{4}}\b)?  # dates
    |\b\d{{1,2}}(?:st|nd|rd|th)?\ (?:of\ )?(?:{MONTHS})\b(?:,?\ \d{{4}}\b)?
    |\b(?:{MONTHS})\ \d{{4}}\b|\b1[5-9]\d0s\b|\b20\d0s\b
    |\bnot\ [$€£]?[\d.,]{{0,20}}\d(?:\ but\b)?                                # "not 19 but 20"
    |\b(?:instead\ of|rather\ than)\ [$€£]?[\d.,]{{0,20}}\d%?
    |,\ (?:which\ (?:is|was)\ )?[$€£]?[\d.,]{{0,20}}\d%?(?:\ \w+){{0,2}}      # "12, 5 more than"
      \ (?:more|less|\w+er)\ than\b(?:[^,;]|,(?=\d))*
    |,\ (?:who|which\ ha\w+|which\ is\ enough|(?:al)?though|but\ if|unless)\b(?:[^,;]|,(?=\d))*
    |\b(?:at|when|for|where|if|with)\ [a-z]\s?=\s?-?[\d./]{{1,20}}           # conditions""",
    re.VERBOSE | re.IGNORECASE,
)
_IS = re.compile(
    r"(?:\b(?:is|are|was|were|equals?|be|gives?|makes?|get|total(?: of)?|brings in"
    r"|(?:comes?|amounts?|adds? up)(?: out)? to)\b:?|[=≈:])\s*"
)
_SHARE = re.compile(r", which (?:is|was|represents) [\d.]{1,9}% of\b[^,;]*\Z")
_TOLD = re.compile(r"[^\W\d]\s?[:=]\s?[$€£]?-?\d")
_BOTH = re.compile(
    r"\b(?:is|are|has|have)\s[$€£]?-?\d[^,;.=]{0,30}\band\b"
    r"[^,;.=\d]{1,30}\b(?:is|are|has|have)\s[$€£]?-?\d"
    r"|\b[A-Z][a-z]+:?\s(?:[a-z]+\s){0,2}[$€£]?\d[^.;=]{0,40}(?:,|\band)\s(?:and\s)?"
    r"[A-Z][a-z]+:?\s(?:[a-z]+\s){0,2}[$€£]?\d[\d.,]{0,20}(?:\s\w+)?\W*$"
)
_LABELLED = re.compile(r"\W*\w+(?:\ \w+){0,2}\ ?[:=)]\s?[$€£]?-?\d[^=]*", re.VERBOSE)
_PROCEEDS = re.compile(
    r"\b(?:add|subtract|multiply|divide|calculate|substitute|sum up|adding|subtracting|multiplying|"
    r"dividing|find (?:out )?(?:the|how))\b",
    re.IGNORECASE,
)
_IN_PHRASE = re.compile(
    r"\b(?:for|with|to|in(?!\ (?:total|all|sum|fact)\b)|(?<!total\ )of|per|at(?!\ least)|from|"
    r"after|by|over|within|every|each|than|among|between|on|during|across|throughout)"
    r"(?:\ (?!is\b|are\b|has\b|have\b)[^\W\d]{1,20}){0,3}\ ?[$€£]?$",
    re.IGNORECASE | re.VERBOSE,
)
_KNOWN = re.compile(r"\b(?:the|these|those|all|both) [$€£]?$", re.IGNORECASE)
"""What stands before a number that was told of before, "the 2 trains"."""
_CHECK = r"(?:(?:quick|sanity|double|final)[- ]){0,2}(?:check|verif)"
_CHECKS = re.compile(
    rf"\W*(?:(?:to|(?:we|you) can|let(?:['’]s| me| us)) )?{_CHECK}"
    r"|\W*(?:this|that) (?:makes sense|is (?:correct|right|reasonable)|matches|confirms)\b"
    r"|\W*(?:please )?(?:let me know|feel free|i? ?hope|(?:would|do) you (?:like|want|need)"
    r"|if you(?:['’]d like| would like| want me| (?:need|have) (?:any|more|further|other)))\b",
    re.IGNORECASE,
)
_ASIDE = re.compile(
    rf"\n\W*(?:note|caveat|fun fact|test|{_CHECK}[a-z]*(?: [a-z]+){{0,2}}"
    r"|references?|sources?|disclaimer|assumptions?|confidence)\W{0,3}(?::|(?<=ation)\n)\s*(?:(?!\n\n).)*\Z",
    re.IGNORECASE | re.DOTALL,
)
"""What may stand at the end of a text, below its answer."""
NO_ANSWER = re.compile(
    r"""\b(?:can(?:no|'|’)t|cannot|can\ not|unable\ to|impossible\ to|not\ possible\ to|no\ way\ to)
    \ (?:be\ )?(?:\w+ly\ )?
    (?:answer|determin|solve|help|assist|calculat|find|found|comput|say|tell|know|access)
    |\b(?:not\ enough|\w+n['’]t\ (?:\w+\ )?enough|insufficient|more|further)\ (?:information|data)
    |\bno\ idea\b|\bdon['’]?t\ (?:know|have\ access)
    |\bplease\ (?:provide|tell|give|clarify|specify)|\bcould\ you\b|\bdepends\ on\b
    |\b(?:no|not\ an?)\ (?:correct\ )?answer\b|\bno\ (?:\w+\ )?solutions?\b|\bdiverges?\b
    |\b(?:not|n['’]t)\ exist\b|\bas\ an\ AI\b
    |\A\W*not\ (?:something|possible|clear|known)\b|\bnot\ (?:given|specified|provided)\b""",
    re.VERBOSE | re.IGNORECASE,
)
_CLAUSE = re.compile(r"[,;(]\s*(?:so|thus|hence|therefore|which is|i\.e\.,?|giving|making)\s")
_SO = re.compile(r"[,;]\s(?:and\s)?(?:so|thus|hence|therefore)\s(?=.*\d)")
_GIVEN = re.compile(
    r"\A(?:(?:so|thus|hence|therefore),? )?(?:since|because|as|if|when|after|before|(?:out )?of"
    r"|on|at|with|après|después de)\s(?:[^,<>=]|,(?=\d))*,\s(?=.*\d)",
    re.IGNORECASE,
)
"""What a sentence says first of what is known, "after 6 months, ..."."""
_ENUMERATOR = re.compile(
    r"\A\s*(?:#{1,6}\s+)?(?:step\s\d+\W|\d{1,3}[.)]\s|[-*•]\s)\s*", re.IGNORECASE
)
_SENTENCE = re.compile(
    r"(?<=[.!?])(?<!\d[.!?])(?<!\b(?:Mio|Mrd)\.)(?<!\bRs\.)\s+|(?<=\d[.!?])\s+(?=[A-Z])|\n"
)
_UNFINISHED = re.compile(r"\w\s*$")
_CUT = re.compile(r"[^\W\d]\D{0,3}\s[-$€£]?\d(?:[\d.,]*[\d,])?$")
_LONG_SENTENCE = 60
_CAN_BE_CUT = 400
"""Characters from which on a text that ends in a number may have been cut inside it."""
_BULLET = re.compile(r"\s*[-*•]\s")
CONCLUDES = re.compile(
    r"=|\b(?:total|final|answer|therefore|so|thus|hence|result)\b", re.IGNORECASE
)
_SUMS_UP = re.compile(r"(?i)\b(?:total|altogether|therefore|so|thus|hence)\b")
_LAST_WORD = re.compile(r"\d(?!\S*, and\b)[^\s=+*/×:]*(?:\s[^\W\d]+){0,2}$")


def number_in(sentence: str, *, last: bool = False) -> str | None:
    """The number that a cleaned sentence comes to: after its last "is", or the only one in it.

    With `last` the last one of several will do.
    """
    sentence = _OTHER.sub(" ; ", sentence.strip())
    if sentence.endswith("?") or NO_ANSWER.search(sentence):
        return None
    remark = REMARK.search(sentence) or _SHARE.search(sentence)
    if remark and any(character.isdigit() for character in sentence[: remark.start()]):
        sentence = sentence[: remark.start()]
    sentence = _SO.split(sentence)[-1]
    told = () if last else _TOLD.findall(sentence)
    if SEVERAL.search(sentence) or _BOTH.search(sentence) or len(told) > 1:
        return None
    sentence = _GIVEN.sub("", sentence, count=1)
    found = list(quantities(sentence))
    starts = {quantity.start: quantity for quantity in found}
    for verb in reversed(list(_IS.finditer(sentence))):
        at = after_hedges(sentence, verb.end())
        if DENIED.search(sentence[:at]):
            return None
        if at in starts:
            told_of = len(sentence[: verb.start()].rstrip())
            rounds = "≈" in verb[0] and "." in (starts[at].value or "")
            if rounds and any(q.end == told_of and "/" in (q.value or "") for q in found):
                continue
            return starts[at].value
        if spelt := spelt_at(sentence, at):
            return spelt.value
    if len(found) > 1 and (clause := list(_CLAUSE.finditer(sentence))):
        return number_in(sentence[clause[-1].end() :], last=last)
    if len(found) > 1 and last:
        found = [q for q in found if not _KNOWN.search(sentence[: q.start])] or found
        found = [q for q in found if not _IN_PHRASE.search(sentence[: q.start])][-1:] or found[:1]
    alone = len(found) == 1 and not DENIED.search(sentence[: found[0].start])
    return found[0].value if alone else None


def last_number(text: str) -> str | None:
    """The last number of a cleaned text, if the text does not end before its answer.

    >>> last_number("3 bags of 4. So there are 12 apples. Enjoy!"), last_number("Step 2: Add 5 to")
    ('12', None)
    """
    before = _ASIDE.sub("", text)
    text = before if any(character.isdigit() for character in before) else text
    sentences = [part for part in _SENTENCE.split(text) if part and part.strip(" \t*_`$\\[]()")]
    asides = [s[0] + s[-1] == "()" or _CHECKS.match(s) is not None for s in sentences]
    sentences = [s for s, aside in zip(sentences, asides, strict=True) if not aside] or sentences
    if not sentences or is_unfinished(text, sentences[-1].rstrip(), len(sentences) > 1):
        return None
    if any(map(NO_ANSWER.search, sentences[:-4:-1])):
        return None
    labelled = [_LABELLED.fullmatch(line) is not None for line in text.strip().splitlines()[-2:]]
    if len(labelled) == 2 and all(labelled) and not CONCLUDES.search(sentences[-1]):
        return None
    for sentence in sentences[:-4:-1]:
        line = _ENUMERATOR.sub("", sentence, count=1) if len(sentences) > 1 else sentence
        if _BULLET.match(sentence) and len(sentences) > 1 and not CONCLUDES.search(line):
            return None
        if _PROCEEDS.search(line) and not _IS.search(line):
            return None
        if any(character.isdigit() for character in line):
            return number_in(line, last=True)
        if _SUMS_UP.search(line) and (words := spelt_in(line)) not in ([], ["1"]):
            return words[0] if len(words) == 1 else None
    return None


def is_unfinished(text: str, ends: str, long: bool) -> bool:
    """Whether a text was cut before or within its last number; `ends` is its last sentence."""
    long = long or len(ends) > _LONG_SENTENCE
    if long and _UNFINISHED.search(ends) and not _LAST_WORD.search(ends):
        return True
    if OPEN_END.search(ends) or ends.count("(") > ends.count(")"):
        return True
    return len(text) > _CAN_BE_CUT and _CUT.search(ends) is not None
