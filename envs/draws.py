"""Random streams, one per episode, and how episodes begin.

Environment i of a vector environment must draw what a scalar environment with the same seed
draws, bit for bit. NumPy's generators are one stream each, so a counter-based generator runs over
arrays instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Literal, NamedTuple, get_args

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from numpy.typing import ArrayLike, NDArray

from controller.errors import ConfigError, IllegalActionError
from controller.granularity import Process
from controller.process.lockstep import Array, Bools, Floats, Ints
from envs.reward import LogUniform, Reward, Step, price_range

Illegal = Literal["raise", "stop", "penalty"]
"""What an action that the mask forbids does: raise an error; count as STOP, for algorithms without
masks; or count as STOP and cost `PENALTY`."""

PENALTY = 1.0
"""As much as a right answer is worth."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

_SPECIAL_SHARE = 0.15


class Streams:
    """N independent random streams, of one uint64 seed each.

    Source: Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators",
    SplitMix64.
    """

    def __init__(self, keys: NDArray[np.uint64]) -> None:
        self.state = keys.astype(np.uint64).copy()

    def uniform(self, rows: Ints) -> Floats:
        """The next number in [0, 1) of each stream in `rows`, (n,)."""
        z = self.state[rows] + _GOLDEN
        self.state[rows] = z
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        z ^= z >> np.uint64(31)
        return np.asarray((z >> np.uint64(11)) * 2.0**-53, np.float64)


def check_illegal(illegal: Illegal) -> Illegal:
    """What forbidden actions do; raises ConfigError if that is something else."""
    if illegal not in get_args(Illegal):
        expected = list(get_args(Illegal))
        raise ConfigError(f"illegal: expected one of {expected}, found {illegal!r}")
    return illegal


def carried_out(
    actions: ArrayLike, mask: Bools, illegal: Illegal, over: Array | bool = False
) -> tuple[Array, Bools]:
    """Actions that are carried out, and where those asked for are forbidden; all (N,).

    The first action that the mask, (N, A), allows stands in for one that it forbids. What episodes
    that are `over`, (N,), are told is ignored.

    Raises:
        IllegalActionError: a number that stands for no action, or a forbidden one that is to raise.
    """
    (num_envs, num_actions), first = mask.shape, mask.argmax(1)
    expected = f"whole numbers from 0 to {num_actions - 1}"
    try:
        actions = np.asarray(actions)
    except ValueError:  # lists of lists
        actions = np.asarray(actions, object)
    if actions.shape != (num_envs,) or actions.dtype.kind not in "iu":
        raise IllegalActionError(
            f"actions: expected {expected} of shape {(num_envs,)}, found {actions.dtype} of shape "
            f"{actions.shape}"
        )
    actions = np.where(over, first, actions)
    for row in np.flatnonzero((actions < 0) | (actions >= num_actions)).tolist():
        raise IllegalActionError(f"environment {row}: expected {expected}, found {actions[row]}")
    forbidden = ~mask[np.arange(num_envs), actions] & np.logical_not(over)
    for row in np.flatnonzero(forbidden & (illegal == "raise")).tolist():
        raise IllegalActionError(
            f"environment {row}: expected an action allowed by its mask "
            f"{mask[row].astype(int).tolist()}, found {actions[row]}"
        )
    return np.where(forbidden, first, actions), forbidden


def observation_space(num_features: int) -> gymnasium.spaces.Space[Array]:
    """Space of one observation, (D,) float32."""
    return gymnasium.spaces.Box(-np.inf, np.inf, (num_features,), np.float32)


def whole_seed(seed: int | None) -> int | None:
    """A seed as Gymnasium takes it; raises ConfigError if it is no whole number from 0."""
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ConfigError(f"seed: expected a whole number of at least 0, found {seed!r}")
    return int(seed)


def stream_key(seed: int | None) -> np.uint64:
    """Key of an environment's random stream, through Gymnasium's own seeding; see `whole_seed`."""
    return np.uint64(seeding.np_random(whole_seed(seed))[0].integers(2**63))


def stream_keys(seed: int | list[int] | None, num_envs: int) -> NDArray[np.uint64]:
    """Keys of the streams of a vector, (N,): of seed + i, or of one each.

    Raises:
        ConfigError: a fraction, a number below 0, or another number of seeds than of environments.
    """
    seeds: list[Any] = [None] * num_envs if seed is None else seed  # type: ignore[assignment]
    if isinstance(seed, (int, np.integer)):
        seeds = [(whole_seed(seed) or 0) + i for i in range(num_envs)]
    elif isinstance(seed, float):
        raise ConfigError(f"seed: expected a whole number or one each, found {seed!r}")
    if len(seeds) != num_envs:
        raise ConfigError(f"seed: expected {num_envs} seeds, found {len(seeds)}")
    return np.array([stream_key(s) for s in seeds], np.uint64)


class Hidden(NamedTuple):
    """What a policy does not get to see of episodes, (n,) or for all of them."""

    logprobs: Array | bool = False
    difficulty: Array | bool = False
    verifier: Array | bool = False
    prompt: Array | bool = False
    arms: Array | bool = False
    """(n, R), of a menu."""


class PricedEpisodes:
    """Draws the terms of episodes and rewards their steps; part of both environments."""

    def _agree(
        self,
        config: Process,
        prices: LogUniform | None,
        round_prices: LogUniform | None,
        budgets: LogUniform | None,
        reward: Reward,
        illegal: Illegal,
    ) -> None:
        """Check and keep what an environment was told; see `envs.compute.ComputeEnv`."""
        if not callable(reward):
            raise ConfigError(f"reward: expected a function of a Step, found {reward!r}")
        ranges = {"prices": prices, "round_prices": round_prices, "budgets": budgets}
        for name, values in ranges.items():
            if not isinstance(values, LogUniform | None):
                raise ConfigError(
                    f"{name}: expected LogUniform(low=, high=) or None, found {values!r}"
                )
        self.config, self.reward, self.illegal = config, reward, check_illegal(illegal)
        self.prices = prices or price_range(config.cost_unit)
        self.round_prices, self.budgets = round_prices, budgets

    def _draw(
        self, streams: Streams, rows: Array, num_starts: int, hide_signals: float = 0.0
    ) -> tuple[Array, Array, Array, Array, Hidden]:
        """Start, price, round price, budget and what is hidden of a new episode in each of `rows`.

        All are (n,). In most episodes rounds cost nothing, and in as many there is no budget. Of a
        menu all arms but the first may be missing, as a server that is down is.
        """
        start = (streams.uniform(rows) * num_starts).astype(np.int64)
        price = self.prices.at(streams.uniform(rows))
        round_price, budget = (
            np.full(len(rows), otherwise)
            if values is None
            else np.where(
                streams.uniform(rows) < _SPECIAL_SHARE, values.at(streams.uniform(rows)), otherwise
            )
            for values, otherwise in ((self.round_prices, 0.0), (self.budgets, np.inf))
        )
        hidden = Hidden(*(streams.uniform(rows) < hide_signals for _ in Hidden._fields[:-1]))
        if self.config.is_menu:
            missing = np.zeros((len(rows), self.config.num_rungs), bool)
            for rung in range(1, self.config.num_rungs):
                missing[:, rung] = streams.uniform(rows) < hide_signals
            hidden = hidden._replace(arms=missing)
        return start, price, round_price, budget, hidden

    def _rewards(self, step: Step, forbidden: Array | bool) -> Floats:
        """Rewards of a step, (N,), given where an action was asked for that the mask forbids."""
        given = np.asarray(self.reward(step), np.float64)
        if given.shape != step.right.shape or not np.isfinite(given).all():
            raise ConfigError(
                f"reward: expected finite numbers of shape {step.right.shape}, found {given!r}"
            )
        return given - PENALTY * (np.asarray(forbidden) & (self.illegal == "penalty"))


def refuse_unknown(options: Any, known: Sequence[str]) -> None:
    """ConfigError unless the options of a `reset` are by name, and none but those that it knows."""
    named = isinstance(options, Mapping)
    unknown = [name for name in options if name not in known] if named else options
    if unknown or not named:
        raise ConfigError(f"options: expected {', '.join(known)}, found {unknown}")


def whole_option(options: Mapping[str, Any], name: str, drawn: int, count: int) -> int:
    """A position that `reset` is told, or the one drawn; ConfigError if it is none of so many."""
    value = options.get(name, drawn)
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not 0 <= value < count:
        raise ConfigError(f"{name}: expected a whole number from 0 to {count - 1}, found {value!r}")
    return int(value)


def number_option(options: Mapping[str, Any], name: str, drawn: float) -> float:
    """A number that `reset` is told, or the one drawn; ConfigError if it is none."""
    value = options.get(name, drawn)
    if not isinstance(value, Real) or isinstance(value, bool) or math.isnan(value):
        raise ConfigError(f"{name}: expected a number, found {value!r}")
    return float(value)
