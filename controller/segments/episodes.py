"""The decision process inside one attempt, the state of many attempts, and what a policy sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller.errors import ConfigError, check_range
from controller.process.actions import SEGMENT_ACTIONS, ActionSet, ActionSpec
from controller.process.cost import CostModel
from controller.process.episodes import LEAST_LOGPROB, NO_ANSWER
from controller.process.features import (
    BUDGET,
    COUNTS,
    DIFFICULTY,
    FLAG,
    KNOWN,
    LENGTHS,
    LOG_PRICE,
    LOGPROBS,
    PER_UNIT,
    PLAIN,
    QUOTIENT,
    Feature,
    FeatureTable,
    counted,
    expected_costs,
    is_known,
    last_logprobs,
)
from controller.process.lockstep import Bools, Floats, Ints, Lockstep
from controller.segments.types import Segmentation

STOP, SAMPLE, REVISE, ESCALATE, TO_END = range(len(SEGMENT_ACTIONS))

_WRITTEN, _SEGMENTS, _REDONE, _LOGPROB, _COUNTED, _LEAST, _VALUE, _PROBE, _STREAK = range(9)
_START = np.array([0, 0, 0, 0, 0, 0, np.nan, NO_ANSWER, 0], np.float64)


class Lengths(NamedTuple):
    """Tokens of a segment, a forced answer, the rest, and what must be left to force an answer."""

    segment: float
    forced: float
    rest: float
    reserve: float


def _sampling(e: Any, lengths: Lengths) -> Any:
    return np.full(e.num_episodes, lengths.segment + lengths.reserve)


def _open(e: Any) -> Any:
    return ~e.done & (e.written < e.config.max_tokens)


def _redoable(e: Any, width: int) -> Any:
    draws = np.array([*e.config.draws, 0])[e.before[:, _REDONE].astype(np.int64)]
    return (e.segments > 0) & ~e.escalated & (e.draw + 1 < draws)


def _untouched(e: Any, width: int) -> Any:
    return _open(e) & ~e.escalated & (e.redone == 0) & e.config.escalates


def _by_large(e: Any, tokens: float) -> Any:
    """Cost of so many tokens by the large model, which first reads what there is."""
    return e.config.cost.weights[-1] * (e.prompt_tokens[:, -1] + e.written + tokens)


STEPS = (
    ActionSpec(
        meaning="force the answer now; before the first segment, give up",
        legal=lambda e, width: e.at >= 0,
        cost=lambda e, lengths: np.full(e.num_episodes, lengths.forced),
        paid_for="forcing an answer",
    ),
    ActionSpec(
        meaning="the small model writes the next segment",
        legal=lambda e, width: _open(e),
        cost=_sampling,
        paid_for="a segment by the small model",
    ),
    ActionSpec(
        meaning="the small model drops the last segment and writes another in its place",
        legal=_redoable,
        cost=_sampling,
    ),
    ActionSpec(
        meaning="the large model writes the next segment",
        legal=_untouched,
        cost=lambda e, lengths: _by_large(e, lengths.segment) + _sampling(e, lengths),
        paid_for="a segment by the large model",
    ),
    ActionSpec(
        meaning="the large model writes all that is left",
        legal=_untouched,
        cost=lambda e, lengths: _by_large(e, lengths.rest),
        paid_for="the rest by the large model",
    ),
)
"""What is to be said of the actions, in order.

The large model takes over once at most, and only where nothing was redone; after that nothing is
redone any more. Traces record these continuations and no others.
"""

PRICED = {
    "sample": STEPS[SAMPLE],
    "force": STEPS[STOP],
    "escalate": STEPS[ESCALATE],
    "escalate_to_end": STEPS[TO_END],
}
"""Those whose expected cost a policy sees, by name."""


def _now(place: int) -> Any:
    """A column of `SegmentEpisodes.now`, (N,)."""
    return property(lambda episodes: episodes.now[:, place])


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """The decision process inside one attempt.

    Attributes:
        cost: ledger; one weight per rung, of which the last writes what is escalated.
        draws: how often a segment may be written, by the number of places before it that were
            redone already; its length less one is how many places may be redone.
        max_tokens: longest attempt.
        max_segment_tokens, max_forced_tokens: longest segment, and forced answer with its phrase.
        mean_segment_tokens, mean_forced_tokens, mean_rest_tokens: expected lengths of a segment,
            of a forced answer and of what the large model writes to the end.
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
    is_menu: ClassVar[bool] = False
    actions: ClassVar[ActionSet] = SEGMENT_ACTIONS
    choices: ClassVar[Sequence[tuple[ActionSpec, int]]] = [(spec, 1) for spec in STEPS]
    priced: ClassVar[Mapping[str, ActionSpec]] = PRICED

    def __post_init__(self) -> None:
        if not self.draws or min(self.draws) < 1:
            raise ConfigError(f"draws: expected positive numbers, found {self.draws}")
        lengths = (name for name in vars(self) if name.startswith(("max_", "mean_")))
        check_range(self, (*lengths, "cost_unit"), above=0)
        if self.escalates and len(self.cost.weights) < 2:
            raise ConfigError("escalates: expected a large model's weight in `cost`, found none")

    @cached_property
    def mean_lengths(self) -> Lengths:
        """Expected lengths."""
        means = self.mean_segment_tokens, self.mean_forced_tokens, self.mean_rest_tokens
        return Lengths(*means, reserve=0.0)

    @cached_property
    def worst_lengths(self) -> Lengths:
        """Longest lengths."""
        forced = self.max_forced_tokens
        return Lengths(self.max_segment_tokens, forced, self.max_tokens, reserve=forced)

    @property
    def num_rungs(self) -> int:
        """R, models."""
        return len(self.cost.weights)

    @property
    def segmentation(self) -> Segmentation:
        """Where segments end."""
        return Segmentation(lines=self.lines, max_tokens=self.max_segment_tokens)


SIGNALS = ("mean_logprob", "min_logprob", "entropy", "value")
SEGMENT = np.dtype(
    [
        *((name, np.int64) for name in ("num_tokens", "small_tokens", "forced_tokens")),
        *((name, np.int64) for name in ("answer", "repeats")),
        *((name, np.float64) for name in SIGNALS),
        ("done", np.bool_),
    ]
)
"""A segment that was written, and what follows from it.

- num_tokens, small_tokens: written; the same text in tokens of the small model;
- forced_tokens: what forcing an answer after it takes, the phrase included; 0 once done;
- answer: id of the attempt's if it is done, else of one forced after it; -1 for none;
- repeats: earlier draws of this segment that said the same;
- mean_logprob, min_logprob, entropy, value, done: see `Segment` and `Prefix`; NaN if unknown.
"""


class SegmentEpisodes(Lockstep):
    """N attempts in lockstep; rounds are generations, one after the other.

    Attributes (arrays over N unless a shape is given; see also `Lockstep`):
        now, before: of the whole prefix and of the prefix without its last segment, (N, 9):
            tokens, segments, places redone, sum and count of log-probabilities, the least of
            them, value, last answer forced, how often it has stayed the same.
        draw: how often the last segment had been written before.
        answer: of the attempt once it is done or an answer has been forced; -1 before.
        done: whether the attempt has ended.
        escalated: whether the large model has taken over.
    """

    config: SegmentConfig

    def __init__(self, config: SegmentConfig, num_episodes: int) -> None:
        super().__init__(config, num_episodes)
        n = num_episodes
        self.now, self.before = np.tile(_START, (n, 1)), np.tile(_START, (n, 1))
        self.answer = np.full(n, NO_ANSWER)
        self._counts, self._flags = np.zeros((5, n), np.int64), np.zeros((3, n), bool)
        self._signals = np.full((3, n), np.nan)
        self.draw, self.repeats, self.last_tokens, self.samples, self.revisions = self._counts
        self.done, self.escalated, self.forced = self._flags
        self.last_logprob, self.last_min_logprob, self.entropy = self._signals

    def reset(self, rows: Ints, *, prompt_tokens: Ints, value: Floats, **terms: Any) -> None:
        """Begin new attempts in `rows`, (n,), and read their prompts, of so many tokens, (n, R).

        `value`, (n,), is the prompt's, NaN if unknown; `terms` are for `begin`.
        """
        self.begin(rows, prompt_tokens=prompt_tokens, **terms)
        self._counts[:, rows], self._flags[:, rows] = 0, False
        self._signals[:, rows] = np.nan
        self.now[rows], self.before[rows] = _START, _START
        self.now[rows, _VALUE] = value
        self.answer[rows] = NO_ANSWER
        read = prompt_tokens[:, 0]
        self.charge(rows, self.config.cost.weights[0] * read, read)

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

    def next_draw(self, rows: Ints, actions: Ints) -> Ints:
        """How often the segment that an action asks for was written before, (n,)."""
        return np.where(actions == REVISE, self.draw[rows] + 1, 0)

    def record(self, rows: Ints, actions: Ints, segments: NDArray[np.void]) -> None:
        """Add the `SEGMENT` that an action has brought to each of `rows`, (n,)."""
        redo, large = actions == REVISE, actions >= ESCALATE
        self._charge(rows, actions, segments)
        self.draw[rows] = self.next_draw(rows, actions)
        base = np.where(redo[:, None], self.before[rows], self.now[rows])  # (n, 9)
        self.before[rows] = base
        known = ~np.isnan(segments["mean_logprob"])
        mean = np.maximum(np.where(known, segments["mean_logprob"], 0.0), LEAST_LOGPROB)
        least = np.maximum(np.where(known, segments["min_logprob"], 0.0), LEAST_LOGPROB)
        answer = segments["answer"]
        probe = np.where(segments["done"] | (not self.config.probes), NO_ANSWER, answer)
        agrees = (probe == base[:, _PROBE]) & (probe >= 0)
        self.now[rows] = np.column_stack(
            (
                base[:, _WRITTEN] + segments["num_tokens"],
                base[:, _SEGMENTS] + 1,
                base[:, _REDONE] + redo,
                base[:, _LOGPROB] + mean * segments["num_tokens"],
                base[:, _COUNTED] + known * segments["num_tokens"],
                np.minimum(base[:, _LEAST], least),
                segments["value"],
                probe,
                np.where(agrees, base[:, _STREAK] + 1, probe >= 0),
            )
        )
        self.last_logprob[rows] = np.where(known, mean, np.nan)
        self.last_min_logprob[rows] = np.where(known, least, np.nan)
        self.last_tokens[rows], self.entropy[rows] = segments["num_tokens"], segments["entropy"]
        self.repeats[rows], self.done[rows] = segments["repeats"], segments["done"]
        self.answer[rows] = np.where(segments["done"], answer, probe)
        self.escalated[rows] |= large
        self.rounds[rows] += 1
        self.samples[rows] += ~large
        self.revisions[rows] += redo

    def _charge(self, rows: Ints, actions: Ints, segments: NDArray[np.void]) -> None:
        escalated = actions >= ESCALATE
        taken_over = self.prompt_tokens[rows, -1] + self.written[rows]
        by_large = escalated * (taken_over + segments["num_tokens"])
        handed = escalated & ~segments["done"]
        by_small = ~escalated * segments["num_tokens"] + handed * segments["small_tokens"]
        if self.config.probes:
            by_small = by_small + segments["forced_tokens"]
        weights = self.config.cost.weights
        self.charge(rows, weights[-1] * by_large + weights[0] * by_small, by_large + by_small)

    def force(self, rows: Ints, answer: Ints, tokens: Ints) -> None:
        """Take note of answers by id, -1 for none, and their tokens, that stopping forced."""
        self.answer[rows], self.forced[rows] = answer, True
        self.charge(rows, self.config.cost.weights[0] * tokens, tokens)
        self.rounds[rows] += 1

    def unanswered(self, rows: Ints) -> Ints:
        """Those of `rows` whose answer is still to be forced when they stop."""
        if self.config.probes:
            return rows[:0]
        return rows[~self.done[rows] & ~self.fresh[rows]]


_COUNT = counted(1 / 4, "1/4 each")
_PREFIXES, _FORCED = "value of the prefix", "forced answers"

# fmt: off
SEGMENT_FEATURES = FeatureTable(
    1,
    LOG_PRICE,
    *BUDGET,
    Feature("segments", COUNTS, "segments", _COUNT, "segments",
            "segments of the attempt so far"),
    Feature("length", LENGTHS, "tokens", PER_UNIT, lambda s: s.e.written / s.unit,
            "written so far"),
    Feature("done", COUNTS, "", FLAG, "done",
            "whether the attempt has ended"),
    Feature("redone", COUNTS, "places", PLAIN, "redone",
            "segments that were dropped and written again"),
    Feature("draw", COUNTS, "draws", _COUNT, "draw",
            "how often the last segment had been written before"),
    Feature("repeats", COUNTS, "share of draws", QUOTIENT, ("repeats", "draw"),
            "those of them that said the same"),
    Feature("escalated", COUNTS, "", FLAG, "escalated",
            "whether the large model has taken over"),
    *last_logprobs("last segment"),
    Feature("last_length", LENGTHS, "typical segments", _COUNT,
            lambda s: s.e.last_tokens / s.e.config.mean_segment_tokens,
            "length of the last segment"),
    Feature("mean_logprob", LOGPROBS, "nats", PLAIN, "logprob",
            "mean log-probability of all tokens so far"),
    Feature("min_logprob", LOGPROBS, "nats", PLAIN, "least_logprob",
            "the least of them"),
    Feature("next_entropy", LOGPROBS, "nats", KNOWN, "entropy",
            "entropy of the token that the small model expects next"),
    Feature("value_known", _PREFIXES, "", FLAG, lambda s: is_known(s.e.value),
            "whether the small model's state was read for how it will end"),
    Feature("value", _PREFIXES, "log-odds", KNOWN, "value",
            "that the small model ends right from here"),
    Feature("value_change", _PREFIXES, "log-odds", KNOWN,
            lambda s: s.e.value - s.e.before[:, _VALUE],
            "how the last segment changed it"),
    Feature("answer_known", _FORCED, "", FLAG, lambda s: (s.e.probe >= 0) & s.e.config.probes,
            "whether an answer that was forced after the last segment could be read"),
    Feature("answer_streak", _FORCED, "answers", _COUNT, lambda s: s.e.streak * s.e.config.probes,
            "forced answers that have been the same, one after the other"),
    Feature("prompt_length", LENGTHS, "tokens", PER_UNIT,
            lambda s: s.e.prompt_tokens[:, 0] / s.unit,
            "length of the small model's prompt"),
    *expected_costs(PRICED),
    *DIFFICULTY,
)
"""What a policy sees after a segment; nothing of it is computed from a reference."""
# fmt: on
