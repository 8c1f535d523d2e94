"""Numbers in passages, in one spelling for each value, and whether expressions have one value.

Expressions are compared by math-verify in a process that is killed if it hangs.
"""

from __future__ import annotations

import atexit
import logging
import re
from collections.abc import Callable, Iterator
from decimal import Context, Decimal, Inexact, InvalidOperation, localcontext
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from pebble import ProcessPool

T = TypeVar("T")

TIMEOUT_S = 2.0
"""For what a process of its own does; expressions that take longer are different."""

_DIGITS, _MOST_DIGITS = 40, 1000
"""Powers of ten beyond which a number is left alone, and digits of the longest decimal."""

_WHOLE = 10**_DIGITS
"""Below it whole numbers are spelled without decimal arithmetic, which takes ten times as long."""

_CURRENCY = r"(?:US\$|[$€£¥₹]|(?:USD|EUR|GBP|Rs)\.?\ )\ ?"
_RUN = rf"""
    (?P<sign>[-+]|(?:minus|negative)\ )?(?:{_CURRENCY})?(?P<inner>[-+])?
    (?P<run>\.?\d(?:[\d.,:/_'’-]{{0,98}}\d)?(?:\ \d{{3}}(?![\d/])){{0,6}})
    (?P<mixed>\ {{1,2}}\d{{1,4}}/\d{{1,4}}(?![\d/]))?
    (?P<e>[eE][-+]?\d{{1,4}}(?!\w)|\s?[x×*]\s?10\s?(?:\^|\*\*)?[{{(]?\s?(?P<power>[-+]?\d{{1,4}})[}})]?)?
    (?:\ (?P<scale>thousand|million|billion|trillion)\b)?
"""  # fmt: skip
_HEAD = re.compile(_RUN, re.VERBOSE | re.IGNORECASE)
_ANYWHERE = re.compile(rf"(?<![\w.,:/^\\{{-]){_RUN}", re.VERBOSE | re.IGNORECASE)
_PLAIN = re.compile(r"\d+(?:\.\d*)?|\.\d+")
_AMOUNT = re.compile(r"[-+]?\$?(?:\d[\d,]*\.?\d*|\.\d+)%?")
_GROUPED = re.compile(r"\d{1,3}(?:([, '’_])\d{3})(?:\1\d{3})*(?:\.\d+)?|\d{1,2}(?:,\d\d)+,\d{3}")
_POINTS = re.compile(r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}|\d{1,3}(?: \d{3})+,\d+")
_COMMA = re.compile(r"\d+,\d{1,2}|0,\d+")
_RATIO = re.compile(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_NOT_ALONE = re.compile(
    rf"""\s?(?:[ap]\.?m\b|o['’]clock|(?:st|nd|rd|th)\b(?!\w))      # times and ordinals
    |\ (?:of\ )?(?:{_MONTHS})[a-z]{{0,6}}\b\.?(?=,?\ \d|$|\.|,)    # dates
    |\s*(?:[-–—×*/+÷^√π!]|\\(?!\\)|to\b|or\b|and\b|,)\s?[-+]?[$€£]?[\dπ√\\({{a-z](?<!\ [a-z])
    |\s?\^|\s?[πi√](?!\w)|[a-z](?![a-z/²³\d])(?<![gmlshkLNJWVCFK])  # powers, variables
    |\s?[a-z°%$€£]{{1,12}}\.?,?(?:\ and)?\ \d[\d.,]*\ ?(?!\d|%|\ ?=)[a-z]  # 2 hours 30 minutes
    |\s*:\s?\d""",
    re.VERBOSE | re.IGNORECASE,
)
_OTHER = re.compile(
    rf"""\b\d{{1,2}}:\d\d(?::\d\d)?(?:\.\d+)?(?:\s?[ap]\.?m\b\.?)?             # times
    |\b\d{{1,2}}\s?(?:[ap]\.?m\b|o['’]clock)
    |\b(?:{_MONTHS})[a-z]{{0,6}}\.?\ \d{{1,2}}(?:st|nd|rd|th)?\b(?:,?\ \d{{4}}\b)?  # dates
    |\b\d{{1,2}}(?:st|nd|rd|th)?\ (?:of\ )?(?:{_MONTHS})[a-z]{{0,6}}\b(?:,?\ \d{{4}}\b)?
    |\b(?:{_MONTHS})[a-z]{{2,6}}\ \d{{4}}\b
    |\b\d+\ [a-z]{{1,12}},?(?:\ and)?\ \d+\ [a-z]{{1,12}}\b                     # 2 hours 30 minutes
    |\b\d+\ (?:or|and|to)\ \d+\b
    |\b[-\d.]{{1,20}}(?:,\ ?[-\d.]{{1,20}}){{2,40}}(?!\d)(?<!,\d\d\d)               # lists""",
    re.VERBOSE | re.IGNORECASE,
)
_HEDGE = re.compile(
    r"(?:about|approximately|approx\.?|roughly|around|exactly|precisely|only|just|nearly|almost|"
    r"a\ total\ of|equal\ to|equals|is|the\ number|[~≈=:])\s*",
    re.IGNORECASE | re.VERBOSE,
)
_IS = re.compile(
    r"(?:\b(?:is|are|was|were|equals?|be|gives?|makes?|get|total(?: of)?)\b:?|[=≈:])\s*"
)
_ASSIGNED = re.compile(r"(?<![a-z\\])[a-z](?:_\w)?\s?=", re.IGNORECASE)
_ENUMERATOR = re.compile(
    r"\s*(?:#{1,6}\s+)?(?:step\s\d+\W|\d{1,3}[.)]\s|[-*•]\s)\s*", re.IGNORECASE
)
_SENTENCE = re.compile(r"(?<=[.!?])(?<!\d[.!?])\s+|(?<=\d[.!?])\s+(?=[A-Z])|\n")
_OPEN_END = re.compile(r"[-+*/×=,:;(<]\s*$")
_UNFINISHED = re.compile(r"\w\s*$")
_MORE_TO_COME = re.compile(r"\b(?:of|the|an?|by|to|and|or|with|from|in|for|is|are|that)\s*$")
_CUT = re.compile(r"[^\W\d]\D{0,3}\s[-$€£]?\d[\d.,]*$")
_LONG_SENTENCE = 60
_CAN_BE_CUT = 400
"""Characters from which on a text that ends in a number may have been cut inside it."""
_BULLET = re.compile(r"\s*[-*•]\s")
_CONCLUDES = re.compile(r"=|\b(?:total|final|answer|therefore|so|thus|result)\b", re.IGNORECASE)
_LAST_WORD = re.compile(r"\d[^\s=+*/×]*(?:\s[^\W\d]+){0,2}$")

_UNITS = (
    "zero,one,two,three,four,five,six,seven,eight,nine,ten,eleven,twelve,thirteen,fourteen,"
    "fifteen,sixteen,seventeen,eighteen,nineteen"
)
_TENS = "twenty,thirty,forty,fifty,sixty,seventy,eighty,ninety"
_WORDS: dict[str, int] = {word: value for value, word in enumerate(_UNITS.split(","))}
_WORDS |= {word: 10 * value for value, word in enumerate(_TENS.split(","), start=2)}
_WORDS |= {"hundred": 100, **_SCALES}
_WORD = "|".join(sorted(_WORDS, key=len, reverse=True))
_SPELT = re.compile(
    rf"(?:{_WORD})(?:(?:[ -]|\ and\ )(?:{_WORD}))*\b(?!\s(?:of|or|and|to)\b|-|/)",
    re.IGNORECASE | re.VERBOSE,
)


def spelling(value: Fraction) -> str:
    """One spelling for each value: a decimal number where it ends, else a fraction.

    >>> spelling(Fraction(1200)), spelling(Fraction(2, 4)), spelling(Fraction(-4, 6))
    ('1200', '0.5', '-2/3')
    """
    if value.denominator == 1 and abs(value.numerator) < _WHOLE:
        return str(value.numerator)
    with localcontext(Context(prec=_MOST_DIGITS, traps=[Inexact])):
        try:
            text = f"{(Decimal(value.numerator) / value.denominator).normalize():f}"
        except Inexact:
            text = ""
    ends = text and len(text.partition(".")[2]) <= _DIGITS
    return text if ends else f"{value.numerator}/{value.denominator}"


def number_at_start(passage: str) -> str | None:
    """The number that a cleaned passage begins with, units and remarks after it aside.

    >>> number_at_start("about $1,200.50 a month"), number_at_start("seventy-two dollars")
    ('1200.5', '72')
    >>> number_at_start("12:30"), number_at_start("2 hours 30 minutes"), number_at_start("3, 5")
    (None, None, None)
    """
    passage = passage.lstrip(" \t\n([{\"'“").rstrip()
    if passage.isdecimal() and len(passage) <= _DIGITS:
        return str(int(passage))
    if "=" in passage or "≈" in passage:
        line = passage.partition("\n")[0]
        if len(_ASSIGNED.findall(line)) > 1:
            return None
        _, sign, right = line.replace("≈", "=").rpartition("=")
        passage = right.lstrip() if sign else passage
    while hedge := _HEDGE.match(passage):
        passage = passage[hedge.end() :]
    found = _HEAD.match(passage)
    if found:
        return _value(found, passage, free=False)
    spelt = _SPELT.match(passage)
    return spelling(Fraction(_spelt_value(spelt[0]))) if spelt else None


def number_in(sentence: str, *, last: bool = False) -> str | None:
    """The number that a sentence comes to: after its last "is", or the only one in it.

    Args:
        sentence: cleaned.
        last: whether the last one of several will do.
    """
    sentence = _OTHER.sub(" ; ", sentence.rstrip())
    if sentence.endswith("?"):
        return None
    for found in reversed(list(_IS.finditer(sentence))):
        if (number := number_at_start(sentence[found.end() :])) is not None:
            return number
    numbers = list(_numbers(sentence))
    if not numbers or (len(numbers) > 1 and not last):
        return None
    return numbers[-1]


def last_number(text: str) -> str | None:
    """The last number of a cleaned text, if the text does not end before its answer.

    >>> last_number("3 bags of 4. So there are 12 apples. Enjoy!"), last_number("Step 2: Add 5 to")
    ('12', None)
    """
    sentences = [part for part in _SENTENCE.split(text) if part and part.strip(" \t*_`$\\[]()")]
    if not sentences:
        return None
    ends = sentences[-1].rstrip()
    long = len(sentences) > 1 or len(ends) > _LONG_SENTENCE
    if long and _UNFINISHED.search(ends) and not _LAST_WORD.search(ends):
        return None
    if _OPEN_END.search(ends) or _MORE_TO_COME.search(ends) or ends.count("(") > ends.count(")"):
        return None
    if len(text) > _CAN_BE_CUT and _CUT.search(ends):
        return None
    for sentence in sentences[:-4:-1]:
        line = _ENUMERATOR.sub("", sentence, count=1) if len(sentences) > 1 else sentence
        if _BULLET.match(sentence) and len(sentences) > 1 and not _CONCLUDES.search(line):
            return None
        if any(character.isdigit() for character in line):
            return number_in(line, last=True)
    return None


def _numbers(sentence: str) -> Iterator[str]:
    for found in _ANYWHERE.finditer(sentence):
        money = not found[0].lstrip("-+").startswith(found["run"])
        value = _value(found, sentence, free=not money)
        if value is not None:
            yield value


def _value(found: re.Match[str], passage: str, *, free: bool) -> str | None:
    """The number found, None if what it is part of is something else."""
    after = passage[found.end() : found.end() + 40]
    if after[:1] not in ("", ".", "%", ")", "}", "\n") and _NOT_ALONE.match(after):
        return None
    value = _run_value(found["run"], free=free)
    if value is None:
        return None
    if found["mixed"]:
        part = _run_value(found["mixed"].strip(), free=free)
        if part is None or value.denominator != 1:
            return None
        value += part
    if found["e"]:
        power = int(found["power"] or found["e"][1:])
        if abs(power) > _DIGITS:
            return None
        value *= Fraction(10) ** power
    if found["scale"]:
        value *= _SCALES[found["scale"].lower()]
    negative = (found["sign"] or "+") != "+" or found["inner"] == "-"
    return spelling(-value if negative else value)


def _run_value(run: str, *, free: bool) -> Fraction | None:
    """The value of digits and separators; None for dates, times, ranges and lists."""
    if run.isdecimal():
        return Fraction(int(run))
    if _PLAIN.fullmatch(run):
        return Fraction(run)
    if _GROUPED.fullmatch(run):
        return Fraction(re.sub("[, '’_]", "", run))
    if _POINTS.fullmatch(run):
        return Fraction(run.replace(".", "").replace(" ", "").replace(",", "."))
    if not free and _COMMA.fullmatch(run):
        return Fraction(run.replace(",", "."))
    ratio = _RATIO.fullmatch(run)
    if ratio and Fraction(ratio[2]):
        return Fraction(ratio[1]) / Fraction(ratio[2])
    return None


def _spelt_value(words: str) -> int:
    """What number words amount to.

    >>> _spelt_value("one hundred and twenty-three thousand four")
    123004
    """
    total = part = 0
    for word in re.split(r"[ -]", words.lower()):
        if word in _SCALES:
            total, part = total + max(part, 1) * _SCALES[word], 0
        elif word == "hundred":
            part = max(part, 1) * 100
        elif word != "and":
            part += _WORDS[word]
    return total + part


def normalize_answer(answer: str) -> str | None:
    """Spelling under which equal answers are equal: numbers by value, text as it is.

    >>> normalize_answer("$1,200.00"), normalize_answer(" 7 "), normalize_answer("B. dogs")
    ('1200', '7', 'B. dogs')
    """
    text = " ".join(answer.split())
    if _AMOUNT.fullmatch(text):
        try:
            number = Decimal(text.replace(",", "").replace("$", "").rstrip("%"))
        except InvalidOperation:
            return text
        if abs(number.adjusted()) < 40:
            return f"{number.normalize():f}"
    return text or None


def same_value(one: str, other: str, *, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether two expressions have one mathematical value."""
    return in_time(equal_expressions, one, other, begin=_load, timeout_s=timeout_s, otherwise=False)


def _load() -> None:
    equal_expressions("1", "1")


def in_time(
    work: Callable[..., T],
    *given: object,
    begin: Callable[[], None],
    timeout_s: float = TIMEOUT_S,
    otherwise: T,
) -> T:
    """The result of a function in a process of its own, or `otherwise` if it hangs or dies.

    The process begins with `begin`, such as imports, which no time is counted of.
    """
    from pebble import ProcessExpired

    future = _pool(begin).schedule(work, args=given, timeout=timeout_s)
    try:
        return future.result()
    except (TimeoutError, ProcessExpired):
        return otherwise


def equal_expressions(one: str, other: str) -> bool:
    r"""The comparison itself, in this process.

    Both are read as LaTeX alone: math-verify reads other expressions with `eval`.

    >>> equal_expressions("1/2", "0.5"), equal_expressions("x+1", "1+x")
    (True, True)
    """
    from math_verify import LatexExtractionConfig, parse, verify

    # It warns that somebody else has to watch the time: `same_value` does.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    latex = [LatexExtractionConfig()]
    parsed = [parse(f"${text}$", latex, parsing_timeout=None) for text in (one, other)]
    return all(parsed) and bool(verify(*parsed, timeout_seconds=None))


@cache
def _pool(begin: Callable[[], None]) -> ProcessPool:
    import multiprocessing

    from pebble import ProcessPool

    context = multiprocessing.get_context("spawn")
    pool = ProcessPool(1, context=context, initializer=begin)
    atexit.register(_stop, pool)
    return pool


def _stop(pool: ProcessPool) -> None:
    pool.stop()  # type: ignore[no-untyped-call]
    pool.join()
