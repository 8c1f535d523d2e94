"""Recorded attempts replayed in N episodes at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.errors import ConfigError
from controller.process.actions import ACTIONS
from controller.process.episodes import AttemptColumns, EpisodeConfig, Episodes
from controller.process.observation import NUM_FEATURES, observe
from envs.random import Streams
from envs.traces.table import (
    ANSWER,
    COMPLETION,
    CUT,
    FIRST_CHILD,
    MEAN_LOGPROB,
    MIN_LOGPROB,
    NUM_CHILDREN,
    PROMPT,
    VERIFIER,
    TraceTable,
)

_REVISES = np.array([spec.revises for spec in ACTIONS.values()])
_SCORES = np.array([spec.scores for spec in ACTIONS.values()])
_CLIMBS = {kind.place: spec.climbs for kind, spec in ACTIONS.items() if spec.climbs is not None}

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
        self._unverified = np.zeros((config.max_attempts, num_episodes), np.int64).T
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
        hide_prompt: Array | bool = False,
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
            prompt_counted=~np.broadcast_to(hide_prompt, question.shape),
        )

    def take(self, rows: Array, actions: Array, streams: Streams) -> None:
        """Carry out one action in each of `rows`, none of them STOP."""
        kinds, widths = self.episodes.kind(actions), self.episodes.width(actions)
        if self.config.verifies:
            verifying = _SCORES[kinds]
            self._verify(rows[verifying])
            rows, kinds, widths = rows[~verifying], kinds[~verifying], widths[~verifying]
        for attempt in range(int(widths.max(initial=0))):
            wide = widths > attempt
            self._attempt(rows[wide], kinds[wide], streams)
        self.episodes.finish_round(rows)

    def _verify(self, rows: Array) -> None:
        episodes, table = self.episodes, self.table
        waiting = episodes.unverified[rows]
        scored = np.repeat(rows, waiting)
        attempt = self._unverified[rows][np.arange(self._unverified.shape[1]) < waiting[:, None]]
        answer, rung = table.answer[attempt], table.rung[attempt]
        score = table.verifier_score[attempt].astype(np.float64)
        episodes.score(scored, answer.astype(np.int64), rung.astype(np.int64), score)
        episodes.finish_verification(rows)

    def _attempt(self, rows: Array, kinds: Array, streams: Streams) -> None:
        episodes = self.episodes
        revised, rung = _REVISES[kinds], np.zeros(len(rows), np.int64)
        for place, climbs in _CLIMBS.items():
            rung = np.where(kinds == place, climbs(episodes, rows), rung)
        chosen = np.empty(len(rows), np.int64)
        fresh = ~revised
        if revised.any():
            chosen[revised] = episodes.take_child(rows[revised])
        chosen[fresh] = self._draw(rows[fresh], rung[fresh], streams)
        counts = np.ascontiguousarray(self.table.counts.take(chosen, axis=0).T, np.int64)
        signals = self.table.signals.take(chosen, axis=0).T.astype(np.float64)
        hidden = self.hide_logprobs[rows] | (not self.config.reads_logprobs)
        signals[[MEAN_LOGPROB, MIN_LOGPROB]] = np.where(
            hidden, np.nan, (signals[MEAN_LOGPROB], signals[MIN_LOGPROB])
        )
        unscored = np.isnan(signals[VERIFIER]) | self.hide_verifier[rows]
        self.attempts[rows, episodes.num_attempts[rows]] = chosen
        self._unverified[rows, episodes.unverified[rows]] = chosen
        episodes.record(
            rows,
            revised,
            AttemptColumns(
                rung=rung,
                answer=counts[ANSWER],
                prompt_tokens=counts[PROMPT],
                completion_tokens=counts[COMPLETION],
                mean_logprob=signals[MEAN_LOGPROB],
                min_logprob=signals[MIN_LOGPROB],
                cut=(counts[CUT] > 0) & self.config.reads_cuts,
                scoreable=~unscored & self.config.verifies,
                first_child=counts[FIRST_CHILD],
                num_children=counts[NUM_CHILDREN],
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

    @property
    def num_features(self) -> int:
        """D."""
        return NUM_FEATURES

    @property
    def num_starts(self) -> int:
        """Questions of the table: an episode starts at any of them."""
        return len(self.table)

    @property
    def tally(self) -> dict[str, Array]:
        """Samples, revisions, escalations and verified attempts, (N,) each."""
        episodes = self.episodes
        return {
            "samples": episodes.counts[:, 0],
            "revisions": episodes.revisions,
            "escalations": episodes.counts[:, 1:].sum(1),
            "verified": episodes.scores,
        }

    def close(self, rows: Array) -> None:
        """End the episodes of `rows`; the leading answer stands."""

    def observe(
        self, rows: Array | slice = slice(None), out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Observations; see `controller.process.observation.observe`."""
        return observe(self.episodes, rows, out)

    def final(self) -> dict[str, Array]:
        """What to tell of an episode that has ended, (N,) each."""
        episodes = self.episodes
        return {
            "cost": episodes.spent.copy(),
            "price": episodes.price.copy(),
            "round_price": episodes.round_price.copy(),
            "budget": episodes.budget.copy(),
            "rounds": episodes.rounds.copy(),
            **{name: column.copy() for name, column in self.tally.items()},
        }
