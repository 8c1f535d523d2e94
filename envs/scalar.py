"""One episode at a time: what the scalar environments of both granularities share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from controller.errors import ConfigError, IllegalActionError
from controller.types import Question
from envs.lockstep import stream_key
from envs.pictures import text_picture
from envs.random import Streams

Observation = NDArray[np.float32]


class Underway(Protocol):
    """An episode that has begun."""

    def mask(self) -> NDArray[np.bool_]:
        """Allowed actions, (1, A)."""
        ...


class ScalarEnv(gymnasium.Env[Observation, np.int64]):
    """Masks, infos and pictures of an environment over questions.

    Args:
        questions: with references.
        render_mode: None, "ansi" (a string), "human" (printed) or "rgb_array" (a picture).
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (as in Gymnasium)
        "render_modes": ["human", "ansi", "rgb_array"],
        "render_fps": 4,
    }
    episode: Underway | None
    question: Question
    price: float

    def __init__(self, questions: Sequence[Question], render_mode: str | None) -> None:
        if not questions:
            raise ConfigError("questions: expected at least one, found none")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigError(
                f"render_mode: expected one of {self.metadata['render_modes']} or None, "
                f"found {render_mode!r}"
            )
        self.questions, self.render_mode = questions, render_mode
        self.episode = None
        self._streams: Streams | None = None
        self._lines: list[str] = []

    def _drawing(
        self, seed: int | None, options: dict[str, Any] | None, known: Sequence[str]
    ) -> tuple[Streams, dict[str, Any]]:
        """Where to draw an episode from, and what is chosen instead of drawn.

        Args:
            seed: starts a new random stream.
            options: as given to `reset`.
            known: names that they may have.

        Raises:
            ConfigError: an unknown option.
        """
        super().reset(seed=seed)
        if seed is not None or self._streams is None:
            self._streams = Streams(np.array([stream_key(seed)]))
        options = options or {}
        unknown = set(options) - set(known)
        if unknown:
            raise ConfigError(
                f"options: expected {', '.join(known[:-1])} or {known[-1]}, found {sorted(unknown)}"
            )
        return self._streams, options

    def action_masks(self) -> NDArray[np.bool_]:
        """Allowed actions now, (A,)."""
        if self.episode is None:
            raise IllegalActionError("action_masks: expected a reset first, found none")
        mask: NDArray[np.bool_] = self.episode.mask()[0]
        return mask

    def _info(self) -> dict[str, Any]:
        return {
            "action_mask": self.action_masks().astype(np.int8),
            "question_id": self.question.question_id,
            "price": self.price,
        }

    def _begin_picture(self) -> None:
        self._lines = []
        self._show(f"{self.question.text.strip()}\n  price {self.price:.2g}")

    def _show(self, line: str) -> None:
        self._lines.append(line)
        if self.render_mode == "human":
            print(line)

    def render(self) -> Any:
        """The episode so far as text or as (H, W, 3) uint8; "human" has printed it already."""
        if self.render_mode == "rgb_array":
            return text_picture(self._lines)
        return "\n".join(self._lines) if self.render_mode == "ansi" else None
