"""What is known of questions before the first attempt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from controller.policy.difficulty import Reads
from controller.process.wording import shape_features, text_features


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Q questions, as far as they can be looked at.

    Attributes:
        hidden: (Q, H) prompt states of the small model; None if not recorded.
        texts: the questions; None if not recorded.
    """

    hidden: NDArray[np.float32] | None
    texts: pa.ChunkedArray | None = None

    def features(self, reads: Reads) -> NDArray[np.float32] | None:
        """What difficulty is read from, (Q, H); None if it was not recorded."""
        if self.texts is None or (reads == "prompt" and self.hidden is None):
            return None
        if reads == "words":
            return self._words
        if reads == "shape" or self.hidden is None:
            return self._shapes
        return np.concatenate([self.hidden, self._shapes], 1)

    @cached_property
    def _words(self) -> NDArray[np.float32]:
        return np.stack([*map(text_features, self._wordings)])

    @cached_property
    def _shapes(self) -> NDArray[np.float32]:
        return np.stack([*map(shape_features, self._wordings)])

    @property
    def _wordings(self) -> list[str]:
        return [] if self.texts is None else self.texts.to_pylist()


def prompts_of(questions: pa.Table) -> dict[str, Any]:
    """The fields of `Prompts`, each only if every one of the questions has it."""
    return {"hidden": _hidden(questions), "texts": _whole(questions, "question")}


def _hidden(questions: pa.Table) -> NDArray[np.float32] | None:
    states = _whole(questions, "prompt_hidden")
    if states is None:
        return None
    values = states.combine_chunks().flatten().to_numpy().astype(np.float32)
    return np.asarray(values.reshape(len(questions), -1))


def _whole(questions: pa.Table, name: str) -> pa.ChunkedArray | None:
    if name not in questions.column_names or questions[name].null_count:
        return None
    return questions[name]
