"""What tells one attempt from another: its id and its own random numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from controller.backends.base import Request
from controller.process.types import Attempt

if TYPE_CHECKING:
    from torch import Tensor


def attempt_id(model: str, request: Request) -> str:
    """Id of the attempt that fulfils a request, unique within its question."""
    if request.parent is not None:
        by = f"{model}:" if request.parent.model != model else ""
        return f"{request.parent.attempt_id}>{by}{request.action.value}:{request.index}"
    return f"{model}:{request.action.value}:{request.index}"


def blank_attempt(model: str, request: Request) -> Attempt:
    """An attempt at a request before anything has been written, to be filled in."""
    return Attempt(
        attempt_id=attempt_id(model, request),
        question_id=request.question.question_id,
        model=model,
        rung=request.rung,
        action=request.action,
        index=request.index,
        parent_id=request.parent.attempt_id if request.parent else None,
        answer=None,
        prompt_tokens=0,
        completion_tokens=0,
    )


def text_digest(text: str, digits: int = 16) -> str:
    """The first digits of a text's SHA-256, in hex; halves of characters are no error."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bytes in the order of names, shortened, in hex."""
    from torch import uint8

    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(uint8).numpy().data)
    return digest.hexdigest()[:16]


def stream_name(seed: int, model: str, request: Request) -> str:
    """Name of the random stream of an attempt; no two attempts share one."""
    parent = request.parent.attempt_id if request.parent else None
    question_id, action = request.question.question_id, request.action.value
    return json.dumps([seed, question_id, model, action, parent, request.index])


def stream_seed(stream: str) -> int:
    """A seed of 31 bits for a stream, where someone else makes the random numbers."""
    return int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=4).digest()) >> 1


def uniforms(stream: str, count: int) -> np.ndarray:
    """The first random numbers of a stream, (count,) float64 in [0, 1).

    >>> bool((uniforms("a", 3) == uniforms("a", 5)[:3]).all())
    True
    """
    key = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=16).digest(), "big")
    return np.random.Generator(np.random.Philox(key=key)).random(count)
