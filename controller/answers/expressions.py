"""Mathematical expressions: which texts are some, and whether two have one value.

They are compared by math-verify in a process that is killed if it hangs.
"""

from __future__ import annotations

import atexit
import logging
import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from pebble import ProcessPool

T = TypeVar("T")

TIMEOUT_S = 2.0
"""For what a process of its own does; expressions that take longer are different."""

_EXPRESSION = re.compile(
    r"(?:[-+*×·/^_(){}=.!|\d\s√π]"
    r"|sqrt|pi|\\(?:sqrt|pi|frac|cdot|times|div|infty|ln|log|sin|cos|tan|left|right|binom)"
    r"|[a-zA-Z](?![a-zA-Z]))+"
)
_MATHS = re.compile(
    r"sqrt|\\|\^|\d\s*[+*×√π!]|[+*×√]\s*[\d(]|[-/]\s*[a-z]|[a-z]\s*[-/+]|\d\s?[a-z]$|π"
)
_NO_MATHS = re.compile(r"[a-z\d](?<!\\ln)(?<!\\(?:log|sin|cos|tan))(?<!_\d)\s+\d|\+/-")
_LEFT_OUT = re.compile(r"\\[()\[\]]|\\[,;:! ]|\\(?:text|mathrm)\{[^{}]{0,40}\}")
_NAMED = re.compile(r"^[a-zA-Z](?:\(\w\))?\s*=\s*")
_TYPED = (
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"(?<![\\a-z])(?:sqrt|√)\s?\(([^()]{1,60})\)"), r"\\sqrt{\1}"),
    (re.compile(r"√\s?(\d+|[a-z])"), r"\\sqrt{\1}"),
    (re.compile(r"π|(?<![\\a-z])pi(?![a-z])"), r"\\pi "),
)
"""What is not LaTeX in expressions, as people type it, and what it is in LaTeX."""
_LONGEST = 200


def expression(passage: str) -> str | None:
    r"""A mathematical expression in LaTeX, for math-verify to compare; None for other things.

    >>> expression(r"$x = 2\sqrt{3}$."), expression("12 apples")
    ('2\\sqrt{3}', None)
    """
    text = passage.strip().rstrip(".").strip("$ ").rstrip(".")
    text = _NAMED.sub("", _LEFT_OUT.sub("", text).strip())
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    if not is_expression(text):
        return None
    return " ".join(text.replace("\\left", "").replace("\\right", "").split())


def is_expression(text: str) -> bool:
    """Whether a text is nothing but an expression, and one that is more than a number."""
    return (
        len(text) <= _LONGEST
        and _EXPRESSION.fullmatch(text) is not None
        and _MATHS.search(text) is not None
        and _NO_MATHS.search(text) is None
        and text.rstrip()[-1:] not in "+-*/=×^_({"
    )


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
    parsed = [parse(f"${_latex(text)}$", latex, parsing_timeout=None) for text in (one, other)]
    return all(parsed) and bool(verify(*parsed, timeout_seconds=None))


def _latex(text: str) -> str:
    for typed, latex in _TYPED:
        text = typed.sub(latex, text)
    return text


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
