"""The environment over recorded traces, thousands of episodes at a time."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from controller.errors import ConfigError, IllegalActionError, check_range
from controller.granularity import Process
from controller.process.lockstep import Array, Bools
from envs.draws import (
    Illegal,
    PricedEpisodes,
    Streams,
    carried_out,
    observation_space,
    refuse_unknown,
    stream_keys,
)
from envs.granularity import STOP, opened, replay_of
from envs.reward import LogUniform, Reward, Step, utility
from envs.segments import SegmentTable
from envs.traces.table import TraceTable


def make_vector(
    traces: str, num_envs: int = 1, split: str = "train", **kwargs: Any
) -> ComputeVectorEnv:
    """N environments over a split of recorded traces; `kwargs` are of `ComputeVectorEnv`."""
    read = opened(traces)
    return ComputeVectorEnv(read.table(split), read.process(kwargs), num_envs, **kwargs)


class ComputeVectorEnv(PricedEpisodes, VectorEnv[Array, Array, Array]):
    """`allot/Compute-v0` or `allot/Segment-v0` over recorded traces, N episodes at a time.

    Environment i draws the same episodes, bit for bit, as a scalar environment over the same
    traces that is reset with seed + i. Actions, observations (docs/reference/observation.md)
    and rewards are those of `envs.compute.ComputeEnv`, and so are arguments that are not listed;
    rewards and `info["illegal"]` are (N,).

    Args:
        table: recorded attempts, or trees of segments.
        num_envs: N.
        difficulty: (Q, R) log-odds per question and rung; None when unknown.
        hide_signals: probability that an episode goes without logprobs, and independently
            without difficulty, without a verifier, without the length of its prompt and
            without each arm of a menu but the first, so that a policy learns to do without.
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
        table: TraceTable | SegmentTable,
        config: Process,
        num_envs: int,
        *,
        prices: LogUniform | None = None,
        difficulty: Array | None = None,
        budgets: LogUniform | None = None,
        round_prices: LogUniform | None = None,
        hide_signals: float = 0.0,
        permute: bool = True,
        reward: Reward = utility,
        illegal: Illegal = "raise",
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        max_episode_steps: int | None = None,
    ) -> None:
        self.num_envs, self.hide_signals = num_envs, hide_signals
        check_range(self, ("num_envs",), least=1)
        check_range(self, ("hide_signals",), least=0, most=1)
        if max_episode_steps is not None and (max_episode_steps % 1 or max_episode_steps < 1):
            expected = "a whole number from 1, or None"
            raise ConfigError(f"max_episode_steps: expected {expected}, found {max_episode_steps}")
        self._agree(config, prices, round_prices, budgets, reward, illegal)
        replay = replay_of(table, config, num_envs, difficulty=difficulty, permute=permute)
        self.replay = replay
        self.actions, self.num_features = config.actions.names, replay.num_features
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.max_episode_steps = max_episode_steps
        self.single_observation_space = observation_space(self.num_features)
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
            ConfigError: an unknown option, a mask of another shape or type, or another number of
                seeds than of environments.
        """
        rows = self._chosen(options or {})
        if seed is not None or self._streams is None:
            keys = stream_keys(seed, self.num_envs)
            if self._streams is None:
                self._streams = Streams(keys)
            self._streams.state[rows] = keys[rows]
        self._begin(rows)
        self._mask = self.replay.episodes.mask()
        return self.replay.observe(), {"action_mask": self._mask.astype(np.int8)}

    def _chosen(self, options: dict[str, Any]) -> Array:
        """Environments to reset, (n,)."""
        refuse_unknown(options, ("reset_mask",))
        if options.get("reset_mask") is None or self._streams is None:
            return self._rows
        mask = np.asarray(options["reset_mask"])
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise ConfigError(
                f"reset_mask: expected bool of shape ({self.num_envs},), found {mask.dtype} of "
                f"{mask.shape}"
            )
        return np.flatnonzero(mask)

    def _begin(self, rows: Array) -> None:
        assert self._streams is not None
        drawn = self._draw(self._streams, rows, self.replay.num_starts, self.hide_signals)
        start, price, round_price, budget, hidden = drawn
        self.replay.begin(rows, start, price, budget, round_price=round_price, hidden=hidden)
        self._over[rows], self._elapsed[rows] = False, 0

    def action_masks(self) -> Bools:
        """Allowed actions now, (N, A)."""
        return self._mask

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One action per environment.

        Raises:
            IllegalActionError: a number that stands for no action, an action that its mask
                forbids (see `illegal`), or an episode that is over and that nobody has reset.
        """
        actions, forbidden = carried_out(actions, self._mask, self.illegal, self._over)
        resting = self._rest()
        episodes = self.replay.episodes
        stopped = (actions == STOP) & ~resting
        spent = np.where(episodes.fresh, 0.0, episodes.spent)
        rounds = episodes.rounds.copy()
        moving = ~(stopped | resting)
        assert self._streams is not None
        self.replay.take(self._rows[moving], actions[moving], self._streams)
        self._elapsed += ~resting
        self._mask = episodes.mask()
        terminated = ~resting & (stopped | (self._mask.sum(1) == 1))
        truncated = np.zeros(self.num_envs, bool)
        if self.max_episode_steps is not None:
            truncated = self._elapsed >= self.max_episode_steps
        self.replay.close(self._rows[terminated])
        right = terminated & self.replay.right()
        step = Step(
            right=right,
            wrong=terminated & self.replay.answered() & ~right,
            compute=episodes.price * (episodes.spent - spent),
            rounds=episodes.round_price * (episodes.rounds - rounds),
        )
        rewards = self._rewards(step, forbidden)
        rewards[resting] = 0.0
        observation = self.replay.observe()
        info = self._end(observation, terminated | truncated, right)
        info["action_mask"] = self._mask.astype(np.int8)
        if self.illegal != "raise":
            info["illegal"] = forbidden
        return observation, rewards, terminated, truncated, info

    def _rest(self) -> Bools:
        """Begin again what was over before this step; (N,)."""
        if self._streams is None:
            raise IllegalActionError("step: expected a reset first, found none")
        resting = self._over.copy()
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
        final = {"right": right, **self.replay.final()}
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            self._over = done
            return final | {f"_{name}": done for name in final}
        info = {"final_obs": observation.copy("K"), "final_info": final}
        info |= {"_final_obs": done, "_final_info": done}
        rows = self._rows[done]
        self._begin(rows)
        self.replay.observe(rows, observation)
        self._mask[rows] = self.replay.episodes.mask(rows)
        return info

    def state(self) -> dict[str, Array]:
        """Everything that changes from step to step, as arrays by name."""
        if self._streams is None:
            raise IllegalActionError("state: expected a reset first, found none")
        return {
            "streams": self._streams.state,
            "over": self._over,
            "elapsed": self._elapsed,
            **{f"replay/{k}": v.copy() for k, v in _arrays(self.replay).items()},
            **{f"episodes/{k}": v.copy() for k, v in _arrays(self.replay.episodes).items()},
        }

    def restore(self, state: dict[str, Array]) -> tuple[Array, Bools]:
        """Go back to a `state`; returns observations (N, D) and masks (N, A).

        Raises:
            ConfigError: the state lacks an array that these environments keep.
        """
        self._streams = Streams(state["streams"])
        self._over, self._elapsed = state["over"].copy(), state["elapsed"].copy()
        for prefix, owner in (("replay/", self.replay), ("episodes/", self.replay.episodes)):
            for name, array in _arrays(owner).items():
                if prefix + name not in state:
                    raise ConfigError(
                        f"state: expected {prefix + name}, found none: another version of allot "
                        "saved it; train in another directory"
                    )
                array[...] = state[prefix + name]
        self._mask = self.replay.episodes.mask()
        return self.replay.observe(), self._mask


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
