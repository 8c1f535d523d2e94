"""Recorded trees replayed in N attempts at a time, and the vector environment over them."""

from __future__ import annotations

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from controller.episodes import NO_ANSWER
from controller.errors import ConfigError, TraceFormatError
from controller.segments.episodes import SegmentColumns, SegmentConfig, SegmentEpisodes
from controller.segments.observation import NUM_SEGMENT_FEATURES, observe_segments
from controller.segments.types import SegmentAction
from envs.lockstep import Array, LockstepEnv
from envs.random import Streams
from envs.reward import LogUniform, price_range
from envs.segments.table import SegmentTable

REVISE, ESCALATE = SegmentAction.REVISE, SegmentAction.ESCALATE


class SegmentReplay:
    """Replays N attempts from a table of trees; the state of the vector environment.

    Args:
        table: recorded trees.
        config: the decision process.
        num_episodes: N.
        difficulty: (Q, R) log-odds per question and rung; None when unknown.

    Attributes:
        tree: (N,) position of each episode's attempt in the table.
        node, before: (N,) node that each episode is at, and the one before it.
    """

    def __init__(
        self,
        table: SegmentTable,
        config: SegmentConfig,
        num_episodes: int,
        *,
        difficulty: NDArray[np.float64] | None = None,
    ) -> None:
        if max(config.draws) > table.draws.shape[1]:
            raise ConfigError(
                f"draws: expected at most the {table.draws.shape[1]} that were recorded, found "
                f"{config.draws}"
            )
        self.table, self.config = table, config
        self.episodes = SegmentEpisodes(config, num_episodes)
        self.difficulty = difficulty
        self.tree = np.zeros(num_episodes, np.int64)
        self.node, self.before = np.zeros(num_episodes, np.int64), np.zeros(num_episodes, np.int64)
        self.hide_logprobs = np.zeros(num_episodes, bool)
        self.hide_value = np.zeros(num_episodes, bool)

    @property
    def num_features(self) -> int:
        """D."""
        return NUM_SEGMENT_FEATURES

    @property
    def num_questions(self) -> int:
        """Attempts of the table: episodes are drawn from these."""
        return len(self.table)

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
        """Start episodes on attempts given by position, (n,); rounds have no price here."""
        table, rungs = self.table, len(self.config.cost.weights)
        self.tree[rows], self.node[rows] = question, table.root[question]
        self.hide_logprobs[rows], self.hide_value[rows] = hide_logprobs, hide_verifier
        difficulty = np.full((len(rows), rungs), np.nan)
        if self.difficulty is not None:
            difficulty = np.where(
                np.broadcast_to(hide_difficulty, question.shape)[:, None],
                np.nan,
                self.difficulty[table.question[question]],
            )
        value = table.value[self.node[rows]]
        self.episodes.reset(
            rows,
            price=price,
            budget=budget,
            prompt_tokens=table.prompt_tokens[question, :rungs],
            difficulty=difficulty,
            value=np.where(self.hide_value[rows], np.nan, value),
        )

    def take(self, rows: Array, actions: Array, streams: Streams | None = None) -> None:
        """Carry out one action in each of `rows`, none of them STOP."""
        table, draw = self.table, self.episodes.next_draw(rows, actions)
        before = np.where(actions == REVISE, self.before[rows], self.node[rows])
        node = np.where(
            actions < ESCALATE,
            table.draws[before, draw],
            np.where(actions == ESCALATE, table.escalated[before], table.ended[before]),
        )
        if (node < 0).any():
            self._miss(rows[node < 0][0], actions[node < 0][0])
        self.before[rows], self.node[rows] = before, node
        repeats = np.where(actions < ESCALATE, table.repeats[before, draw], 0)
        self.episodes.record(rows, actions, self._columns(rows, node, repeats))

    def _miss(self, row: int, action: int) -> None:
        question = self.table.question_ids[self.table.question[self.tree[row]]]
        raise TraceFormatError(
            f"{question}: expected what follows {SegmentAction(action)} to be recorded, found "
            "nothing; record again, or train with fewer draws"
        )

    def _columns(self, rows: Array, node: Array, repeats: Array) -> SegmentColumns:
        table, done = self.table, self.table.done[node]
        probe = np.where(done | (not self.config.probes), NO_ANSWER, table.answer[node])
        shown = ~self.hide_logprobs[rows]
        return SegmentColumns(
            num_tokens=table.num_tokens[node],
            small_tokens=table.small_tokens[node],
            mean_logprob=np.where(shown, table.mean_logprob[node], np.nan),
            min_logprob=np.where(shown, table.min_logprob[node], np.nan),
            entropy=np.where(shown, table.entropy[node], np.nan),
            value=np.where(self.hide_value[rows], np.nan, table.value[node]),
            done=done,
            answer=np.where(done, table.answer[node], NO_ANSWER),
            repeats=repeats,
            probe=probe,
            probe_tokens=table.forced_tokens[node],
        )

    def close(self, rows: Array) -> None:
        """Force the answers of those of `rows` that have none."""
        rows = self.episodes.unanswered(rows)
        node = self.node[rows]
        self.episodes.force(rows, self.table.answer[node], self.table.forced_tokens[node])

    def right(self, rows: Array | slice = slice(None)) -> NDArray[np.bool_]:
        """Whether the answer of each episode of `rows` is right, (n,)."""
        answered = self.episodes.answer[rows] >= 0
        return answered & self.table.right(self.tree[rows], self.node[rows])

    def observe(
        self, rows: Array | slice = slice(None), out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Observations; see `observe_segments`."""
        return observe_segments(self.episodes, rows, out)

    def final(self) -> dict[str, Array]:
        """What to tell of an episode that has ended, (N,) each."""
        episodes = self.episodes
        return {
            "cost": episodes.spent.copy(),
            "price": episodes.price.copy(),
            "budget": episodes.budget.copy(),
            "samples": episodes.samples.copy(),
            "revisions": episodes.revisions.copy(),
            "escalations": episodes.escalated.astype(np.int64),
            "forced": episodes.forced.astype(np.int64),
        }


class SegmentVectorEnv(LockstepEnv):
    """Vectorised `allot/Segment-v0` over recorded trees; see `LockstepEnv`.

    Args:
        table: recorded trees.
        config: the decision process.
        num_envs: N.
        prices: range that each episode's price is drawn from.
        difficulty: (Q, R) log-odds per question and rung; None when unknown.
        budgets: range that the hard cap of an episode's cost is drawn from; None for no caps.
        hide_signals: share of episodes without each signal.
        autoreset_mode: when a finished episode makes room for the next one.
        max_episode_steps: steps after which an episode is truncated; None for never.
    """

    def __init__(
        self,
        table: SegmentTable,
        config: SegmentConfig,
        num_envs: int,
        *,
        prices: LogUniform | None = None,
        difficulty: NDArray[np.float64] | None = None,
        budgets: LogUniform | None = None,
        hide_signals: float = 0.0,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        max_episode_steps: int | None = None,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs: expected at least 1, found {num_envs}")
        self.config = config
        self.replay = SegmentReplay(table, config, num_envs, difficulty=difficulty)
        super().__init__(
            self.replay,
            [str(action) for action in config.actions],
            num_envs,
            prices=prices or price_range(config.cost_unit),
            budgets=budgets,
            hide_signals=hide_signals,
            autoreset_mode=autoreset_mode,
            max_episode_steps=max_episode_steps,
        )
