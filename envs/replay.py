"""Recorded traces of either granularity replayed in N episodes at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import numpy as np

from controller.errors import ConfigError, TraceFormatError
from controller.granularity import Process, granularity_of
from controller.process.actions import SEGMENT_ACTIONS
from controller.process.episodes import AttemptColumns, EpisodeConfig, Episodes
from controller.process.features import FeatureTable
from controller.process.lockstep import Array, Bools, Lockstep, Rows, Singles
from controller.segments.episodes import ESCALATE, REVISE, SegmentConfig, SegmentEpisodes
from envs.draws import Hidden, Streams
from envs.segments import SegmentTable
from envs.traces.table import TraceTable

NOTHING = Hidden()
"""Is hidden."""

_RECORDED = ("answer", "prompt_tokens", "completion_tokens", "reasoning_tokens")


class Replay(ABC):
    """Recorded traces replayed in N episodes at a time; the state of the vector environment.

    Attributes:
        start: (N,) place that each episode started at: a question, or a recorded attempt at one.
        difficulty: (Q, R) log-odds per question and rung; NaN when unknown.
    """

    table: Any
    episodes: Any

    def __init__(
        self,
        table: Any,
        config: Process,
        num_episodes: int,
        *,
        difficulty: Array | None = None,
        permute: bool = True,
    ) -> None:
        n, shape = num_episodes, (table.num_questions, config.num_rungs)
        self.table, self.config, self.permute = table, config, permute
        self.episodes = self._prepared(n, difficulty is not None)
        self.difficulty = np.full(shape, np.nan) if difficulty is None else difficulty
        self.start = np.zeros(n, np.int64)
        self.hide_logprobs, self.hide_verifier = np.zeros(n, bool), np.zeros(n, bool)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the features, which hold functions that no pickle takes."""
        return {name: value for name, value in vars(self).items() if name != "_features"}

    @cached_property
    def _features(self) -> FeatureTable:
        return granularity_of(self.config).table

    @abstractmethod
    def _prepared(self, num_episodes: int, knows_difficulty: bool) -> Lockstep:
        """State of N episodes, after a check that the config goes with the table."""

    @property
    def num_features(self) -> int:
        """D."""
        return len(self._features)

    @property
    def num_starts(self) -> int:
        """Places that an episode can start at."""
        return len(self.table)

    @property
    @abstractmethod
    def tally(self) -> dict[str, Array]:
        """Steps of an episode by kind, (N,) each."""

    def begin(
        self,
        rows: Array,
        start: Array,
        price: Array | float,
        budget: Array | float = np.inf,
        *,
        round_price: Array | float = 0.0,
        hidden: Hidden = NOTHING,
    ) -> None:
        """Start episodes at places given by position, (n,)."""
        self.start[rows] = start
        self.hide_logprobs[rows], self.hide_verifier[rows] = hidden.logprobs, hidden.verifier
        unknown = np.broadcast_to(hidden.difficulty, start.shape)[:, None]
        difficulty = np.where(unknown, np.nan, self.difficulty[self.table.question_of(start)])
        terms = {"price": price, "round_price": round_price, "budget": budget}
        self._begin(rows, start, hidden, {**terms, "difficulty": difficulty})

    @abstractmethod
    def _begin(self, rows: Array, start: Array, hidden: Hidden, terms: dict[str, Any]) -> None:
        """Reset the episodes of `rows`; `terms` are for `Lockstep.begin`."""

    @abstractmethod
    def take(self, rows: Array, actions: Array, streams: Streams) -> None:
        """Carry out one action in each of `rows`, none of them STOP."""

    def close(self, rows: Array) -> None:
        """End the episodes of `rows`; what answers them stands."""
        return

    @abstractmethod
    def answered(self) -> Bools:
        """Whether each episode has an answer, (N,)."""

    @abstractmethod
    def right(self) -> Bools:
        """Whether the answer of each episode is right, (N,)."""

    def truth(self) -> Array:
        """What the critic of a training is told of references, and no policy, (N, K) numbers."""
        return np.zeros((len(self.start), 0))

    def observe(self, rows: Rows = None, out: Singles | None = None) -> Singles:
        """Observations; see `controller.process.features.FeatureTable.observe`."""
        return self._features.observe(self.episodes, rows, out)

    def final(self) -> dict[str, Array]:
        """What to tell of an episode that has ended, (N,) each."""
        e = self.episodes
        told = {"cost": e.spent, "price": e.price, "round_price": e.round_price}
        told |= {"budget": e.budget, "rounds": e.rounds, **self.tally}
        return {name: column.copy() for name, column in told.items()}


class AttemptReplay(Replay):
    """Replays N episodes from a table of attempts.

    Independent attempts of a question come in a fresh random order in each episode, or as recorded
    without `permute`.

    Attributes:
        attempts: (N, attempts) rows of the table that each episode has seen, in order; as
            many count as `episodes.num_attempts` says.
    """

    table: TraceTable
    config: EpisodeConfig
    episodes: Episodes

    def _prepared(self, num_episodes: int, knows_difficulty: bool) -> Episodes:
        table, config = self.table, self.config
        if table.stream.shape[1] != config.num_rungs:
            raise ConfigError(
                f"cost weights: expected one per rung of the traces ({table.stream.shape[1]}), "
                f"found {config.num_rungs}"
            )
        if config.reads_prompt and not knows_difficulty:
            raise ConfigError("reads_prompt: expected the difficulty of each question, found none")
        choices = config.choices
        self._widths = np.array([width for _, width in choices])
        self._scores, self._revises = np.array([(s.scores, s.revises) for s, _ in choices]).T
        self._rung = np.array([spec.rung for spec, _ in choices])
        revisers = config.revisers
        self._reviser = np.array(
            [revisers.index(s.rung) if s.revises else 0 for s, _ in choices], np.int64
        )
        # Arms that revised none of these attempts have no column of them.
        known = [table.revisers.index(r) if r in table.revisers else -1 for r in revisers]
        none = np.zeros((len(table.children), 1, 2), np.int32)
        self._children = np.concatenate([table.children, none], 1)[:, known]  # (M, V, 2)
        self._readings = table.read(config.readings)
        self.attempts = np.zeros((config.max_attempts, num_episodes), np.int64).T
        self._unverified = np.zeros((config.max_attempts, num_episodes), np.int64).T
        self._order = np.zeros((num_episodes, *table.stream.shape[1:]), np.int16)  # (N, R, S)
        self._identity = np.broadcast_to(
            np.arange(table.stream.shape[2], dtype=np.int16), table.stream.shape[1:]
        )
        return Episodes(config, num_episodes, table.num_answers)

    def _begin(self, rows: Array, start: Array, hidden: Hidden, terms: dict[str, Any]) -> None:
        self._order[rows] = self._identity
        self.episodes.reset(
            rows,
            prompt_tokens=self.table.prompt_tokens[start],
            limits=self.table.stream_length[start] * np.logical_not(hidden.arms),
            prompt_counted=np.logical_not(hidden.prompt),
            readings=self._readings[start] if self._readings.size else np.nan,
            **terms,
        )

    def take(self, rows: Array, actions: Array, streams: Streams) -> None:
        """Carry out one action in each of `rows`, none of them STOP."""
        if self.config.verifies:
            verifying = self._scores[actions]
            self._verify(rows[verifying])
            rows, actions = rows[~verifying], actions[~verifying]
        widths = self._widths[actions]
        for attempt in range(int(widths.max(initial=0))):
            wide = widths > attempt
            self._attempt(rows[wide], actions[wide], streams)
        self.episodes.finish_round(rows)

    def _verify(self, rows: Array) -> None:
        episodes = self.episodes
        waiting = episodes.unverified[rows]
        scored = np.repeat(rows, waiting)
        places = self._unverified[rows][np.arange(self._unverified.shape[1]) < waiting[:, None]]
        made = self.table.attempts[places]
        answer, rung = (made[name].astype(np.int64) for name in ("answer", "rung"))
        episodes.score(scored, answer, rung, made["verifier_score"].astype(np.float64))
        episodes.finish_verification(rows)

    def _attempt(self, rows: Array, actions: Array, streams: Streams) -> None:
        episodes = self.episodes
        revised, rung = self._revises[actions], self._rung[actions]
        chosen = np.empty(len(rows), np.int64)
        fresh = ~revised
        if revised.any():
            chosen[revised] = episodes.take_child(rows[revised], self._reviser[actions[revised]])
        chosen[fresh] = self._draw(rows[fresh], rung[fresh], streams)
        made = self.table.attempts.take(chosen)
        counts = {name: made[name].astype(np.int64) for name in _RECORDED}
        children = self._children.take(chosen, axis=0)  # (n, V, 2)
        hidden = self.hide_logprobs[rows] | (not self.config.reads_logprobs)
        unscored = np.isnan(made["verifier_score"]) | self.hide_verifier[rows]
        self.attempts[rows, episodes.num_attempts[rows]] = chosen
        self._unverified[rows, episodes.unverified[rows]] = chosen
        episodes.record(
            rows,
            revised,
            AttemptColumns(
                rung=rung,
                mean_logprob=np.where(hidden, np.nan, made["mean_logprob"]).astype(np.float64),
                min_logprob=np.where(hidden, np.nan, made["min_logprob"]).astype(np.float64),
                cut=made["cut"] & self.config.reads_cuts,
                scoreable=~unscored & episodes.has_verifier[rows],
                first_child=children[..., 0],
                num_children=children[..., 1],
                **counts,
            ),
        )

    def _draw(self, rows: Array, rung: Array, streams: Streams) -> Array:
        """Next attempts of each stream, by one step of a Fisher-Yates shuffle."""
        table, used = self.table, self.episodes.counts[rows, rung]
        _, rungs, longest = table.stream.shape
        stream = self.start[rows] * rungs + rung
        if not self.permute:
            return np.asarray(table.stream.ravel()[stream * longest + used])
        order, begin = self._order.ravel(), (rows * rungs + rung) * longest
        left = table.stream_length.ravel()[stream] - used
        picked = begin + used + (streams.uniform(rows) * left).astype(np.int64)
        slot = order[picked]
        order[picked] = order[begin + used]
        return np.asarray(table.stream.ravel()[stream * longest + slot])

    def answered(self) -> Bools:
        """Whether each episode has a leading answer, (N,)."""
        return np.asarray(self.episodes.leader >= 0)

    def right(self) -> Bools:
        """Whether the leading answer of each episode is right, (N,)."""
        leader = self.episodes.leader
        known = self.table.answer_correct[self.start, np.maximum(leader, 0)]
        return np.asarray(known & (leader >= 0))

    def truth(self) -> Array:
        """Success rates of the models, whether there is an answer and it is right, (N, R + 2)."""
        rates = self.table.success_rates[self.start]
        return np.column_stack([rates, self.episodes.total > 0, self.right()])

    @property
    def tally(self) -> dict[str, Array]:
        """Samples, revisions, escalations and verified attempts, (N,) each."""
        episodes, small = self.episodes, self.config.is_small
        return {
            "samples": episodes.counts[:, small].sum(1),
            "revisions": episodes.revisions,
            "escalations": episodes.counts[:, ~small].sum(1),
            "verified": episodes.scores,
        }


class SegmentReplay(Replay):
    """Replays N attempts from a table of trees; rounds have no price there.

    `permute` is of no consequence: each draw has its place in a tree.

    Attributes:
        node, before: (N,) node that each episode is at, and the one before it.
    """

    table: SegmentTable
    config: SegmentConfig
    episodes: SegmentEpisodes

    def _prepared(self, num_episodes: int, knows_difficulty: bool) -> SegmentEpisodes:
        recorded, wanted = self.table.draws.shape[1], self.config.draws
        if max(wanted) > recorded:
            raise ConfigError(
                f"draws: expected at most the {recorded} that were recorded, found {wanted}"
            )
        self.node, self.before = np.zeros((2, num_episodes), np.int64)
        return SegmentEpisodes(self.config, num_episodes)

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

    def _begin(self, rows: Array, start: Array, hidden: Hidden, terms: dict[str, Any]) -> None:
        self.node[rows] = root = self.table.root[start]
        self.episodes.reset(
            rows,
            prompt_tokens=self.table.prompt_tokens[start, : self.config.num_rungs],
            value=np.where(self.hide_verifier[rows], np.nan, self.table.segments["value"][root]),
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
        made = table.segments[node]
        made["repeats"] = np.where(actions < ESCALATE, table.repeats[before, draw], 0)
        for name in ("mean_logprob", "min_logprob", "entropy"):
            made[name][self.hide_logprobs[rows]] = np.nan
        made["value"][self.hide_verifier[rows]] = np.nan
        self.episodes.record(rows, actions, made)

    def close(self, rows: Array) -> None:
        """Force the answers of those of `rows` that have none."""
        rows = self.episodes.unanswered(rows)
        made = self.table.segments[self.node[rows]]
        self.episodes.force(rows, made["answer"], made["forced_tokens"])

    def answered(self) -> Bools:
        """Whether each episode has an answer, (N,)."""
        return np.asarray(self.episodes.answer >= 0)

    def right(self) -> Bools:
        """Whether the answer of each episode is right, (N,)."""
        return (self.episodes.answer >= 0) & self.table.right(self.start, self.node)
