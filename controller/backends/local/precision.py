"""Which numbers a processor computes with fastest."""

from __future__ import annotations

import time
from functools import cache

import torch

_ROWS, _SIZE, _REPEATS = 8, 1536, 5


def fast_dtype(stored: torch.dtype) -> torch.dtype:
    """The type to compute with on this processor: as stored, or float32 where that is faster.

    Halves become float32 without loss. A processor without units for them is several times
    slower with them, one that has such units several times faster.
    """
    if stored.itemsize >= torch.float32.itemsize or _matmul_s(stored) < _matmul_s(torch.float32):
        return stored
    return torch.float32


@cache
def _matmul_s(dtype: torch.dtype) -> float:
    """Least time of a small matrix product; measured, since flags do not tell what is fast."""
    rows, weights = torch.ones(_ROWS, _SIZE, dtype=dtype), torch.ones(_SIZE, _SIZE, dtype=dtype)
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        torch.nn.functional.linear(rows, weights)
        times.append(time.perf_counter() - started)
    return min(times)
