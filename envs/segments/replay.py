"""Recorded trees replayed in N attempts at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controller.errors import ConfigError, TraceFormatError
from controller.process.actions import SEGMENT_ACTIONS
from controller.segments.episodes import (
    ESCALATE,
    REVISE,
    SegmentColumns,
    SegmentConfig,
    SegmentEpisodes,
)
from controller.segments.observation import NUM_SEGMENT_FEATURES, observe_segments
from envs.draws import Array
from envs.random import Streams
from envs.segments.table import SegmentTable


class SegmentReplay:
    """Replays N attempts from a table of trees; the state of the vector environment.

    Args:
        table: recorded trees.
        config: the decision process.
        num_episodes: N.
        difficulty: (Q, R) log-odds per question and rung; None when unknown.
        permute: of no consequence: each draw has its place in a tree.

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
        difficulty: Array | None = None,
        permute: bool = True,
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
    def num_starts(self) -> int:
        """Attempts of the table: an episode starts at any of them."""
        return len(self.table)

    @property
    def tally(self) -> dict[str, Array]:
        """Segments by the small model, those redone, escalations and forced answers, (N,) each."""
        episodes = self.episodes
        return {
            "segments": episodes.samples,
            "redone": episodes.revisions,
            "escalations": episodes.escalated.astype(np.int64),
            "forced": episodes.forced.astype(np.int64),
        }

    def begin(
        self,
        rows: Array,
        tree: Array,
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
        self.tree[rows], self.node[rows] = tree, table.root[tree]
        self.hide_logprobs[rows], self.hide_value[rows] = hide_logprobs, hide_verifier
        difficulty = np.full((len(rows), rungs), np.nan)
        if self.difficulty is not None:
            difficulty = np.where(
                np.broadcast_to(hide_difficulty, tree.shape)[:, None],
                np.nan,
                self.difficulty[table.question[tree]],
            )
        value = table.value[self.node[rows]]
        self.episodes.reset(
            rows,
            price=price,
            budget=budget,
            prompt_tokens=table.prompt_tokens[tree, :rungs],
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
        missing = np.flatnonzero(node < 0)
        if len(missing):
            question = table.question[self.tree[rows[missing[0]]]]
            raise TraceFormatError(
                f"{table.question_ids[question]}: expected what follows "
                f"{SEGMENT_ACTIONS[actions[missing[0]]]} to be recorded, found nothing; record "
                "again, or train with fewer draws"
            )
        self.before[rows], self.node[rows] = before, node
        repeats = np.where(actions < ESCALATE, table.repeats[before, draw], 0)
        self.episodes.record(rows, actions, self._columns(rows, node, repeats))

    def _columns(self, rows: Array, node: Array, repeats: Array) -> SegmentColumns:
        table, shown = self.table, ~self.hide_logprobs[rows]
        return SegmentColumns(
            num_tokens=table.num_tokens[node],
            small_tokens=table.small_tokens[node],
            mean_logprob=np.where(shown, table.mean_logprob[node], np.nan),
            min_logprob=np.where(shown, table.min_logprob[node], np.nan),
            entropy=np.where(shown, table.entropy[node], np.nan),
            value=np.where(self.hide_value[rows], np.nan, table.value[node]),
            done=table.done[node],
            repeats=repeats,
            answer=table.answer[node],
            forced_tokens=table.forced_tokens[node],
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
            **{name: column.copy() for name, column in self.tally.items()},
        }
