"""Whether expressions have one value, by math-verify in a process that is killed if it hangs."""

from __future__ import annotations

import atexit
import logging
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pebble import ProcessPool

TIMEOUT_S = 2.0
"""For one comparison; expressions that take longer are different."""


def same_value(one: str, other: str, *, timeout_s: float = TIMEOUT_S) -> bool:
    """Whether two expressions have one mathematical value."""
    pool = _pool()
    from pebble import ProcessExpired

    future = pool.schedule(compare, args=(one, other), timeout=timeout_s)
    try:
        return bool(future.result())
    except (TimeoutError, ProcessExpired):
        return False


def compare(one: str, other: str) -> bool:
    r"""The comparison itself, in this process.

    Both are read as LaTeX alone: math-verify reads other expressions with `eval`.

    >>> compare("1/2", "0.5"), compare("x+1", "1+x"), compare("3", "4")
    (True, True, False)
    """
    from math_verify import LatexExtractionConfig, parse, verify

    # It warns that somebody else has to watch the time: `same_value` does.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    latex = [LatexExtractionConfig()]
    parsed = [parse(f"${text}$", latex, parsing_timeout=None) for text in (one, other)]
    return all(parsed) and bool(verify(*parsed, timeout_seconds=None))


@cache
def _pool() -> ProcessPool:
    import multiprocessing

    from pebble import ProcessPool

    context = multiprocessing.get_context("spawn")
    pool = ProcessPool(1, context=context, initializer=compare, initargs=("1", "1"))
    atexit.register(_stop, pool)
    return pool


def _stop(pool: ProcessPool) -> None:
    pool.stop()  # type: ignore[no-untyped-call]
    pool.join()
