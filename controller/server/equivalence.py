"""When two answers are the same, so that they vote for one another."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import numpy as np
from openai import AsyncOpenAI

from controller.answers import AnswerKind, first_same
from controller.errors import BackendError, ConfigError

EMBEDDING_KEY_VARIABLE = "ALLOT_EMBEDDING_KEY"
_LEAST_COSINE, _TIMEOUT_S = 0.9, 5.0


class ByKind:
    """Puts answers that mean the same, as their kind says, under one spelling."""

    def __init__(self, kind: AnswerKind) -> None:
        self.kind = kind

    async def canonical(self, answer: str, known: Sequence[str]) -> str:
        """The first known answer that `answer` is the same as, or `answer` itself."""
        if answer in known or all(self.kind.settled(text) for text in (answer, *known)):
            return answer
        return await asyncio.to_thread(first_same, self.kind, answer, known)

    async def close(self) -> None:
        """Let go of connections."""


class Embedding(ByKind):
    """The same, then by the cosine of their embeddings: for open questions."""

    def __init__(
        self, kind: AnswerKind, base_url: str, model: str, *, api_key: str = "none"
    ) -> None:
        super().__init__(kind)
        self._client = AsyncOpenAI(
            base_url=base_url, api_key=api_key, max_retries=1, timeout=_TIMEOUT_S
        )
        self._model = model

    async def canonical(self, answer: str, known: Sequence[str]) -> str:
        """The closest known answer, if it is close enough; `answer` itself if embedding fails."""
        answer = await super().canonical(answer, known)
        if not known or answer in known:
            return answer
        try:
            vectors = await self._embed([answer, *known])
        except BackendError:
            return answer
        cosines = vectors[1:] @ vectors[0]  # (K,)
        closest = int(cosines.argmax())
        return known[closest] if cosines[closest] >= _LEAST_COSINE else answer

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


def build_equivalence(kind: AnswerKind, setting: str | None = None) -> ByKind:
    """When two answers are the same. Raises ConfigError: not URL#MODEL."""
    if setting is None:
        return ByKind(kind)
    url, _, model = setting.partition("#")
    if not url.startswith(("http://", "https://")) or not model:
        raise ConfigError(f"equivalence: expected URL#MODEL, found {setting!r}")
    return Embedding(kind, url, model, api_key=os.environ.get(EMBEDDING_KEY_VARIABLE, "none"))
