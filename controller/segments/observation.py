"""What a policy sees after a segment: a flat vector, whose features are a table.

Nothing here is computed from a reference. Unknown signals read 0 and their `*_known` flag
reads 0 too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controller.process.episodes import Rows
from controller.process.features import (
    BUDGET_KNOWN,
    COUNTS,
    DIFFICULTY_KNOWN,
    FLAG,
    KNOWN,
    LARGE_DIFFICULTY,
    LENGTHS,
    LOG_BUDGET_LEFT,
    LOG_PRICE,
    LOGPROBS,
    PER_UNIT,
    PLAIN,
    QUOTIENT,
    SMALL_DIFFICULTY,
    Feature,
    FeatureTable,
    cost_feature,
    counted,
    is_known,
)
from controller.segments.episodes import SegmentEpisodes

_COUNT = counted(1 / 4, "1/4 each")
_VALUE, _ANSWER = "value of the prefix", "forced answers"


class SegmentSeen:
    """What several features are computed from, of n episodes, (n,) each.

    Args:
        episodes: state of N episodes, whose names these are.
        rows: which of them.
    """

    def __init__(self, episodes: SegmentEpisodes, rows: Rows) -> None:
        e = episodes
        self.e, self.rows, self.unit = e, rows, e.config.cost_unit
        self.price, self.difficulty, budget = e.price[rows], e.difficulty[rows], e.budget[rows]
        self.bounded = np.isfinite(budget)
        self.left = np.where(self.bounded, budget - e.spent[rows], 0.0) / self.unit
        self.costs = self.price * np.maximum(e.expected_cost(rows), 1.0)
        self.last_logprob, self.value, self.draw = e.last_logprob[rows], e.value[rows], e.draw[rows]


SEGMENT_FEATURES = FeatureTable[SegmentSeen](
    1,
    LOG_PRICE,
    BUDGET_KNOWN,
    LOG_BUDGET_LEFT,
    Feature(
        name="segments",
        group=COUNTS,
        unit="segments",
        scale=_COUNT,
        meaning="segments of the attempt so far",
        column=lambda s: s.e.segments[s.rows],
    ),
    Feature(
        name="length",
        group=LENGTHS,
        unit="tokens",
        scale=PER_UNIT,
        meaning="written so far",
        column=lambda s: s.e.written[s.rows] / s.unit,
    ),
    Feature(
        name="done",
        group=COUNTS,
        unit="",
        scale=FLAG,
        meaning="whether the attempt has ended",
        column=lambda s: s.e.done[s.rows],
    ),
    Feature(
        name="redone",
        group=COUNTS,
        unit="places",
        scale=PLAIN,
        meaning="segments that were dropped and written again",
        column=lambda s: s.e.redone[s.rows],
    ),
    Feature(
        name="draw",
        group=COUNTS,
        unit="draws",
        scale=_COUNT,
        meaning="how often the last segment had been written before",
        column=lambda s: s.draw,
    ),
    Feature(
        name="repeats",
        group=COUNTS,
        unit="share of draws",
        scale=QUOTIENT,
        meaning="those of them that said the same",
        column=lambda s: (s.e.repeats[s.rows], s.draw),
    ),
    Feature(
        name="escalated",
        group=COUNTS,
        unit="",
        scale=FLAG,
        meaning="whether the large model has taken over",
        column=lambda s: s.e.escalated[s.rows],
    ),
    Feature(
        name="logprob_known",
        group=LOGPROBS,
        unit="",
        scale=FLAG,
        meaning="whether log-probabilities of the last segment are known",
        column=lambda s: is_known(s.last_logprob),
    ),
    Feature(
        name="last_mean_logprob",
        group=LOGPROBS,
        unit="nats",
        scale=KNOWN,
        meaning="mean log-probability of the last segment's tokens",
        column=lambda s: s.last_logprob,
    ),
    Feature(
        name="last_min_logprob",
        group=LOGPROBS,
        unit="nats",
        scale=KNOWN,
        meaning="the least of them",
        column=lambda s: s.e.last_min_logprob[s.rows],
    ),
    Feature(
        name="last_length",
        group=LENGTHS,
        unit="typical segments",
        scale=_COUNT,
        meaning="length of the last segment",
        column=lambda s: s.e.last_tokens[s.rows] / s.e.config.mean_segment_tokens,
    ),
    Feature(
        name="mean_logprob",
        group=LOGPROBS,
        unit="nats",
        scale=PLAIN,
        meaning="mean log-probability of all tokens so far",
        column=lambda s: s.e.logprob[s.rows],
    ),
    Feature(
        name="min_logprob",
        group=LOGPROBS,
        unit="nats",
        scale=PLAIN,
        meaning="the least of them",
        column=lambda s: s.e.least_logprob[s.rows],
    ),
    Feature(
        name="next_entropy",
        group=LOGPROBS,
        unit="nats",
        scale=KNOWN,
        meaning="entropy of the token that the small model expects next",
        column=lambda s: s.e.entropy[s.rows],
    ),
    Feature(
        name="value_known",
        group=_VALUE,
        unit="",
        scale=FLAG,
        meaning="whether the small model's state was read for how it will end",
        column=lambda s: is_known(s.value),
    ),
    Feature(
        name="value",
        group=_VALUE,
        unit="log-odds",
        scale=KNOWN,
        meaning="that the small model ends right from here",
        column=lambda s: s.value,
    ),
    Feature(
        name="value_change",
        group=_VALUE,
        unit="log-odds",
        scale=KNOWN,
        meaning="how the last segment changed it",
        column=lambda s: s.value - s.e.value_before[s.rows],
    ),
    Feature(
        name="answer_known",
        group=_ANSWER,
        unit="",
        scale=FLAG,
        meaning="whether an answer that was forced after the last segment could be read",
        column=lambda s: (s.e.probe[s.rows] >= 0) & s.e.config.probes,
    ),
    Feature(
        name="answer_streak",
        group=_ANSWER,
        unit="answers",
        scale=_COUNT,
        meaning="forced answers that have been the same, one after the other",
        column=lambda s: s.e.streak[s.rows] * s.e.config.probes,
    ),
    Feature(
        name="prompt_length",
        group=LENGTHS,
        unit="tokens",
        scale=PER_UNIT,
        meaning="length of the small model's prompt",
        column=lambda s: s.e.prompt_tokens[s.rows, 0] / s.unit,
    ),
    cost_feature("sample_price", "a segment by the small model", lambda s: s.costs[0]),
    cost_feature("force_price", "forcing an answer", lambda s: s.costs[1]),
    cost_feature("escalate_price", "a segment by the large model", lambda s: s.costs[2]),
    cost_feature("escalate_to_end_price", "the rest by the large model", lambda s: s.costs[3]),
    DIFFICULTY_KNOWN,
    SMALL_DIFFICULTY,
    LARGE_DIFFICULTY,
)
SEGMENT_OBSERVATION_NAMES = SEGMENT_FEATURES.names
NUM_SEGMENT_FEATURES = len(SEGMENT_FEATURES)


def observe_segments(
    episodes: SegmentEpisodes, rows: Rows = slice(None), out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Observations of N episodes; see `controller.process.observation.observe`."""
    seen = SegmentSeen(episodes, rows)
    return SEGMENT_FEATURES.observe(seen, len(seen.price), rows, out)
