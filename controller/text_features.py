"""What the wording of a question alone tells, for where no model's prompt state is known."""

from __future__ import annotations

import re
import zlib
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_BUCKETS = 256
_SHAPE = 3

NUM_TEXT_FEATURES = _BUCKETS + _SHAPE

_PIECE = re.compile(r"[^\W\d_]+|\d|[^\w\s]")
_MAX_CHARACTERS = 20_000


def text_features(text: str) -> NDArray[np.float32]:
    """Logarithms of counts: of words, digits, signs and pairs of them, hashed, and of lengths.

    Args:
        text: the question; all that comes after 20,000 characters is left out.

    Returns:
        (NUM_TEXT_FEATURES,).

    Source: feature hashing, Weinberger et al. 2009 (arXiv 0902.2206).
    """
    text = text[:_MAX_CHARACTERS].lower()
    pieces = _PIECE.findall(text)
    counts = np.zeros(NUM_TEXT_FEATURES, np.float32)
    for gram in (*pieces, *map(" ".join, pairwise(pieces))):
        counts[zlib.crc32(gram.encode("utf-8", "surrogatepass")) % _BUCKETS] += 1
    counts[_BUCKETS:] = len(text), len(pieces), sum(map(str.isdigit, pieces))
    return np.log1p(counts)
