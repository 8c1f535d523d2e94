"""What the wording of a question alone tells."""

from __future__ import annotations

import re
import zlib
from itertools import pairwise

import numpy as np

from controller.process.lockstep import Singles

_BUCKETS = 256

_SIGNS = "+-*/=()%$?,."
_NUMBERS = 4
_LARGEST = 1e30

NUM_SHAPE_FEATURES = 15 + len(_SIGNS) + 4 * _NUMBERS
NUM_TEXT_FEATURES = _BUCKETS + NUM_SHAPE_FEATURES

_PIECE = re.compile(r"[^\W\d_]+|\d|[^\w\s]")
_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+")
_MAX_CHARACTERS = 20_000


def text_features(text: str) -> Singles:
    """Words and shape of a question, of its first 20,000 characters.

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


def shape_features(text: str) -> Singles:
    """How long a question is and what of: a prompt state knows this, but does not say it.

    Returns:
        Logarithms of lengths and counts, then `_number_features`, (NUM_SHAPE_FEATURES,). The
        lengths and counts are of characters, pieces, distinct pieces, digits, signs and lines; of
        numbers, their greatest, least and mean length and that of the last one; of words, their
        greatest and mean length and that of the last one; and of each sign of arithmetic.
    """
    text = text[:_MAX_CHARACTERS].lower()
    pieces, numbers = _PIECE.findall(text), _NUMBER.findall(text)
    lengths, words = ([len(run) for run in runs] for runs in (numbers, _WORD.findall(text)))
    digits = sum(lengths)
    sizes = (
        len(text),
        len(pieces),
        len(set(pieces)),
        digits,
        len(pieces) - digits - len(words),
        text.count("\n"),
        len(lengths),
        max(lengths, default=0),
        min(lengths, default=0),
        digits / max(len(lengths), 1),
        lengths[-1] if lengths else 0,
        len(words),
        max(words, default=0),
        sum(words) / max(len(words), 1),
        words[-1] if words else 0,
        *map(text.count, _SIGNS),
    )
    return np.concatenate([np.log1p(np.array(sizes, np.float32)), _number_features(numbers)])


def _number_features(numbers: list[str]) -> Singles:
    """Logarithms of the first four numbers and whether 2, 3 and 5 divide them, 0 if missing.

    How much work a calculation is depends on the numbers' size and on their small factors.
    """
    features = np.zeros((_NUMBERS, 4), np.float32)
    for feature, digits in zip(features, numbers, strict=False):
        last, total = int(digits[-1]), sum(map(int, digits))
        size = np.log1p(min(float(digits), _LARGEST))
        feature[:] = size, last % 2 == 0, total % 3 == 0, last % 5 == 0
    return features.ravel()
