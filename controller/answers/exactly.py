"""The reading of the bundled tasks: as stated after a marker, plain numbers by value."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_MARKERS = {
    "boxed": re.compile(r"\\boxed\{([^{}]*)\}"),
    "hashes": re.compile(r"####\s*(.+)"),
    "stated": re.compile(r"(?:final answer|answer)\s*(?:is|:)\s*(.+)", re.IGNORECASE),
}
_NUMBER = re.compile(r"[-+]?\$?(?:\d[\d,]*\.?\d*|\.\d+)%?")


def extract_answer(text: str) -> tuple[str, str] | None:
    r"""The answer stated in a text and its marker, or None.

    The last statement wins, in this order of preference: `\boxed{...}`, `#### ...`,
    `Answer: ...` or `the answer is ...`.

    >>> extract_answer("4-1=3\n3-7=-4\nAnswer: -4")
    ('-4', 'stated')
    >>> extract_answer("no idea") is None
    True
    """
    for how, marker in _MARKERS.items():
        found = marker.findall(text)
        if found:
            answer = found[-1].strip().rstrip(".").strip()
            return (answer, how) if answer else None
    return None


def normalize_answer(answer: str) -> str | None:
    """Spelling under which equal answers are equal: numbers by value, text as it is.

    >>> normalize_answer("$1,200.00"), normalize_answer(" 7 "), normalize_answer("B. dogs")
    ('1200', '7', 'B. dogs')
    """
    text = " ".join(answer.split())
    if _NUMBER.fullmatch(text):
        try:
            number = Decimal(text.replace(",", "").replace("$", "").rstrip("%"))
        except InvalidOperation:
            return text
        if abs(number.adjusted()) < 40:
            return f"{number.normalize():f}"
    return text or None
