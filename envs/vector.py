"""`allot/Compute-v0` over recorded traces, thousands of episodes at a time."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from controller.actions import ActionKind
from controller.episodes import AttemptColumns, EpisodeConfig, Episodes
from controller.errors import ConfigError, IllegalActionError
from controller.observation import NUM_FEATURES, observe
from envs.random import Streams
from envs.reward import LogUniform, price_range, reward
from envs.table import TraceTable

_REVISE = list(ActionKind).index(ActionKind.REVISE)
_ESCALATE = list(ActionKind).index(ActionKind.ESCALATE)
_VERIFY = list(ActionKind).index(ActionKind.VERIFY)

Array = NDArray[Any]

_SPECIAL_SHARE = 0.15


def observation_space() -> gymnasium.spaces.Space[Array]:
    """Space of one observation, (D,) float32."""
    return gymnasium.spaces.Box(-np.inf, np.inf, (NUM_FEATURES,), np.float32)


class Replay:
    """Replays N episodes from a table of attempts; the state of the vector environment.

    Independent attempts of a question come in a fresh random order in each episode.

    Args:
        table: recorded attempts.
        config: the decision process.
        num_episodes: N.
        difficulty: (Q, R) log-odds per question and rung; None when unknown.
        permute: whether to shuffle independent attempts; if not, recorded order.

    Attributes:
        question: (N,) position of each episode's question in the table.
        attempts: (N, attempts) rows of the table that each episode has seen, in order; as
            many count as `episodes.num_attempts` says.
    """

    def __init__(
        self,
        table: TraceTable,
        config: EpisodeConfig,
        num_episodes: int,
        *,
        difficulty: Array | None = None,
        permute: bool = True,
    ) -> None:
        if table.stream.shape[1] != config.num_rungs:
            raise ConfigError(
                f"cost weights: expected one per rung of the traces ({table.stream.shape[1]}), "
                f"found {config.num_rungs}"
            )
        if config.reads_prompt and difficulty is None:
            raise ConfigError("reads_prompt: expected the difficulty of each question, found none")
        self.table, self.config, self.permute = table, config, permute
        self.episodes = Episodes(config, num_episodes, table.num_answers)
        self.difficulty = (
            difficulty if difficulty is not None else np.full(table.prompt_tokens.shape, np.nan)
        )
        self.question = np.zeros(num_episodes, np.int64)
        self.hide_logprobs = np.zeros(num_episodes, bool)
        self.hide_verifier = np.zeros(num_episodes, bool)
        self.attempts = np.zeros((config.max_attempts, num_episodes), np.int64).T
        self._verified = np.zeros(num_episodes, np.int64)  # attempts before the last VERIFY
        self._scoreable = ~np.isnan(table.verifier_score) & config.verifies  # (M,)
        # Columns of attempts side by side, to be fetched together.
        self._counts = np.column_stack(
            (
                table.answer,
                table.attempt_prompt_tokens,
                table.completion_tokens,
                self._scoreable,
                table.first_child,
                table.num_children,
            )
        )  # (M, 6)
        self._logprobs = np.column_stack((table.mean_logprob, table.min_logprob))  # (M, 2)
        self._order = np.zeros((num_episodes, *table.stream.shape[1:]), np.int16)  # (N, R, S)
        self._identity = np.broadcast_to(
            np.arange(table.stream.shape[2], dtype=np.int16), table.stream.shape[1:]
        )

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
    ) -> None:
        """Start episodes on questions given by position, (n,)."""
        self.question[rows] = question
        self._verified[rows] = 0
        self._order[rows] = self._identity
        self.hide_logprobs[rows], self.hide_verifier[rows] = hide_logprobs, hide_verifier
        hidden = np.broadcast_to(hide_difficulty, question.shape)[:, None]
        difficulty = np.where(hidden, np.nan, self.difficulty[question])
        self.episodes.reset(
            rows,
            price=price,
            round_price=round_price,
            budget=budget,
            prompt_tokens=self.table.prompt_tokens[question],
            limits=self.table.stream_length[question],
            difficulty=difficulty,
        )

    def take(self, rows: Array, actions: Array, streams: Streams) -> None:
        """Carry out one action in each of `rows`, none of them STOP."""
        kinds, widths = self.episodes.kind(actions), self.episodes.width(actions)
        if self.config.verifies:
            verifying = kinds == _VERIFY
            self._verify(rows[verifying])
            rows, kinds, widths = rows[~verifying], kinds[~verifying], widths[~verifying]
        for attempt in range(int(widths.max(initial=0))):
            wide = widths > attempt
            self._attempt(rows[wide], kinds[wide], streams)
        self.episodes.finish_round(rows)

    def _verify(self, rows: Array) -> None:
        episodes, table = self.episodes, self.table
        attempts, made = self.attempts[rows], episodes.num_attempts[rows]
        place = np.arange(attempts.shape[1])
        new = (place >= self._verified[rows, None]) & (place < made[:, None])
        new &= self._scoreable[attempts]
        self._verified[rows] = made
        scored, attempt = np.repeat(rows, new.sum(1)), attempts[new]
        episodes.score(
            scored, table.answer[attempt], table.rung[attempt], table.verifier_score[attempt]
        )
        episodes.finish_verification(rows)

    def _attempt(self, rows: Array, kinds: Array, streams: Streams) -> None:
        episodes = self.episodes
        revised = kinds == _REVISE
        rung = np.where(kinds == _ESCALATE, episodes.next_rung[rows], 0)
        chosen = np.empty(len(rows), np.int64)
        fresh = ~revised
        if revised.any():
            chosen[revised] = episodes.take_child(rows[revised])
        chosen[fresh] = self._draw(rows[fresh], rung[fresh], streams)
        answer, prompt, completion, scoreable, first_child, num_children = np.ascontiguousarray(
            self._counts.take(chosen, axis=0).T
        )
        mean, least = np.where(self.hide_logprobs[rows], np.nan, self._logprobs.take(chosen, 0).T)
        self.attempts[rows, episodes.num_attempts[rows]] = chosen
        episodes.record(
            rows,
            revised,
            AttemptColumns(
                rung=rung,
                answer=answer,
                prompt_tokens=prompt,
                completion_tokens=completion,
                mean_logprob=mean,
                min_logprob=least,
                scoreable=(scoreable > 0) & ~self.hide_verifier[rows],
                first_child=first_child,
                num_children=num_children,
            ),
        )

    def _draw(self, rows: Array, rung: Array, streams: Streams) -> Array:
        """Next attempts of each stream, by one step of a Fisher-Yates shuffle."""
        table, used = self.table, self.episodes.counts[rows, rung]
        _, rungs, longest = table.stream.shape
        stream = self.question[rows] * rungs + rung
        if not self.permute:
            return np.asarray(table.stream.ravel()[stream * longest + used])
        order, begin = self._order.ravel(), (rows * rungs + rung) * longest
        left = table.stream_length.ravel()[stream] - used
        picked = begin + used + (streams.uniform(rows) * left).astype(np.int64)
        slot = order[picked]
        order[picked] = order[begin + used]
        return np.asarray(table.stream.ravel()[stream * longest + slot])

    def right(self, rows: Array | slice = slice(None)) -> NDArray[np.bool_]:
        """Whether the leading answer of each episode of `rows` is right, (n,)."""
        leader = self.episodes.leader[rows]
        known = self.table.answer_correct[self.question[rows], np.maximum(leader, 0)]
        return np.asarray(known & (leader >= 0))


class ComputeVectorEnv(VectorEnv[Array, Array, Array]):
    """Vectorised `allot/Compute-v0` over traces.

    Environment i draws the same episodes, bit for bit, as a scalar `ComputeEnv` over the
    same traces that is reset with seed + i.

    Args:
        table: recorded attempts.
        config: the decision process.
        num_envs: N.
        prices: range that each episode's price is drawn from.
        difficulty: (Q, R) log-odds per question and rung; None when unknown.
        budgets: range that the hard cap of an episode's cost is drawn from; None for no caps.
        round_prices: range that the price of a serial round is drawn from; None for none.
        hide_signals: probability that an episode goes without logprobs, and
            independently without difficulty and without a verifier, so that a policy
            learns to do without.
        permute: whether independent attempts come in random order.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (as in Gymnasium)
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": [],
    }

    def __init__(
        self,
        table: TraceTable,
        config: EpisodeConfig,
        num_envs: int,
        *,
        prices: LogUniform | None = None,
        difficulty: Array | None = None,
        budgets: LogUniform | None = None,
        round_prices: LogUniform | None = None,
        hide_signals: float = 0.0,
        permute: bool = True,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs: expected at least 1, found {num_envs}")
        self.num_envs = num_envs
        self.config = config
        self.prices = prices or price_range(config.cost_unit)
        self.round_prices = round_prices
        self.budgets = budgets
        self.hide_signals = hide_signals
        self.replay = Replay(table, config, num_envs, difficulty=difficulty, permute=permute)
        self.single_observation_space = observation_space()
        self.single_action_space = gymnasium.spaces.Discrete(len(config.actions))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._stop = np.array([a.kind is ActionKind.STOP for a in config.actions])
        self._rows = np.arange(num_envs)
        self._streams: Streams | None = None
        self._mask = np.ones((num_envs, len(config.actions)), bool)  # (N, A)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start all episodes afresh; environment i is seeded with seed + i."""
        if seed is not None or self._streams is None:
            seeds = (
                [None] * self.num_envs
                if seed is None
                else [seed + i for i in range(self.num_envs)]
                if isinstance(seed, int)
                else seed
            )
            self._streams = Streams(np.array([stream_key(s) for s in seeds], np.uint64))
        self._begin(self._rows)
        self._mask = self.replay.episodes.mask()
        return observe(self.replay.episodes), {"action_mask": self._mask.astype(np.int8)}

    def _begin(self, rows: Array) -> None:
        streams = self._streams
        assert streams is not None
        question, price, round_price, budget, hidden = draw_episode(
            streams,
            rows,
            len(self.replay.table),
            self.prices,
            self.round_prices,
            self.budgets,
            self.hide_signals,
        )
        self.replay.begin(
            rows,
            question,
            price,
            budget,
            round_price=round_price,
            hide_logprobs=hidden[0],
            hide_difficulty=hidden[1],
            hide_verifier=hidden[2],
        )

    def action_masks(self) -> NDArray[np.bool_]:
        """Allowed actions now, (N, A)."""
        return self._mask

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """One action per environment; finished episodes start again at once.

        Raises:
            IllegalActionError: an action that its mask forbids.
        """
        if self._streams is None:
            raise IllegalActionError("step: expected a reset first, found none")
        actions = np.asarray(actions)
        illegal = ~self._mask[self._rows, actions]
        if illegal.any():
            first = int(np.flatnonzero(illegal)[0])
            raise IllegalActionError(
                f"environment {first}: expected an action allowed by its mask "
                f"{self._mask[first].astype(int).tolist()}, found {int(actions[first])}"
            )
        episodes = self.replay.episodes
        stopped = self._stop[actions]
        spent = np.where(episodes.num_attempts == 0, 0.0, episodes.spent)
        rounds = episodes.rounds.copy()
        self.replay.take(self._rows[~stopped], actions[~stopped], self._streams)
        mask = episodes.mask()
        done = stopped | (mask.sum(1) == 1)
        right = np.zeros(self.num_envs, bool)
        right[done] = self.replay.right(done)
        rewards = reward(
            right,
            episodes.price * (episodes.spent - spent),
            episodes.round_price * (episodes.rounds - rounds),
        )
        observation = observe(episodes)
        info: dict[str, Any] = {}
        if done.any():
            rows = self._rows[done]
            info = self._final_info(observation.copy("K"), done, right)
            self._begin(rows)
            observe(episodes, rows, observation)
            mask[rows] = episodes.mask(rows)
        self._mask = mask
        info["action_mask"] = mask.astype(np.int8)
        return observation, rewards, done, np.zeros(self.num_envs, bool), info

    def state(self) -> dict[str, Array]:
        """Everything that changes from step to step, as arrays by name."""
        if self._streams is None:
            raise IllegalActionError("state: expected a reset first, found none")
        return {
            "streams": self._streams.state,
            **{f"replay/{k}": v.copy() for k, v in _arrays(self.replay).items()},
            **{f"episodes/{k}": v.copy() for k, v in _arrays(self.replay.episodes).items()},
        }

    def restore(self, state: dict[str, Array]) -> tuple[Array, NDArray[np.bool_]]:
        """Go back to a `state`; returns observations (N, D) and masks (N, A)."""
        self._streams = Streams(state["streams"])
        for prefix, owner in (("replay/", self.replay), ("episodes/", self.replay.episodes)):
            for name, array in _arrays(owner).items():
                array[...] = state[prefix + name]
        self._mask = self.replay.episodes.mask()
        return observe(self.replay.episodes), self._mask

    def _final_info(self, observation: Array, done: Array, right: Array) -> dict[str, Any]:
        episodes = self.replay.episodes
        return {
            "final_obs": observation,
            "_final_obs": done,
            "final_info": {
                "right": right,
                "cost": episodes.spent.copy(),
                "price": episodes.price.copy(),
                "round_price": episodes.round_price.copy(),
                "budget": episodes.budget.copy(),
                "samples": episodes.counts[:, 0].copy(),
                "revisions": episodes.revisions.copy(),
                "escalations": episodes.counts[:, 1:].sum(1),
                "rounds": episodes.rounds.copy(),
            },
            "_final_info": done,
        }


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

    Last come whether logprobs, difficulty and verifier are hidden, each (n,). In most
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
    hidden = [streams.uniform(rows) < hide_signals for _ in range(3)]
    return question, price, round_price, budget, hidden
