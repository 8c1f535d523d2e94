"""Numbers in passages, in one spelling for each value.

What a number is part of decides whether it is one: a time, a range, a pair, an inequality or
`2 hours 30 minutes` is no number, and none of its numbers is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation, localcontext
from fractions import Fraction

_DIGITS, _MOST_DIGITS = 40, 1000
"""Powers of ten beyond which a number is left alone, and digits of the longest decimal."""

_WHOLE = 10**_DIGITS
"""Below it whole numbers are spelled without decimal arithmetic, which takes ten times as long."""

_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_THOUSAND = "mil mille tausend тыс тысяч тысячи"
_MILLIONS = "mio millionen millones milhões milioni млн миллионов миллиона"
_MILLIARDS = "mrd milliarden milliard miliardi bilhões млрд миллиардов"
_SCALED = {**_SCALES, "hundred": 100, "lakh": 10**5, "crore": 10**7}
_SCALED |= dict.fromkeys(_THOUSAND.split(), 10**3) | dict.fromkeys(_MILLIONS.split(), 10**6)
_SCALED |= dict.fromkeys(_MILLIARDS.split(), 10**9)
_MONEY_SCALES = {"M": 10**6, "B": 10**9}
_SIGNED_SCALES = dict.fromkeys("万萬만", 10**4) | dict.fromkeys("억億亿", 10**8) | {"k": 10**3}
_SIGNS = _MONEY_SCALES | _SIGNED_SCALES

_CURRENCY = (
    r"(?:[A-Z]{0,2}[$€£¥₹₩₽₺₦₱₫฿₪]"
    r"|(?:USD|EUR|GBP|CHF|JPY|CNY|INR|CAD|AUD|BRL|RUB|RMB|Rs|Rp|Fr|RM|kr|Ksh)\.?\ )\ ?"
)
_RUN = rf"""
    (?P<sign>[-+]|(?:(?i:minus|negative))\ )?(?P<money>{_CURRENCY})?(?P<inner>[-+])?
    (?P<run>\.?\d(?:[\d.,/:_'’-]{{0,98}}\d)?(?:\ \d{{3}}(?![\d/])){{0,6}}(?:,\d{{1,2}}(?!\d))?)
    (?P<mixed>\ {{1,2}}(?:and\ )?\d{{1,4}}/\d{{1,4}}(?![\d/]))?
    (?P<e>[eE][-+]?\d{{1,4}}(?!\w)
      |\s?[x×*·]\s?10\s?(?:\^|\*\*)\s?[{{(]?\s?(?P<power>[-+]?\d{{1,4}})[}})]?)?
    (?:\ ?(?P<scale>(?<=\ )(?i:{"|".join(_SCALED)})s?\b|[万萬만억億亿])
      |(?P<k>[kMB])(?!\w))?
"""
_ANYWHERE = re.compile(rf"(?<![\w.,/^\\-])(?<![\W\d_]:)(?<![\w^}}]{{){_RUN}", re.VERBOSE)
_OF_SUMS = re.compile(r"\A(([$€£])\d[\d.,]{0,20}) ?/ ?\2(?=\d[\d.,]{0,20}\Z)")
"""Money over money, alone: elsewhere it may be two prices."""
_OWED = re.compile(r"\A(?:\(([$€£])|([$€£])\()(?=\d[\d.,]*\)\W*\Z)")
"""Money in brackets, alone: bookkeepers' minus."""
_PLAIN = re.compile(r"\d+(?:\.\d*)?|\.\d+")
_AMOUNT = re.compile(r"[-+]?\$?(?:\d[\d,]*\.?\d*|\.\d+)%?")
_GROUPED = re.compile(
    r"[1-9]\d{0,2}(?:([, '’_])\d{3})(?:\1\d{3})*(?:\.\d+)?|\d{1,2}(?:,\d\d)+,\d{3}(?:\.\d+)?"
)
_POINTS = re.compile(r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}|\d{1,3}(?: \d{3})+,\d+")
_COMMA = re.compile(r"\d+,\d{1,2}|0,\d+")
_THOUSANDS = re.compile(r"[1-9]\d{0,2}\.\d{3}")
_POINTED = re.compile(
    r"\s?(?:€|EUR\b|[Ee]uros?\b|kr\b|лв|₺|₫|đồng\b|rupiah\b|TL\b|reais\b)(?!\s?/)"
)
_THOUSANDS_POINTED = ("€", "R$", "EUR", "kr", "Rp", "₫")
"""Money whose thousands stand before points, and that has no thousandths."""
_PAIR = re.compile(r"-?(?:\d+,\d{1,2}|0,\d+)\s?[)\]}]")
"""What follows an opening bracket where a comma parts two numbers, not a number's digits."""
_RATIO = re.compile(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")

MONTHS = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    "oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
)
_PART_WORDS = "hal(?:f|ves)|(?:third|quarter|fourth|fifth|sixth|eighth|tenth)s?"
_NOT_ALONE = re.compile(
    rf"""\s?(?:[ap]\.?m\b|o['’]clock|(?:st|nd|rd|th)\b(?!\w))      # times and ordinals
    |\ (?:of\ )?(?:{MONTHS})\b\.?(?=,?\ \d|$|\.|,)    # dates
    |\s?(?:[<>≤≥±√π^_¹²³→]|\+/-|!=|->)|\s?i(?!\w)                      # relations, powers, roots
    |,\s?[-+]?∞|\.?\s?\\(?=[a-z])|°\ ?\d|['′]\d|!(?=\s?[=+*/-])|\.?\(\d+\)|\*\*|[\u0300-\u036f]
    |\([^()\s]{{0,20}}[-+√\\]|\ ?\[\[                            # factors
    |\ (?:squared|cubed)\b|\ (?:and\ (?:an?\ )?)?(?:{_PART_WORDS})\b
    |\ (?:in|out\ of)\ \d+\W*$|/[a-z]\b(?<!/[hs])
    |\s*[-–×*·/+÷]\s?[({{\\]|[-–×*·+÷][a-z]|\s?[×*·+÷]\s?[a-z]\b|\(\ ?[a-z]  # formulas
    |[a-z](?![a-z/²³\d^])(?<![gmlshkLNJWVCFK])|[a-z]{{1,3}}\d          # variables
    |\ (?-i:[xyznpqr])(?=[\s^+*/=)}},.]|$)""",
    re.VERBOSE | re.IGNORECASE,
)
_FUNCTION_WORDS = (
    "since|because|as|given|if|when|while|where|for|after|before|at|than|not|is|are|was|were|with|"
    "without|from|but|so|that|which|it|its|per|each|every|has|have|on|into|makes?|gives?|equals?|"
    "left|remain\\w*|i|the|a|an|there|this|in"
)
_NOUN = rf"(?!(?:{_FUNCTION_WORDS})\b)[^\W\d_]{{1,14}}"
_MEASURED = re.compile(rf"\s?(?:[€%°]|EUR\b)|\s(?!(?:and|or|to)\b){_NOUN}\b")
_LINK = re.compile(
    rf"""(?!\ ?(?:%|percent\b)\ of\b)\ ?[%°$€£¥₹'"′″]?
    (?:\ ?{_NOUN}(?:\^?[23])?\.?)?[)\]]?  # unit
    (?:\s*(?:,(?:\s*(?:\.\.\.|…|\\[lc]?dots)\s*,?)?|;|[-–—/|×*+÷±·<>≤≥→x]|\+/-|->|=>
       |,?\s(?:and|or|nor)\s|\s(?:to|by|of|through)\s
       |\s(?:over|versus|vs\.?|plus|minus|times|remainder|rem\.?|R|r\.?|until)\s)\s*
      [(\[{{$€£¥₹]? | :|\ :\ |\ (?:and\ )?|R|r)
    |(?:\ {_NOUN}){{1,2}}\ and\ |\)\s?\(|[;,]?\ \(?[a-z]\)\ |\ (?:out\ of|over|[xX])\ """,
    re.VERBOSE | re.IGNORECASE,
)
_LONGEST_LINK = 30
_RELATION = re.compile(
    r"(?:[<>≤≥≠±∓/*×÷^_#@\\+·√]|\.\.|∞,"
    r"|\b(?:twice|double|triple|ln|log|sin|cos|tan|sqrt|root)\s?\(?"
    r"|\b(?:more|less|fewer|greater)\ than|\b(?i:hundred|thousand|million|billion)\ and)\s*$"
)
_DECADE = re.compile(r"(?:1[5-9]|20)\d0s\b")
_HEDGES = (
    r"about|approximately|approx\.?|roughly|around|ca\.|circa|exactly|precisely|only|just|nearly|indeed|therefore|"
    r"almost|an?\ estimated|a\ total\ of|equal\ to|equals|is|the\ number(?!\ of)|simply|in|"
    r"the\ year|=>|[~≈=:→]|->"
)
_BEFORE = re.compile(rf"[\s(\[{{\"'“«「]+|(?:{_HEDGES})\s*", re.IGNORECASE | re.VERBOSE)
_ASSIGNED = r"(?<![a-zA-Z\d\\)\]+*/-])(?<![+*/-]\s)[a-zA-Z](?:_\w)?\s?="
SEVERAL = re.compile(
    rf"{_ASSIGNED}\s?[^\s,;=]{{1,20}}?\s{{0,4}}(?:[,;]|,?\s?\b(?:and|or)\b|\s)\s{{0,4}}"
    rf"{_ASSIGNED}[^=]*$"
)
_EQUALS = re.compile(r"\s*(?:=>|[=≈])\s*")
_CLAUSE_END = re.compile(
    r"\n|;(?![^()]{0,30}\))|[.!?]\s+(?=[A-Z(])|\s(?:because|since|as|when|where|if|check)\b|\s\(",
    re.IGNORECASE,
)
_TOLD = re.compile(r"[^\w=]{0,4}(?:is|are|equals)\s")
_SPOKEN = re.compile(r"\b(?:is|are|was|were)\b[^=≈]*[=≈]")
REMARK = re.compile(r"\s\([^()]{0,100}\)\W*$")
OPEN_END = re.compile(
    r"(?:[-+*/×=,:;(<]|\b(?:of|the|an?|by|to|and|or|with|from|for|is|are|that|then|gets?|gives?|equals?)"
    r"|(?<!\d )\bin)\s*$"
)
_OPERAND = re.compile(r"(?:(?<![a-z])[a-z]|[)\]\d])\s?$", re.IGNORECASE)
_WORD_BEFORE = re.compile(r"(?<![^\W\d])([^\W\d]+)\s*$")
_VERBS = ("is", "are", "was", "were", "be", "equals", "to", "of")
_UNIT = re.compile(
    rf" ?[%°$€£¥₹]?(?: ?(?!(?:{_FUNCTION_WORDS})\b)[^\W\d_][\w/^·.²³-]{{0,14}}){{0,2}}"
)

_UNITS = (
    "zero,one,two,three,four,five,six,seven,eight,nine,ten,eleven,twelve,thirteen,fourteen,"
    "fifteen,sixteen,seventeen,eighteen,nineteen"
)
_TENS = "twenty,thirty,forty,fifty,sixty,seventy,eighty,ninety"
_WORDS: dict[str, int] = {word: value for value, word in enumerate(_UNITS.split(","))}
_WORDS |= {word: 10 * value for value, word in enumerate(_TENS.split(","), start=2)}
_WORDS |= {"hundred": 100, **_SCALES}
_WORD = "|".join(sorted(_WORDS, key=len, reverse=True))
_WORDS |= {"a": 1}
_OF = re.compile(
    rf"(?: \w+)?,?\s(?:or|(?<=, )(?:{_WORD}))\b|\s(?:of|and|to|in(?! total| all))\b|-|/",
    re.IGNORECASE,
)
_PARTS = {"hal": 2, "thi": 3, "qua": 4, "fou": 4, "fif": 5, "six": 6, "eig": 8, "ten": 10}
_SPELT = re.compile(
    rf"""(?P<sign>(?:minus|negative)\ )?(?P<a>a\ (?=hundred|thousand|million|billion))?
    (?P<words>(?:{_WORD}|an?(?=\ (?:half|third|quarter|fifth|tenth)\W*\Z))(?:
      (?:[ -]|\ and\ |(?<=(?:usand|llion)),\ (?=[a-z]{{3,5}}\ hundred))(?:{_WORD}))*)\b
    (?:(?:(?<=hundred)|(?<=thousand)|(?<=million))\ and\ (?P<rest>\d{{1,2}})\b(?![.,:/]\d))?
    (?:[ -](?P<part>{_PART_WORDS})\b)?
    """,
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number in a passage, with its currency.

    Attributes:
        value: in one spelling; None for what is no single number.
        start, end: where it stands.
    """

    value: str | None
    start: int
    end: int


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
    passage = _OWED.sub(r"-\1\2", _OF_SUMS.sub(r"\1/", passage.strip()))
    if passage.isdecimal() and len(passage) <= _DIGITS:
        return str(int(passage))
    head = _head(passage)
    return head.value if head else None


def only_number(line: str) -> str | None:
    """The number that a cleaned line consists of, a unit and remarks in brackets aside.

    >>> only_number("20 apples (5 × 4)"), only_number("5 × 4 = 20 apples"), only_number("3 of 4")
    ('20', '20', None)
    """
    line = REMARK.sub("", line.strip())
    if _SPOKEN.search(line) or OPEN_END.search(line):
        return None
    head = _head(line)
    rest = line[head.end :].replace("^2", "").replace("^3", "") if head else ""
    return head.value if head and not any(c.isdigit() for c in rest) else None


def _head(passage: str) -> Quantity | None:
    """The number that a passage begins with, or that its equation comes to; None for neither."""
    start = after_hedges(passage, 0)
    if passage[:start].rstrip()[-1:] in ("(", "[", "{") and _PAIR.match(passage, start):
        return None
    passage = passage[start:]
    if passage[:1] and passage[0] in "-–—" and passage[1:2] == " ":
        passage = " -" + passage[2:]
    end = _CLAUSE_END.search(passage, 1)
    sentence = passage[: end.start() if end else len(passage)]
    found = list(quantities(sentence))
    at = after_hedges(sentence, 0)
    head = found[0] if found and found[0].start == at else spelt_at(sentence, at)
    rest = sentence[head.end :] if head else ""
    unit = _UNIT.match(rest)
    if head and head.value and not _EQUALS.match(rest, unit.end() if unit else 0):
        return Quantity(head.value, start, start + head.end)
    if SEVERAL.search(passage.partition("\n")[0]):
        return Quantity(None, 0, 0)
    for equals in list(_EQUALS.finditer(sentence))[:-2:-1]:
        at = after_hedges(sentence, equals.end())
        right = next((quantity for quantity in found if quantity.start == at), None)
        is_exact = head and head.value and "≈" in equals[0]
        told = right and _TOLD.match(sentence, right.end)
        if right and not (is_exact or told) and (right.value or not (head and head.value)):
            head = right
    return Quantity(head.value, start, start + head.end) if head else None


def after_hedges(passage: str, at: int) -> int:
    """Where a number can begin, after brackets, quotes and words such as "about"."""
    for _ in range(6):
        found = _BEFORE.match(passage, at)
        if not found or found.end() == at:
            break
        at = found.end()
    return at


def spelt_at(passage: str, at: int) -> Quantity | None:
    """The number in words that stands there."""
    found = _SPELT.match(passage, at)
    if not found:
        return None
    value = Fraction(_spelt_value((found["a"] or "").replace("a ", "one ") + found["words"]))
    value += int(found["rest"] or 0)
    if found["part"]:
        value /= _PARTS[found["part"][:3].lower()]
        if value > 20:
            return Quantity(None, found.start(), found.end())
    elif _OF.match(passage, found.end()):
        return None
    return Quantity(spelling(-value if found["sign"] else value), found.start(), found.end())


def spelt_in(passage: str) -> list[str | None]:
    """What numbers in words come to; None for what is part of something else, "the two"."""
    starts = [found.start() for found in _SPELT.finditer(passage)]
    starts = [at for at in starts if not passage[at - 1 : at].isalnum()]
    found = [None if passage[:at].endswith("the ") else spelt_at(passage, at) for at in starts]
    return [number.value if number else None for number in found]


def quantities(passage: str) -> Iterator[Quantity]:
    """Numbers in a passage; those that are part of something else have no value."""
    before: re.Match[str] | None = None
    linked = False
    for found in [*_ANYWHERE.finditer(passage), None]:
        gap = passage[before.end() : found.start()] if before and found else " " * 99
        links = len(gap) <= _LONGEST_LINK and _LINK.fullmatch(gap) is not None
        if before and found and gap == ", or ":
            links = not _restates(before, found, passage)
        if before:
            value = None if linked or links else _value(before, passage)
            yield Quantity(value, before.start(), before.end())
        before, linked = found, links


def _restates(one: re.Match[str], other: re.Match[str], passage: str) -> bool:
    """Whether two numbers are one value, as in "3/8, or 37.5%"."""
    first, second = _value(one, passage), _value(other, passage)
    unit = 100 if passage[other.end() : other.end() + 1] == "%" else 1
    return bool(first and second) and unit * Fraction(first or 0) == Fraction(second or 0)


def _value(found: re.Match[str], passage: str) -> str | None:
    """The number found, None if what it is part of is something else."""
    after = passage[found.end() : found.end() + 40]
    if after[:1] not in ("", "%", ")", "}", "\n") and _NOT_ALONE.match(after):
        return None
    before, sign = passage[max(0, found.start() - 16) : found.start()], found["sign"] or ""
    if _RELATION.search(before) or _DECADE.match(passage, found.start("run")):
        return None
    word = _WORD_BEFORE.search(before)
    if sign and (_OPERAND.search(before) or (len(sign) > 1 and word and word[1] not in _VERBS)):
        return None
    is_head = not before.strip() or bool(found["money"] or _MEASURED.match(after))
    pointed = (found["money"] or "").strip() in _THOUSANDS_POINTED or _POINTED.match(after)
    run = found["run"].replace(".", "") if pointed and _THOUSANDS.fullmatch(found["run"]) else None
    value = _run_value(run or found["run"], free=not is_head)
    if value is None:
        return None
    if found["mixed"]:
        part = _run_value(found["mixed"].replace("and", "").strip(), free=False)
        if part is None or value.denominator != 1:
            return None
        value += part
    if found["e"]:
        power = int(found["power"] or found["e"][1:])
        if abs(power) > _DIGITS:
            return None
        value *= Fraction(10) ** power
    if scale := (found["scale"] or found["k"] or "").strip():
        if scale in _MONEY_SCALES and not found["money"]:
            return None
        scale = scale if scale in _SIGNS else scale.lower()
        value *= _SIGNS.get(scale) or _SCALED.get(scale) or _SCALED[scale.rstrip("s")]
    negative = sign[:1] not in ("", "+") or found["inner"] == "-"
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
    for word in re.split(r",? |-", words.lower()):
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
