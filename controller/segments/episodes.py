"""State of many attempts under way at once, as a structure of arrays.

As in `controller.process.episodes`, the scalar environment, the vector environment and the deployed
controller all keep their state here, so that they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from controller.errors import ConfigError
from controller.process.actions import SEGMENT_ACTIONS, ActionSet
from controller.process.cost import CostModel
from controller.process.episodes import LEAST_LOGPROB, NO_ANSWER, Bools, Floats, Ints, Rows
from controller.segments.types import Segmentation

STOP, SAMPLE, REVISE, ESCALATE, TO_END = range(len(SEGMENT_ACTIONS))

_WRITTEN, _SEGMENTS, _REDONE, _LOGPROB, _COUNTED, _LEAST, _VALUE, _PROBE, _STREAK = range(9)
_START = np.array([0, 0, 0, 0, 0, 0, np.nan, NO_ANSWER, 0], np.float64)


def _now(place: int) -> Any:
    """A column of `SegmentEpisodes.now`, (N,)."""
    return property(lambda episodes: episodes.now[:, place])


_POSITIVE = (
    "max_tokens",
    "max_segment_tokens",
    "max_forced_tokens",
    "mean_segment_tokens",
    "mean_forced_tokens",
    "mean_rest_tokens",
    "cost_unit",
)


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """The decision process inside one attempt.

    Attributes:
        cost: ledger; one weight per rung, of which the last writes what is escalated.
        draws: how often a segment may be written, by the number of places before it that were
            redone already; its length less one is how many places may be redone.
        max_tokens: longest attempt.
        max_segment_tokens: longest segment.
        max_forced_tokens: longest forced answer, its phrase included.
        mean_segment_tokens: expected length of a segment, for the expected cost of an action.
        mean_forced_tokens: of a forced answer.
        mean_rest_tokens: of what the large model writes to the end.
        cost_unit: cost of one typical attempt by the small model; makes prices comparable
            across models.
        lines: whether segments end at line breaks.
        escalates: whether the large model may take over.
        probes: whether an answer is forced after each segment, paid for and seen; STOP then
            returns it.
    """

    cost: CostModel
    draws: tuple[int, ...]
    max_tokens: int
    max_segment_tokens: int
    max_forced_tokens: int
    mean_segment_tokens: float
    mean_forced_tokens: float
    mean_rest_tokens: float
    cost_unit: float
    lines: bool = True
    escalates: bool = True
    probes: bool = False

    def __post_init__(self) -> None:
        if not self.draws or min(self.draws) < 1:
            raise ConfigError(f"draws: expected positive numbers, found {self.draws}")
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"{name}: expected a positive number, found {getattr(self, name)}"
                )
        if self.escalates and len(self.cost.weights) < 2:
            raise ConfigError("escalates: expected a large model's weight in `cost`, found none")

    @property
    def actions(self) -> ActionSet:
        """Actions of a policy, in the order of its outputs."""
        return SEGMENT_ACTIONS

    @property
    def num_rungs(self) -> int:
        """R, models."""
        return len(self.cost.weights)

    @property
    def segmentation(self) -> Segmentation:
        """Where segments end."""
        return Segmentation(lines=self.lines, max_tokens=self.max_segment_tokens)


@dataclass(frozen=True, kw_only=True)
class SegmentColumns:
    """Segments of several episodes, one each, as columns of length n.

    Attributes:
        num_tokens: tokens written.
        small_tokens: the same text in tokens of the small model.
        mean_logprob: nats; NaN when unknown.
        min_logprob: nats; NaN when unknown.
        entropy: of what the small model expects next, nats; NaN when unknown or done.
        value: log-odds that the small model ends right from here; NaN when unknown.
        done: whether the attempt has ended.
        repeats: earlier draws of this segment that said the same.
        answer: id of the attempt's if it has, else of one forced after the segment; -1 if none
            could be read, or none was forced.
        forced_tokens: what forcing it takes, the phrase included; 0 once done.
    """

    num_tokens: Ints
    small_tokens: Ints
    mean_logprob: Floats
    min_logprob: Floats
    entropy: Floats
    value: Floats
    done: Bools
    repeats: Ints
    answer: Ints
    forced_tokens: Ints


class SegmentEpisodes:
    """N attempts in lockstep.

    Args:
        config: the decision process.
        num_episodes: N.

    Attributes (arrays over N unless a shape is given):
        price: accuracy per unit cost.
        budget: hard cap on cost; inf when there is none.
        spent: cost so far; reading the prompt is paid for at the start.
        tokens: tokens processed so far, all models.
        rounds: generations so far, one after the other.
        now, before: of the whole prefix and of the prefix without its last segment, (N, 9):
            tokens, segments, places redone, sum and count of log-probabilities, the least of
            them, value, last answer forced, how often it has stayed the same.
        draw: how often the last segment had been written before.
        answer: of the attempt once it is done or an answer has been forced; -1 before.
        done: whether the attempt has ended.
        escalated: whether the large model has taken over.
    """

    def __init__(self, config: SegmentConfig, num_episodes: int) -> None:
        self.config, self.num_episodes = config, num_episodes
        n = num_episodes
        self._draws = np.array([*config.draws, 0])
        self.price, self.round_price = np.zeros(n), np.zeros(n)
        self.budget = np.full(n, np.inf)
        self.spent, self.tokens = np.zeros(n), np.zeros(n)
        self.prompt_tokens = np.zeros((n, len(config.cost.weights)), np.int64)
        self.difficulty = np.full((n, len(config.cost.weights)), np.nan)
        self.now, self.before = np.tile(_START, (n, 1)), np.tile(_START, (n, 1))
        self.answer = np.full(n, NO_ANSWER)
        self._counts, self._flags = np.zeros((6, n), np.int64), np.zeros((3, n), bool)
        self._signals = np.full((3, n), np.nan)
        self.rounds, self.draw, self.repeats, *others = self._counts
        self.last_tokens, self.samples, self.revisions = others
        self.done, self.escalated, self.forced = self._flags
        self.last_logprob, self.last_min_logprob, self.entropy = self._signals

    def reset(
        self,
        rows: Ints,
        *,
        price: Floats,
        budget: Floats,
        prompt_tokens: Ints,
        difficulty: Floats,
        value: Floats,
    ) -> None:
        """Begin new attempts in `rows`, (n,), and read their prompts.

        Args:
            rows: which episodes.
            price: (n,) accuracy per unit cost.
            budget: (n,) hard cap on cost; inf for none.
            prompt_tokens: (n, R).
            difficulty: (n, R) log-odds that a rung's attempt is right; NaN if unknown.
            value: (n,) of the prompt; NaN if unknown.
        """
        self._counts[:, rows], self._flags[:, rows] = 0, False
        self._signals[:, rows] = np.nan
        self.now[rows], self.before[rows] = _START, _START
        self.now[rows, _VALUE] = value
        self.answer[rows] = NO_ANSWER
        self.price[rows], self.budget[rows] = price, budget
        self.prompt_tokens[rows], self.difficulty[rows] = prompt_tokens, difficulty
        self.tokens[rows] = prompt_tokens[:, 0]
        self.spent[rows] = self.config.cost.weights[0] * prompt_tokens[:, 0]

    @property
    def fresh(self) -> Bools:
        """Whether nothing has been written or dropped yet, (N,)."""
        return np.asarray(self.rounds == 0)

    written = _now(_WRITTEN)
    segments = _now(_SEGMENTS)
    redone = _now(_REDONE)
    least_logprob = _now(_LEAST)
    value = _now(_VALUE)
    probe = _now(_PROBE)
    streak = _now(_STREAK)

    @property
    def logprob(self) -> Floats:
        """Mean log-probability of the prefix, 0 if unknown, (N,)."""
        return self.now[:, _LOGPROB] / np.maximum(self.now[:, _COUNTED], 1)

    @property
    def value_before(self) -> Floats:
        """Value of the prefix without its last segment, NaN if unknown, (N,)."""
        return self.before[:, _VALUE]

    def next_draw(self, rows: Ints, actions: Ints) -> Ints:
        """How often the segment that an action asks for was written before, (n,)."""
        return np.where(actions == REVISE, self.draw[rows] + 1, 0)

    def record(self, rows: Ints, actions: Ints, segments: SegmentColumns) -> None:
        """Add the segment that an action has brought to each of `rows`, (n,)."""
        redo, large = actions == REVISE, actions >= ESCALATE
        self._charge(rows, actions, segments)
        self.draw[rows] = self.next_draw(rows, actions)
        base = np.where(redo[:, None], self.before[rows], self.now[rows])  # (n, 9)
        self.before[rows] = base
        known = ~np.isnan(segments.mean_logprob)
        mean = np.maximum(np.where(known, segments.mean_logprob, 0.0), LEAST_LOGPROB)
        least = np.maximum(np.where(known, segments.min_logprob, 0.0), LEAST_LOGPROB)
        answer = segments.answer
        probe = np.where(segments.done | (not self.config.probes), NO_ANSWER, answer)
        agrees = (probe == base[:, _PROBE]) & (probe >= 0)
        self.now[rows] = np.column_stack(
            (
                base[:, _WRITTEN] + segments.num_tokens,
                base[:, _SEGMENTS] + 1,
                base[:, _REDONE] + redo,
                base[:, _LOGPROB] + mean * segments.num_tokens,
                base[:, _COUNTED] + known * segments.num_tokens,
                np.minimum(base[:, _LEAST], least),
                segments.value,
                probe,
                np.where(agrees, base[:, _STREAK] + 1, probe >= 0),
            )
        )
        self.last_logprob[rows] = np.where(known, mean, np.nan)
        self.last_min_logprob[rows] = np.where(known, least, np.nan)
        self.last_tokens[rows], self.entropy[rows] = segments.num_tokens, segments.entropy
        self.repeats[rows], self.done[rows] = segments.repeats, segments.done
        self.answer[rows] = np.where(segments.done, answer, probe)
        self.escalated[rows] |= large
        self.rounds[rows] += 1
        self.samples[rows] += ~large
        self.revisions[rows] += redo

    def _charge(self, rows: Ints, actions: Ints, segments: SegmentColumns) -> None:
        small, large = self.config.cost.weights[0], self.config.cost.weights[-1]
        escalated = actions >= ESCALATE
        taken_over = self.prompt_tokens[rows, -1] + self.written[rows]
        by_large = escalated * (taken_over + segments.num_tokens)
        handed = escalated & ~segments.done
        by_small = ~escalated * segments.num_tokens + handed * segments.small_tokens
        if self.config.probes:
            by_small = by_small + segments.forced_tokens
        self.tokens[rows] += by_large + by_small
        self.spent[rows] += large * by_large + small * by_small

    def force(self, rows: Ints, answer: Ints, tokens: Ints) -> None:
        """Take note of answers that were forced at the end.

        Args:
            rows: episodes, (n,).
            answer: their ids, (n,); -1 if none could be read.
            tokens: phrases and answers, (n,).
        """
        self.answer[rows], self.forced[rows] = answer, True
        self.tokens[rows] += tokens
        self.spent[rows] += self.config.cost.weights[0] * tokens
        self.rounds[rows] += 1

    def unanswered(self, rows: Ints) -> Ints:
        """Those of `rows` whose answer is still to be forced when they stop."""
        if self.config.probes:
            return rows[:0]
        return rows[~self.done[rows] & ~self.fresh[rows]]

    def expected_cost(self, rows: Rows = slice(None)) -> tuple[Floats, Floats, Floats, Floats]:
        """Expected cost of SAMPLE, of forcing an answer, of ESCALATE and of it to the end."""
        c = self.config
        small, large = c.cost.weights[0], c.cost.weights[-1]
        taken_over = self.prompt_tokens[rows, -1] + self.written[rows]
        ones = np.ones(len(taken_over))
        return (
            small * c.mean_segment_tokens * ones,
            small * c.mean_forced_tokens * ones,
            large * (taken_over + c.mean_segment_tokens) + small * c.mean_segment_tokens,
            large * (taken_over + c.mean_rest_tokens),
        )

    def mask(self, rows: Rows = slice(None)) -> Bools:
        """Allowed actions, (n, 5), in `rows` or everywhere; STOP always is.

        The large model takes over once at most, and only where nothing was redone; after that
        nothing is redone any more. Traces record these continuations and no others.
        """
        c, done = self.config, self.done[rows]
        unspent = self.budget[rows] - self.spent[rows]
        taken_over = self.prompt_tokens[rows, -1] + self.written[rows]
        small, large = c.cost.weights[0], c.cost.weights[-1]
        forced = small * c.max_forced_tokens
        segment = small * c.max_segment_tokens + forced
        over = large * (taken_over + c.max_segment_tokens) + segment
        to_end = large * (taken_over + c.max_tokens)
        open_ = ~done & (self.written[rows] < c.max_tokens)
        begun = self.segments[rows] > 0
        untouched = open_ & ~self.escalated[rows] & (self.redone[rows] == 0) & c.escalates
        places = self.before[rows, _REDONE].astype(np.int64)
        again = begun & ~self.escalated[rows] & (self.draw[rows] + 1 < self._draws[places])
        return np.column_stack(
            (
                np.ones(len(done), bool),
                open_ & (segment <= unspent),
                again & (segment <= unspent),
                untouched & (over <= unspent),
                untouched & (to_end <= unspent),
            )
        )
