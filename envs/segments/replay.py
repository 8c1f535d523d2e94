"""Recorded trees replayed in N attempts at a time."""

from __future__ import annotations

from typing import Any

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
from envs.random import Streams
from envs.replay import Array, Replay
from envs.segments.table import SegmentTable


class SegmentReplay(Replay):
    """Replays N attempts from a table of trees; rounds have no price there.

    Args:
        table: recorded trees.
        config: the decision process.
        num_episodes: N.
        difficulty: (Q, R) log-odds per question and rung; None when unknown.
        permute: of no consequence: each draw has its place in a tree.

    Attributes:
        node, before: (N,) node that each episode is at, and the one before it.
    """

    table: SegmentTable
    episodes: SegmentEpisodes

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
        super().__init__(table, SegmentEpisodes(config, num_episodes), difficulty)
        self.node, self.before = np.zeros((2, num_episodes), np.int64)

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

    def _begin(self, rows: Array, start: Array, hide_prompt: Array, terms: dict[str, Any]) -> None:
        self.node[rows] = root = self.table.root[start]
        self.episodes.reset(
            rows,
            prompt_tokens=self.table.prompt_tokens[start, : self.config.num_rungs],
            value=np.where(self.hide_verifier[rows], np.nan, self.table.value[root]),
            **terms,
        )

    def take(self, rows: Array, actions: Array, streams: Streams) -> None:
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
            question = table.question[self.start[rows[missing[0]]]]
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
            value=np.where(self.hide_verifier[rows], np.nan, table.value[node]),
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

    def right(self) -> NDArray[np.bool_]:
        """Whether the answer of each episode is right, (N,)."""
        return (self.episodes.answer >= 0) & self.table.right(self.start, self.node)
