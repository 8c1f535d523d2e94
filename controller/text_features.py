"""What the wording of a question alone tells."""

from __future__ import annotations

import re
import zlib
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_BUCKETS = 256

NUM_SHAPE_FEATURES = 15
NUM_TEXT_FEATURES = _BUCKETS + NUM_SHAPE_FEATURES

_PIECE = re.compile(r"[^\W\d_]+|\d|[^\w\s]")
_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+")
_MAX_CHARACTERS = 20_000


def text_features(text: str) -> NDArray[np.float32]:
    """What stands in for a prompt state where no model's is known: words and shape of a question.

    Args:
        text: the question; all that comes after 20,000 characters is left out.

    Returns:
        Logarithms of counts of words, digits, signs and pairs of them, hashed, and then
        `shape_features`, (NUM_TEXT_FEATURES,).

    Source: feature hashing, Weinberger et al. 2009 (arXiv 0902.2206).
    """
    pieces = _PIECE.findall(text[:_MAX_CHARACTERS].lower())
    counts = np.zeros(_BUCKETS, np.float32)
    for gram in (*pieces, *map(" ".join, pairwise(pieces))):
        counts[zlib.crc32(gram.encode("utf-8", "surrogatepass")) % _BUCKETS] += 1
    return np.concatenate([np.log1p(counts), shape_features(text)])


def shape_features(text: str) -> NDArray[np.float32]:
    """How long a question is and what of: a prompt state knows this, but does not say it.

    Args:
        text: as in `text_features`.

    Returns:
        Logarithms of lengths and counts, (NUM_SHAPE_FEATURES,): of characters, pieces, distinct
        pieces, digits, signs and lines; of numbers, their greatest, least and mean length and that
        of the last one; of words, their greatest and mean length and that of the last one.
    """
    text = text[:_MAX_CHARACTERS].lower()
    pieces = _PIECE.findall(text)
    numbers, words = ([len(run) for run in run.findall(text)] for run in (_NUMBER, _WORD))
    digits = sum(numbers)
    sizes = (
        len(text),
        len(pieces),
        len(set(pieces)),
        digits,
        len(pieces) - digits - len(words),
        text.count("\n"),
        len(numbers),
        max(numbers, default=0),
        min(numbers, default=0),
        digits / max(len(numbers), 1),
        numbers[-1] if numbers else 0,
        len(words),
        max(words, default=0),
        sum(words) / max(len(words), 1),
        words[-1] if words else 0,
    )
    return np.log1p(np.array(sizes, np.float32))
