"""Many episodes in lockstep over recorded traces: what both granularities share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from controller.errors import ConfigError, IllegalActionError
from envs.random import Streams
from envs.reward import LogUniform, reward

Array = NDArray[Any]

STOP = 0
"""Action that ends an episode; the first of every action set."""

_SPECIAL_SHARE = 0.15


class LockstepState(Protocol):
    """State of N episodes, arrays over N."""

    price: Array
    round_price: Array
    spent: Array
    rounds: Array

    @property
    def fresh(self) -> Array:
        """Whether nothing has been done yet but reading the prompt."""
        ...

    def mask(self, rows: Array | slice = slice(None)) -> NDArray[np.bool_]:
        """Allowed actions, (n, A)."""
        ...


class Lockstep(Protocol):
    """Recorded traces replayed in N episodes at a time."""

    @property
    def episodes(self) -> LockstepState:
        """State of the episodes."""
        ...

    @property
    def num_features(self) -> int:
        """D."""
        ...

    @property
    def num_questions(self) -> int:
        """How many questions, or attempts at them, episodes are drawn from."""
        ...

    def begin(
        self,
        rows: Array,
        question: Array,
        price: Array,
        budget: Array,
        *,
        round_price: Array | float = 0.0,
        hide_logprobs: Array | bool = False,
        hide_difficulty: Array | bool = False,
        hide_verifier: Array | bool = False,
        hide_prompt: Array | bool = False,
    ) -> None:
        """Start episodes on questions given by position, (n,)."""
        ...

    def take(self, rows: Array, actions: Array, streams: Streams) -> None:
        """Carry out one action in each of `rows`, none of them STOP."""
        ...

    def close(self, rows: Array) -> None:
        """End the episodes of `rows`."""
        ...

    def right(self, rows: Array | slice = slice(None)) -> NDArray[np.bool_]:
        """Whether the answer of each episode of `rows` is right, (n,)."""
        ...

    def observe(
        self, rows: Array | slice = slice(None), out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Observations, of all episodes (N, D) or of `rows`, which replace those in `out`."""
        ...

    def final(self) -> dict[str, Array]:
        """What to tell of an episode that has ended, (N,) each."""
        ...


class LockstepEnv(VectorEnv[Array, Array, Array]):
    """A vector environment over replayed traces.

    Environment i draws the same episodes, bit for bit, as a scalar environment over the same
    traces that is reset with seed + i.

    Args:
        replay: the episodes.
        actions: names of the A actions.
        num_envs: N.
        prices: range that each episode's price is drawn from.
        budgets: range that the hard cap of an episode's cost is drawn from; None for no caps.
        round_prices: range that the price of a serial round is drawn from; None for none.
        hide_signals: probability that an episode goes without logprobs, and independently
            without difficulty, without a verifier and without the length of its prompt, so
            that a policy learns to do without.
        autoreset_mode: when a finished episode makes room for the next one: in the same step,
            in the next step (whose action it ignores), or, disabled, when `reset` is told
            to by `options={"reset_mask": mask}`.
        max_episode_steps: steps after which an episode is truncated; None for never.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (as in Gymnasium)
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": [],
    }

    def __init__(
        self,
        replay: Lockstep,
        actions: Sequence[str],
        num_envs: int,
        *,
        prices: LogUniform,
        budgets: LogUniform | None = None,
        round_prices: LogUniform | None = None,
        hide_signals: float = 0.0,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        max_episode_steps: int | None = None,
    ) -> None:
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps: expected at least 1, found {max_episode_steps}")
        self.num_envs, self.actions = num_envs, tuple(actions)
        self.num_features = replay.num_features
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.max_episode_steps = max_episode_steps
        self.prices, self.round_prices, self.budgets = prices, round_prices, budgets
        self.hide_signals = hide_signals
        self._replay = replay
        self.single_observation_space = observation_space(replay.num_features)
        self.single_action_space = gymnasium.spaces.Discrete(len(self.actions))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rows = np.arange(num_envs)
        self._streams: Streams | None = None
        self._mask = np.ones((num_envs, len(self.actions)), bool)  # (N, A)
        self._over = np.zeros(num_envs, bool)  # ended, and not begun again yet
        self._elapsed = np.zeros(num_envs, np.int64)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start episodes afresh; environment i is seeded with seed + i.

        Args:
            seed: starts new random streams.
            options: `reset_mask`, (N,) bool, to start these environments' episodes alone.

        Raises:
            ConfigError: an unknown option, or a mask of another shape or type.
        """
        rows = self._chosen(options or {})
        if seed is not None or self._streams is None:
            seeds = (
                [None] * self.num_envs
                if seed is None
                else [seed + i for i in range(self.num_envs)]
                if isinstance(seed, int)
                else seed
            )
            keys = np.array([stream_key(s) for s in seeds], np.uint64)
            if self._streams is None:
                self._streams = Streams(keys)
            self._streams.state[rows] = keys[rows]
        self._begin(rows)
        self._mask = self._replay.episodes.mask()
        return self._replay.observe(), {"action_mask": self._mask.astype(np.int8)}

    def _chosen(self, options: dict[str, Any]) -> Array:
        """Environments to reset, (n,)."""
        unknown = set(options) - {"reset_mask"}
        if unknown:
            raise ConfigError(f"options: expected reset_mask, found {sorted(unknown)}")
        mask = options.get("reset_mask")
        if mask is None or self._streams is None:
            return self._rows
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise ConfigError(
                f"reset_mask: expected bool of shape ({self.num_envs},), found {mask.dtype} of "
                f"{mask.shape}"
            )
        return np.flatnonzero(mask)

    def _begin(self, rows: Array) -> None:
        streams = self._streams
        assert streams is not None
        question, price, round_price, budget, hidden = draw_episode(
            streams,
            rows,
            self._replay.num_questions,
            self.prices,
            self.round_prices,
            self.budgets,
            self.hide_signals,
        )
        self._replay.begin(
            rows,
            question,
            price,
            budget,
            round_price=round_price,
            hide_logprobs=hidden[0],
            hide_difficulty=hidden[1],
            hide_verifier=hidden[2],
            hide_prompt=hidden[3],
        )
        self._over[rows], self._elapsed[rows] = False, 0

    def action_masks(self) -> NDArray[np.bool_]:
        """Allowed actions now, (N, A)."""
        return self._mask

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One action per environment.

        Raises:
            IllegalActionError: an action that its mask forbids, or an episode that is over and
                that nobody has reset.
        """
        actions = np.asarray(actions)
        resting = self._rest(actions)
        episodes = self._replay.episodes
        stopped = (actions == STOP) & ~resting
        spent = np.where(episodes.fresh, 0.0, episodes.spent)
        rounds = episodes.rounds.copy()
        moving = ~(stopped | resting)
        assert self._streams is not None
        self._replay.take(self._rows[moving], actions[moving], self._streams)
        self._elapsed += ~resting
        self._mask = episodes.mask()
        terminated = ~resting & (stopped | (self._mask.sum(1) == 1))
        truncated = np.zeros(self.num_envs, bool)
        if self.max_episode_steps is not None:
            truncated = self._elapsed >= self.max_episode_steps
        self._replay.close(self._rows[terminated])
        right = np.zeros(self.num_envs, bool)
        right[terminated] = self._replay.right(terminated)
        rewards = reward(
            right,
            episodes.price * (episodes.spent - spent),
            episodes.round_price * (episodes.rounds - rounds),
        )
        rewards[resting] = 0.0
        observation = self._replay.observe()
        info = self._end(observation, terminated | truncated, right)
        info["action_mask"] = self._mask.astype(np.int8)
        return observation, rewards, terminated, truncated, info

    def _rest(self, actions: Array) -> NDArray[np.bool_]:
        """Begin again what was over before this step, and check all other actions; (N,)."""
        if self._streams is None:
            raise IllegalActionError("step: expected a reset first, found none")
        resting = self._over.copy()
        illegal = ~(self._mask[self._rows, actions] | resting)
        if illegal.any():
            first = int(np.flatnonzero(illegal)[0])
            raise IllegalActionError(
                f"environment {first}: expected an action allowed by its mask "
                f"{self._mask[first].astype(int).tolist()}, found {int(actions[first])}"
            )
        if resting.any():
            rows = self._rows[resting]
            if self.autoreset_mode is AutoresetMode.DISABLED:
                raise IllegalActionError(
                    f"environments {rows.tolist()}: expected a reset of what is over, by "
                    'options={"reset_mask": mask}, found a step'
                )
            self._begin(rows)
        return resting

    def _end(self, observation: Array, done: Array, right: Array) -> dict[str, Any]:
        """Tell how episodes ended, and begin the next ones if that is to be in the same step."""
        if not done.any():
            return {}
        final = {"right": right, **self._replay.final()}
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            self._over = done
            return final | {f"_{name}": done for name in final}
        info = {
            "final_obs": observation.copy("K"),
            "_final_obs": done,
            "final_info": final,
            "_final_info": done,
        }
        rows = self._rows[done]
        self._begin(rows)
        self._replay.observe(rows, observation)
        self._mask[rows] = self._replay.episodes.mask(rows)
        return info

    def state(self) -> dict[str, Array]:
        """Everything that changes from step to step, as arrays by name."""
        if self._streams is None:
            raise IllegalActionError("state: expected a reset first, found none")
        return {
            "streams": self._streams.state,
            "over": self._over,
            "elapsed": self._elapsed,
            **{f"replay/{k}": v.copy() for k, v in _arrays(self._replay).items()},
            **{f"episodes/{k}": v.copy() for k, v in _arrays(self._replay.episodes).items()},
        }

    def restore(self, state: dict[str, Array]) -> tuple[Array, NDArray[np.bool_]]:
        """Go back to a `state`; returns observations (N, D) and masks (N, A)."""
        self._streams = Streams(state["streams"])
        self._over, self._elapsed = state["over"].copy(), state["elapsed"].copy()
        for prefix, owner in (("replay/", self._replay), ("episodes/", self._replay.episodes)):
            for name, array in _arrays(owner).items():
                array[...] = state[prefix + name]
        self._mask = self._replay.episodes.mask()
        return self._replay.observe(), self._mask


def _arrays(owner: object) -> dict[str, Array]:
    """What changes from step to step; views of arrays that are there already left out."""
    found: dict[str, Array] = {}
    for name, value in vars(owner).items():
        if (
            isinstance(value, np.ndarray)
            and value.flags.writeable
            and not any(np.may_share_memory(value, array) for array in found.values())
        ):
            found[name] = value
    return found


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
