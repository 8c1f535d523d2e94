"""What tells one attempt from another: its id and its own random numbers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from controller.actions import ActionKind
from controller.backends.base import Request
from controller.types import Attempt


def attempt_id(model: str, request: Request) -> str:
    """Id of the attempt that fulfils a request, unique within its question.

    Args:
        model: name of the model that writes it.
        request: the id of a REVISE hangs on its parent's.
    """
    if request.action is ActionKind.REVISE:
        parent = request.parent.attempt_id if request.parent else ""
        return f"{parent}>revise:{request.index}"
    return f"{model}:{request.action.value}:{request.index}"


def attempt_for(
    request: Request,
    model: str,
    *,
    answer: str | None,
    prompt_tokens: int,
    completion_tokens: int,
    **more: Any,
) -> Attempt:
    """The attempt that fulfils a request.

    Args:
        request: what was asked for.
        model: name of the model that wrote it.
        answer: parsed answer; None when none could be read.
        prompt_tokens: length of the prompt.
        completion_tokens: tokens written.
        more: other fields of `Attempt` that are known.
    """
    return Attempt(
        attempt_id=attempt_id(model, request),
        question_id=request.question.question_id,
        model=model,
        rung=request.rung,
        action=request.action,
        index=request.index,
        parent_id=request.parent.attempt_id if request.parent else None,
        answer=answer,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        **more,
    )


def stream_name(seed: int, model: str, request: Request) -> str:
    """Name of the random stream of an attempt; no two attempts share one.

    Args:
        seed: of the backend.
        model: name of the model that writes it.
        request: what is asked for.
    """
    parent = request.parent.attempt_id if request.parent else None
    question_id, action = request.question.question_id, request.action.value
    return json.dumps([seed, question_id, model, action, parent, request.index])


def uniforms(stream: str, count: int) -> np.ndarray:
    """The first random numbers of a stream, (count,) float64 in [0, 1).

    >>> bool((uniforms("a", 3) == uniforms("a", 5)[:3]).all())
    True
    """
    key = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=16).digest(), "big")
    return np.random.Generator(np.random.Philox(key=key)).random(count)
