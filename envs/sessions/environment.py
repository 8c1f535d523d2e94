"""`allot/Session-v0`: what to prepare before the first question, and how to answer each."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from controller.errors import ConfigError, IllegalActionError
from controller.process.lockstep import Array, Bools, Singles
from envs.draws import (
    PENALTY,
    Illegal,
    Streams,
    carried_out,
    check_illegal,
    observation_space,
    stream_keys,
    whole_seed,
)
from envs.granularity import opened
from envs.sessions.table import ACTIONS, Sessions, SessionTable

_ROW = np.zeros(1, np.int64)


def make_session(traces: str, split: str = "train", **kwargs: Any) -> SessionEnv:
    """The environment of sessions over a split of recorded traces; `kwargs` are of `SessionEnv`."""
    return SessionEnv(opened(traces).sessions(split), **kwargs)


def make_sessions(
    traces: str, num_envs: int = 1, split: str = "train", **kwargs: Any
) -> SessionVectorEnv:
    """N of them; `kwargs` are of `SessionVectorEnv`."""
    return SessionVectorEnv(opened(traces).sessions(split), num_envs, **kwargs)


class _OverSessions:
    """Sessions over a table, their random streams, and what forbidden actions do."""

    replay: Sessions

    def _open(self, table: SessionTable, num_envs: int, illegal: Illegal) -> None:
        self.replay, self.illegal = Sessions(table, num_envs), check_illegal(illegal)
        self._streams: Streams | None = None

    def _take(self, actions: Array) -> tuple[Array, Array]:
        """Rewards of actions, and where sessions are over then, (N,) each."""
        if self._streams is None:
            raise IllegalActionError("step: expected a reset first, found none")
        taken, forbidden = carried_out(actions, self.replay.mask(), self.illegal)
        reward, over = self.replay.take(taken, self._streams)
        return reward - PENALTY * (forbidden & (self.illegal == "penalty")), over


class SessionEnv(_OverSessions, gymnasium.Env[Singles, np.int64]):
    """One session per episode: a decision before the first question, then one for each.

    ## Action Space
    `Discrete(7)`: before the first question WAIT, or PREPARE likely, all, or vote: notes by the
    large model on the likely questions, on all, or on the likely ones by the majority of three.
    At each question ANSWER(small), ANSWER(large), and LOOK UP where there is a note.
    `info["action_mask"]`, (A,) int8, and `action_masks()`, (A,) bool, tell which are legal.

    ## Observation Space
    `Box(D,)` float32, see `envs.sessions.table.Sessions.features`: the kind and length of the
    context, how many questions are expected, the share of likely ones, prices while somebody waits
    and while nobody does, the price of a token that somebody waits for, and how things stand.

    ## Rewards
    Of PREPARE -idle price x cost. Of each question 1 if its answer is right, less wake price x
    cost and step price x tokens written; looking up costs nothing.

    ## Starting State
    A context, drawn uniformly, an expected number n of questions, predictability and prices. The
    number of questions is binomial with mean n, of at most M; each is one of the likely M with
    probability predictability, of the others otherwise, and none is asked twice.

    ## Episode Termination
    No question is left; the policy is not told beforehand. Only a TimeLimit truncates.

    Args:
        table: recorded answers.
        illegal: what an action that the mask forbids does: "raise" an IllegalActionError, count as
            the first that it allows, WAIT or ANSWER(small) ("stop"), or cost 1 more as well
            ("penalty").
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (as in Gymnasium)

    def __init__(self, table: SessionTable, *, illegal: Illegal = "raise") -> None:
        self._open(table, 1, illegal)
        self.observation_space = observation_space(len(self.replay.features))
        self.action_space = Discrete(len(ACTIONS))
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Singles, dict[str, Any]]:
        """Start a session.

        Args:
            seed: starts a new random stream.
            options: `context` (position), `questions`, `predictability`, `wake_price`,
                `idle_price` and `step_price` to choose instead of drawing.

        Raises:
            ConfigError: an unknown option, or one that is out of its range.
        """
        seed = whole_seed(seed)
        super().reset(seed=seed)
        if seed is not None or self._streams is None:
            self._streams = Streams(stream_keys(seed, 1))
        self.replay.begin(_ROW, self._streams, options or {})
        self._over = False
        return self.replay.observe()[0], self._info()

    def action_masks(self) -> Bools:
        """Allowed actions now, (A,)."""
        return self.replay.mask()[0]

    def step(self, action: np.int64) -> tuple[Singles, float, bool, bool, dict[str, Any]]:
        """Carry out one action.

        Raises:
            IllegalActionError: no action, a forbidden one, or the session is over.
        """
        if self._over:
            raise IllegalActionError("step: expected a reset first, found a session that is over")
        reward, over = self._take(np.array([action]))
        self._over = bool(over[0])
        info = self._info()
        if self._over:
            told = self.replay
            info |= {"right": float(told.number_right[0]), "spent": float(told.spent[0])}
        return self.replay.observe()[0], float(reward[0]), self._over, False, info

    def _info(self) -> dict[str, Any]:
        context = self.replay.table.contexts[self.replay.context[0]]
        return {"action_mask": self.action_masks().astype(np.int8), "context": context}


class SessionVectorEnv(_OverSessions, VectorEnv[Array, Array, Array]):
    """N sessions at a time; environment i plays those of a `SessionEnv` of seed + i, bit for bit.

    A session that is over makes room for the next one in the same step.

    Args:
        table: recorded answers.
        num_envs: N.
        options: of every session, see `SessionEnv.reset`; a number or (N,) each.
        illegal: see `SessionEnv`.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (as in Gymnasium)
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": [],
    }
    autoreset_mode = AutoresetMode.SAME_STEP
    max_episode_steps: int | None = None
    config = None
    actions = ACTIONS

    def __init__(
        self,
        table: SessionTable,
        num_envs: int,
        options: dict[str, Any] | None = None,
        *,
        illegal: Illegal = "raise",
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs: expected at least 1, found {num_envs}")
        self._open(table, num_envs, illegal)
        self.num_envs, self.options = num_envs, options or {}
        self.num_features = len(self.replay.features)
        self.single_observation_space = observation_space(self.num_features)
        self.single_action_space = Discrete(len(ACTIONS))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start sessions afresh; environment i is seeded with seed + i.

        Args:
            seed: starts new random streams; one of each environment's own where a list.
            options: see `SessionEnv.reset`, (N,) each, of these sessions alone.

        Raises:
            ConfigError: an unknown option, one that is out of its range, or another number of
                seeds than of environments.
        """
        if seed is not None or self._streams is None:
            self._streams = Streams(stream_keys(seed, self.num_envs))
        everyone = np.arange(self.num_envs)
        self.replay.begin(everyone, self._streams, self.options | (options or {}))
        return self.replay.observe(), {"action_mask": self.replay.mask().astype(np.int8)}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One action per environment.

        Raises:
            IllegalActionError: a number that stands for no action, or that its mask forbids.
        """
        sessions = self.replay
        reward, over = self._take(np.asarray(actions))
        observation, info = sessions.observe(), {}
        if over.any():
            price = sessions.expected.wake_price.copy()
            final = {
                "right": sessions.number_right.copy(),
                "price": price,
                "cost": sessions.spent / price,
                "budget": np.full(self.num_envs, np.inf),
                "spent": sessions.spent.copy(),
            }
            info = {"final_obs": observation, "final_info": final}
            info |= {"_final_obs": over, "_final_info": over}
            rows = np.flatnonzero(over)
            options = {k: np.broadcast_to(v, self.num_envs)[rows] for k, v in self.options.items()}
            assert self._streams is not None
            sessions.begin(rows, self._streams, options)
            observation = sessions.observe()
        info["action_mask"] = sessions.mask().astype(np.int8)
        return observation, reward, over, np.zeros(self.num_envs, bool), info
