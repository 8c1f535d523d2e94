"""From what a model wrote to an answer that can be compared and voted on."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_MARKERS = (
    re.compile(r"\\boxed\{([^{}]*)\}"),
    re.compile(r"####\s*(.+)"),
    re.compile(r"(?:final answer|answer)\s*(?:is|:)\s*(.+)", re.IGNORECASE),
)
_NUMBER = re.compile(r"[-+]?\$?(?:\d[\d,]*\.?\d*|\.\d+)%?")


def extract_answer(text: str) -> str | None:
    r"""The answer stated in a text, or None.

    The last statement wins, in this order of preference: `\boxed{...}`, `#### ...`,
    `Answer: ...` or `the answer is ...`.

    >>> extract_answer("4-1=3\n3-7=-4\nAnswer: -4")
    '-4'
    >>> extract_answer("no idea") is None
    True
    """
    for marker in _MARKERS:
        found = marker.findall(text)
        if found:
            answer = found[-1].strip().rstrip(".").strip()
            return answer or None
    return None


def normalize_answer(answer: str | None) -> str | None:
    """Spelling under which equal answers are equal: numbers by value, text as it is.

    >>> normalize_answer("$1,200.00"), normalize_answer(" 7 "), normalize_answer("B. dogs")
    ('1200', '7', 'B. dogs')
    """
    if answer is None:
        return None
    text = " ".join(answer.split())
    if _NUMBER.fullmatch(text):
        try:
            number = Decimal(text.replace(",", "").replace("$", "").rstrip("%"))
        except InvalidOperation:
            return text
        if abs(number.adjusted()) < 40:
            return f"{number.normalize():f}"
    return text or None


def stated_answer(text: str) -> str | None:
    r"""The answer that a text states, in the spelling under which equal answers are equal.

    >>> stated_answer("2+2=4\nAnswer: 4.0")
    '4'
    """
    return normalize_answer(extract_answer(text))
