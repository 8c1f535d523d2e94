"""When two answers are the same, so that they vote for one another."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from openai import AsyncOpenAI

from controller.answers import AnswerKind, first_same
from controller.errors import BackendError, ConfigError

EMBEDDING_KEY_VARIABLE = "ALLOT_EMBEDDING_KEY"


class Equivalence(Protocol):
    """Puts answers that mean the same under one spelling."""

    async def canonical(self, answer: str, known: Sequence[str]) -> str:
        """The known answer that `answer` is the same as, or `answer` itself."""
        ...

    async def close(self) -> None:
        """Let go of processes and connections."""
        ...


class ByKind:
    """The same as the kind of the answers says.

    Args:
        kind: of the answers.
    """

    def __init__(self, kind: AnswerKind) -> None:
        self.kind = kind

    async def canonical(self, answer: str, known: Sequence[str]) -> str:
        """The first known answer that is the same."""
        if answer in known or all(self.kind.settled(text) for text in (answer, *known)):
            return answer
        return await asyncio.to_thread(first_same, self.kind, answer, known)

    async def close(self) -> None:
        """Nothing to do."""


class Embedding:
    """Close in meaning, by the cosine of their embeddings: for open questions.

    Args:
        base_url: of an OpenAI-compatible server.
        model: that embeds.
        first: puts answers together before, so that only the others are embedded.
        threshold: least cosine.
        api_key: sent as bearer token.
        timeout_s: for one embedding; answers that take longer are different.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        first: Equivalence,
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
        self._model, self._threshold, self._first = model, threshold, first

    async def canonical(self, answer: str, known: Sequence[str]) -> str:
        """The closest known answer, if it is close enough."""
        answer = await self._first.canonical(answer, known)
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
        await self._first.close()
        await self._client.close()


def build_equivalence(kind: AnswerKind, setting: str | None = None) -> Equivalence:
    """When two answers are the same.

    Args:
        kind: of the answers.
        setting: URL#MODEL of a server of embeddings; None for none.

    Raises:
        ConfigError: not URL#MODEL.
    """
    if setting is None:
        return ByKind(kind)
    url, _, model = setting.partition("#")
    if not url.startswith(("http://", "https://")) or not model:
        raise ConfigError(f"equivalence: expected URL#MODEL, found {setting!r}")
    api_key = os.environ.get(EMBEDDING_KEY_VARIABLE, "none")
    return Embedding(url, model, ByKind(kind), api_key=api_key)
