"""Recorded attempts replayed in N episodes at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.actions import ActionKind
from controller.episodes import AttemptColumns, EpisodeConfig, Episodes
from controller.errors import ConfigError
from envs.random import Streams
from envs.table import TraceTable

_REVISE = list(ActionKind).index(ActionKind.REVISE)
_ESCALATE = list(ActionKind).index(ActionKind.ESCALATE)
_VERIFY = list(ActionKind).index(ActionKind.VERIFY)

Array = NDArray[Any]


class Replay:
    """Replays N episodes from a table of attempts; the state of the vector environment.

    Independent attempts of a question come in a fresh random order in each episode.

    Args:
        table: recorded attempts.
        config: the decision process.
        num_episodes: N.
        difficulty: (Q, R) log-odds per question and rung; None when unknown.
        permute: whether to shuffle independent attempts; if not, recorded order.
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
        self._unverified = np.zeros((num_episodes, config.max_attempts), np.int64)
        self._scoreable = ~np.isnan(table.verifier_score) & config.verifies  # (M,)
        self._order = np.zeros((num_episodes, *table.stream.shape[1:]), np.int64)  # (N, R, S)
        self._identity = np.broadcast_to(np.arange(table.stream.shape[2]), table.stream.shape[1:])

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
        waiting = episodes.unverified[rows]
        for place in range(int(waiting.max(initial=0))):
            scored = rows[waiting > place]
            attempt = self._unverified[scored, place]
            episodes.score(
                scored, table.answer[attempt], table.rung[attempt], table.verifier_score[attempt]
            )
        episodes.finish_verification(rows)

    def _attempt(self, rows: Array, kinds: Array, streams: Streams) -> None:
        episodes, table = self.episodes, self.table
        revised = kinds == _REVISE
        rung = np.where(kinds == _ESCALATE, episodes.next_rung[rows], 0)
        chosen = np.empty(len(rows), np.int64)
        fresh = ~revised
        if revised.any():
            chosen[revised] = episodes.take_child(rows[revised])
        chosen[fresh] = self._draw(rows[fresh], rung[fresh], streams)
        unknown = self.hide_logprobs[rows]
        scoreable = self._scoreable[chosen] & ~self.hide_verifier[rows]
        self._unverified[rows, episodes.unverified[rows]] = chosen
        episodes.record(
            rows,
            revised,
            AttemptColumns(
                rung=rung,
                answer=table.answer[chosen],
                prompt_tokens=table.attempt_prompt_tokens[chosen],
                completion_tokens=table.completion_tokens[chosen],
                mean_logprob=np.where(unknown, np.nan, table.mean_logprob[chosen]),
                min_logprob=np.where(unknown, np.nan, table.min_logprob[chosen]),
                scoreable=scoreable,
                first_child=table.first_child[chosen],
                num_children=table.num_children[chosen],
            ),
        )

    def _draw(self, rows: Array, rung: Array, streams: Streams) -> Array:
        """Next attempts of each stream, by one step of a Fisher-Yates shuffle."""
        question, used = self.question[rows], self.episodes.counts[rows, rung]
        picked = used
        if self.permute:
            left = self.table.stream_length[question, rung] - used
            picked = used + (streams.uniform(rows) * left).astype(np.int64)
            slot = self._order[rows, rung, picked]
            self._order[rows, rung, picked] = self._order[rows, rung, used]
            return self.table.stream[question, rung, slot]
        return self.table.stream[question, rung, picked]

    def right(self) -> NDArray[np.bool_]:
        """Whether each episode's leading answer is right, (N,)."""
        leader = self.episodes.leader
        known = self.table.answer_correct[self.question, np.maximum(leader, 0)]
        return np.asarray(known & (leader >= 0))
