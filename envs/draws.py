"""Random streams, one per episode, and how episodes begin.

Environment i of a vector environment must draw what a scalar environment with the same seed
draws, bit for bit. NumPy's generators are one stream each, so a counter-based generator runs over
arrays instead.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray

from controller.granularity import Process
from envs.reward import LogUniform

Array = NDArray[Any]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

_SPECIAL_SHARE = 0.15


class Streams:
    """N independent random streams.

    Source: Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators",
    SplitMix64.

    Args:
        keys: (N,) uint64, one seed per stream.
    """

    def __init__(self, keys: NDArray[np.uint64]) -> None:
        self.state = keys.astype(np.uint64).copy()

    def uniform(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The next number in [0, 1) of each stream in `rows`, (n,)."""
        z = self.state[rows] + _GOLDEN
        self.state[rows] = z
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        z ^= z >> np.uint64(31)
        return np.asarray((z >> np.uint64(11)) * 2.0**-53, np.float64)


def observation_space(num_features: int) -> gymnasium.spaces.Space[Array]:
    """Space of one observation, (D,) float32."""
    return gymnasium.spaces.Box(-np.inf, np.inf, (num_features,), np.float32)


def stream_key(seed: int | None) -> np.uint64:
    """Key of an environment's random stream, through Gymnasium's own seeding."""
    return np.uint64(seeding.np_random(seed)[0].integers(2**63))


class Hidden(NamedTuple):
    """What a policy does not get to see of episodes, (n,) or for all of them."""

    logprobs: Array | bool = False
    difficulty: Array | bool = False
    verifier: Array | bool = False
    prompt: Array | bool = False
    arms: Array | bool = False
    """(n, R), of a menu."""


def draw_episode(
    streams: Streams,
    rows: Array,
    config: Process,
    num_questions: int,
    prices: LogUniform,
    round_prices: LogUniform | None,
    budgets: LogUniform | None,
    hide_signals: float,
) -> tuple[Array, Array, Array, Array, Hidden]:
    """Question, price, round price, budget and what is hidden of a new episode in each of `rows`.

    All are (n,). In most episodes rounds cost nothing, and in as many there is no budget. Of a menu
    all arms but the first may be missing, as a server that is down is.
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
    hidden = Hidden(*(streams.uniform(rows) < hide_signals for _ in Hidden._fields[:-1]))
    if config.is_menu:
        missing = np.zeros((len(rows), config.num_rungs), bool)
        for rung in range(1, config.num_rungs):
            missing[:, rung] = streams.uniform(rows) < hide_signals
        hidden = hidden._replace(arms=missing)
    return question, price, round_price, budget, hidden
