"""What sentences come to as numbers: after their last "is", or the last one in them.

Sentences that were cut, refuse, check or tell how to go on come to nothing.
"""

from __future__ import annotations

import re

from controller.answers.numbers import (
    MONTHS,
    OPEN_END,
    REMARK,
    SEVERAL,
    after_hedges,
    quantities,
    spelt_at,
)

_OTHER = re.compile(
    rf"""\b\d{{1,2}}:\d\d(?::\d\d)?(?:\.\d+)?(?:\s?[ap]\.?m\b\.?)?             # times
    |\b\d{{1,2}}\s?(?:[ap]\.?m\b|o['’]clock)
    |\b(?:{MONTHS})\.?\ \d{{1,2}}(?:st|nd|rd|th)?\b(?:,?\ \d{{4}}\b)?  # dates
    |\b\d{{1,2}}(?:st|nd|rd|th)?\ (?:of\ )?(?:{MONTHS})\b(?:,?\ \d{{4}}\b)?
    |\b(?:{MONTHS})\ \d{{4}}\b|\b1[5-9]\d0s\b|\b20\d0s\b
    |\bnot\ [$€£]?[\d.,]{{0,20}}\d(?:\ but\b)?                                # "not 19 but 20"
    |\b(?:at|when|for|where|if|with)\ [a-z]\s?=\s?-?[\d./]{{1,20}}           # conditions""",
    re.VERBOSE | re.IGNORECASE,
)
_IS = re.compile(
    r"(?:\b(?:is|are|was|were|equals?|be|gives?|makes?|get|total(?: of)?)\b:?|[=≈:])\s*"
)
_TOLD = re.compile(r"[^\W\d]\s?[:=]\s?[$€£]?-?\d")
_BOTH = re.compile(
    r"\b(?:is|are|has|have)\s[$€£]?-?\d[^,;.=]{0,30}\band\b"
    r"[^,;.=\d]{1,30}\b(?:is|are|has|have)\s[$€£]?-?\d"
)
_LABELLED = re.compile(r"\W*\w+(?:\ \w+){0,2}\ ?[:=)]\s?[$€£]?-?\d[^=]*", re.VERBOSE)
_PROCEEDS = re.compile(
    r"\b(?:add|subtract|multiply|divide|calculate|substitute|sum up|adding|subtracting|multiplying|"
    r"dividing|find (?:out )?(?:the|how))\b",
    re.IGNORECASE,
)
_IN_PHRASE = re.compile(
    r"\b(?:for|with|to|in(?!\ (?:total|all|sum|fact)\b)|(?<!total\ )of|per|at(?!\ least)|from|"
    r"after|by|over|within|every|each|than|among|between|on)"
    r"(?:\ (?!is\b|are\b|has\b|have\b)[^\W\d]{1,20}){0,3}\ ?[$€£]?$",
    re.IGNORECASE | re.VERBOSE,
)
_CHECKS = re.compile(
    r"\W*(?:check|verif|to (?:check|verify)|(?:we|you) can (?:check|verify))", re.IGNORECASE
)
NO_ANSWER = re.compile(
    r"""\b(?:can(?:no|'|’)t|cannot|can\ not|unable\ to|impossible\ to|not\ possible\ to|no\ way\ to)
    \ (?:be\ )?(?:\w+ly\ )?
    (?:answer|determin|solve|help|assist|calculat|find|found|comput|say|tell|know|access)
    |\b(?:not\ enough|insufficient|more|further)\ (?:information|data)
    |\bno\ idea\b|\bdon['’]?t\ (?:know|have\ access)
    |\bplease\ (?:provide|tell|give|clarify|specify)|\bcould\ you\b|\bdepends\ on\b
    |\b(?:no|not\ an?)\ (?:correct\ )?answer\b|\bnot\ (?:given|specified|provided)\b""",
    re.VERBOSE | re.IGNORECASE,
)
_CLAUSE = re.compile(r"[,;(]\s*(?:so|thus|hence|therefore|which is|i\.e\.,?|or|giving|making)\s")
_ENUMERATOR = re.compile(
    r"\A\s*(?:#{1,6}\s+)?(?:step\s\d+\W|\d{1,3}[.)]\s|[-*•]\s)\s*", re.IGNORECASE
)
_SENTENCE = re.compile(r"(?<=[.!?])(?<!\d[.!?])\s+|(?<=\d[.!?])\s+(?=[A-Z])|\n")
_UNFINISHED = re.compile(r"\w\s*$")
_MORE_TO_COME = re.compile(r"\b(?:of|the|an?|by|to|and|or|with|from|in|for|is|are|that|then)\s*$")
_CUT = re.compile(r"[^\W\d]\D{0,3}\s[-$€£]?\d[\d.,]*$")
_LONG_SENTENCE = 60
_CAN_BE_CUT = 400
"""Characters from which on a text that ends in a number may have been cut inside it."""
_BULLET = re.compile(r"\s*[-*•]\s")
CONCLUDES = re.compile(
    r"=|\b(?:total|final|answer|therefore|so|thus|hence|result)\b", re.IGNORECASE
)
_LAST_WORD = re.compile(r"\d[^\s=+*/×:]*(?:\s[^\W\d]+){0,2}$")


def number_in(sentence: str, *, last: bool = False) -> str | None:
    """The number that a cleaned sentence comes to: after its last "is", or the only one in it.

    With `last` the last one of several will do.
    """
    sentence = _OTHER.sub(" ; ", sentence.strip())
    if sentence.endswith("?") or NO_ANSWER.search(sentence):
        return None
    remark = REMARK.search(sentence)
    if remark and any(character.isdigit() for character in sentence[: remark.start()]):
        sentence = sentence[: remark.start()]
    told = () if last else _TOLD.findall(sentence)
    if SEVERAL.search(sentence) or _BOTH.search(sentence) or len(told) > 1:
        return None
    found = list(quantities(sentence))
    starts = {quantity.start: quantity for quantity in found}
    for verb in reversed(list(_IS.finditer(sentence))):
        at = after_hedges(sentence, verb.end())
        if at in starts:
            return starts[at].value
        if spelt := spelt_at(sentence, at):
            return spelt.value
    if len(found) > 1 and (clause := list(_CLAUSE.finditer(sentence))):
        return number_in(sentence[clause[-1].end() :], last=last)
    if len(found) > 1 and last:
        found = [q for q in found if not _IN_PHRASE.search(sentence[: q.start])][-1:] or found[:1]
    return found[0].value if len(found) == 1 else None


def last_number(text: str) -> str | None:
    """The last number of a cleaned text, if the text does not end before its answer.

    >>> last_number("3 bags of 4. So there are 12 apples. Enjoy!"), last_number("Step 2: Add 5 to")
    ('12', None)
    """
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
    return None


def is_unfinished(text: str, ends: str, long: bool) -> bool:
    """Whether a text was cut before or within its last number; `ends` is its last sentence."""
    long = long or len(ends) > _LONG_SENTENCE
    if long and _UNFINISHED.search(ends) and not _LAST_WORD.search(ends):
        return True
    if OPEN_END.search(ends) or _MORE_TO_COME.search(ends) or ends.count("(") > ends.count(")"):
        return True
    return len(text) > _CAN_BE_CUT and _CUT.search(ends) is not None
