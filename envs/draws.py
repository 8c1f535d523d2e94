"""Drawing episodes: a scalar environment and one of many draw the same, bit for bit."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray

from envs.random import Streams
from envs.reward import LogUniform

Array = NDArray[Any]

_SPECIAL_SHARE = 0.15


def observation_space(num_features: int) -> gymnasium.spaces.Space[Array]:
    """Space of one observation, (D,) float32."""
    return gymnasium.spaces.Box(-np.inf, np.inf, (num_features,), np.float32)


def stream_key(seed: int | None) -> np.uint64:
    """Key of an environment's random stream, through Gymnasium's own seeding."""
    return np.uint64(seeding.np_random(seed)[0].integers(2**63))


def draw_episode(
    streams: Streams,
    rows: Array,
    num_questions: int,
    prices: LogUniform,
    round_prices: LogUniform | None,
    budgets: LogUniform | None,
    hide_signals: float,
) -> tuple[Array, Array, Array, Array, list[Array]]:
    """Question, price, round price and budget of a new episode in each of `rows`, all (n,).

    Last come whether logprobs, difficulty, verifier and prompt are hidden, each (n,). In most
    episodes rounds cost nothing, and in as many there is no budget.
    """
    question = (streams.uniform(rows) * num_questions).astype(np.int64)
    price = prices.at(streams.uniform(rows))
    round_price, budget = (
        np.full(len(rows), otherwise)
        if values is None
        else np.where(
            streams.uniform(rows) < _SPECIAL_SHARE, values.at(streams.uniform(rows)), otherwise
        )
        for values, otherwise in ((round_prices, 0.0), (budgets, np.inf))
    )
    hidden = [streams.uniform(rows) < hide_signals for _ in range(4)]
    return question, price, round_price, budget, hidden
