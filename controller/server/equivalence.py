"""When two answers are the same, so that they vote for one another."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np
from openai import AsyncOpenAI
from pebble import ProcessExpired, ProcessPool

from controller.errors import BackendError, ConfigError


class Equivalence(Protocol):
    """Puts answers that mean the same under one spelling."""

    async def canonical(self, answer: str, known: Sequence[str]) -> str:
        """The known answer that `answer` is the same as, or `answer` itself."""
        ...

    async def close(self) -> None:
        """Let go of processes and connections."""
        ...


class Exact:
    """The same spelling, after `controller.answers.normalize_answer`."""

    async def canonical(self, answer: str, known: Sequence[str]) -> str:
        """The answer itself."""
        return answer

    async def close(self) -> None:
        """Nothing to do."""


class Numeric:
    """The same mathematical value, by math-verify, in a process that is killed if it hangs.

    Args:
        timeout_s: for one comparison; answers that take longer are different.
        workers: processes.
    """

    def __init__(self, timeout_s: float = 2.0, workers: int = 1) -> None:
        if timeout_s <= 0 or workers < 1:
            raise ConfigError("numeric equivalence: expected a positive time-out and workers")
        self._timeout_s = timeout_s
        self._pool = ProcessPool(workers, context=multiprocessing.get_context("spawn"))

    async def canonical(self, answer: str, known: Sequence[str]) -> str:
        """The first known answer of the same value."""
        for other in known:
            if other == answer or await self._same(other, answer):
                return other
        return answer

    async def _same(self, one: str, other: str) -> bool:
        future: Future[Any] = self._pool.schedule(
            same_value, args=(one, other), timeout=self._timeout_s
        )
        try:
            return bool(await asyncio.wrap_future(future))
        except (TimeoutError, ProcessExpired):
            return False

    async def close(self) -> None:
        """Stop the processes."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        await asyncio.to_thread(self._pool.join)


def same_value(one: str, other: str) -> bool:
    r"""Whether two answers have one mathematical value.

    They are read as LaTeX alone: math-verify reads other expressions with `eval`.

    >>> same_value("1/2", "0.5"), same_value("x+1", "1+x"), same_value("3", "4")
    (True, True, False)
    """
    from math_verify import LatexExtractionConfig, parse, verify

    latex = [LatexExtractionConfig()]
    parsed = [parse(f"${text}$", latex, parsing_timeout=None) for text in (one, other)]
    return all(parsed) and bool(verify(*parsed, timeout_seconds=None))


class Embedding:
    """Close in meaning, by the cosine of their embeddings: for open questions.

    Args:
        base_url: of an OpenAI-compatible server.
        model: that embeds.
        threshold: least cosine.
        api_key: sent as bearer token.
        timeout_s: for one embedding; answers that take longer are different.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        threshold: float = 0.9,
        api_key: str = "none",
        timeout_s: float = 5.0,
    ) -> None:
        if not 0 < threshold <= 1:
            raise ConfigError(f"threshold: expected more than 0 and at most 1, found {threshold}")
        self._client = AsyncOpenAI(
            base_url=base_url, api_key=api_key, max_retries=1, timeout=timeout_s
        )
        self._model, self._threshold = model, threshold

    async def canonical(self, answer: str, known: Sequence[str]) -> str:
        """The closest known answer, if it is close enough."""
        if not known or answer in known:
            return answer
        try:
            vectors = await self._embed([answer, *known])
        except BackendError:
            return answer
        cosines = vectors[1:] @ vectors[0]  # (K,)
        closest = int(cosines.argmax())
        return known[closest] if cosines[closest] >= self._threshold else answer

    async def _embed(self, texts: Sequence[str]) -> np.ndarray:
        try:
            response = await self._client.embeddings.create(
                model=self._model, input=list(texts), encoding_format="float"
            )
            vectors = np.array([entry.embedding for entry in response.data], np.float64)
        except Exception as error:  # the client raises what the server's bytes provoke
            raise BackendError(f"embeddings: {type(error).__name__}") from None
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if vectors.shape[0] != len(texts) or not (norms > 0).all():
            raise BackendError("embeddings: expected a vector per text that is not zero")
        return np.asarray(vectors / norms)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
