"""One random stream per episode, many streams at once.

Environment i of a vector environment must draw what a scalar environment with the same
seed draws. NumPy's generators are one stream each, so a counter-based generator runs
over arrays instead.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


class Streams:
    """N independent random streams.

    Source: Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators",
    SplitMix64.

    Args:
        keys: (N,) uint64, one seed per stream.
    """

    def __init__(self, keys: NDArray[np.uint64]) -> None:
        self.state = keys.astype(np.uint64).copy()

    def uniform(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The next number in [0, 1) of each stream in `rows`, (n,)."""
        z = self.state[rows] + _GOLDEN
        self.state[rows] = z
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        z ^= z >> np.uint64(31)
        return np.asarray((z >> np.uint64(11)) * 2.0**-53, np.float64)
