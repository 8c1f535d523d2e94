"""What a policy sees after a segment: a flat vector with a versioned list of names.

Nothing here is computed from a reference. Unknown signals read 0 and their `*_known` flag
reads 0 too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controller.episodes import Floats, Rows
from controller.observation import assemble, log10
from controller.segments.episodes import SegmentEpisodes

SEGMENT_OBSERVATION_VERSION = 1

SEGMENT_OBSERVATION_NAMES: tuple[str, ...] = (
    "log_price",
    "budget_known",
    "log_budget_left",
    "segments",
    "length",
    "done",
    "redone",
    "draw",
    "repeats",
    "escalated",
    "logprob_known",
    "last_mean_logprob",
    "last_min_logprob",
    "last_length",
    "mean_logprob",
    "min_logprob",
    "next_entropy",
    "value_known",
    "value",
    "value_change",
    "answer_known",
    "answer_streak",
    "prompt_length",
    "sample_price",
    "force_price",
    "escalate_price",
    "escalate_to_end_price",
    "difficulty_known",
    "small_difficulty",
    "large_difficulty",
)
"""Entry i of an observation is the feature named i."""

NUM_SEGMENT_FEATURES = len(SEGMENT_OBSERVATION_NAMES)

_COUNT_SCALE = 1 / 4


def observe_segments(
    episodes: SegmentEpisodes, rows: Rows = slice(None), out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Observations in the order of SEGMENT_OBSERVATION_NAMES.

    Args:
        episodes: state of N episodes.
        rows: which of them; all when left out.
        out: (N, D) observations of all episodes, in which those of `rows` are replaced.

    Returns:
        `out`, or without it the observations of `rows` alone, (n, D) float32.
    """
    e, config = episodes, episodes.config
    price, budget = e.price[rows], e.budget[rows]
    costs = price * np.maximum(e.expected_cost(rows), 1.0)
    sample, force, climb, to_end, log_price = log10(np.array([*costs, price * config.cost_unit]))
    bounded = np.isfinite(budget)
    left = np.where(bounded, budget - e.spent[rows], 0.0) / config.cost_unit
    difficulty, value, before = e.difficulty[rows], e.value[rows], e.value_before[rows]
    columns = (
        log_price,
        bounded,
        np.log1p(np.maximum(left, 0.0)),
        e.segments[rows] * _COUNT_SCALE,
        e.written[rows] / config.cost_unit,
        e.done[rows],
        e.redone[rows],
        e.draw[rows] * _COUNT_SCALE,
        e.repeats[rows] / np.maximum(e.draw[rows], 1),
        e.escalated[rows],
        ~np.isnan(e.last_logprob[rows]),
        _known(e.last_logprob[rows]),
        _known(e.last_min_logprob[rows]),
        e.last_tokens[rows] / config.mean_segment_tokens * _COUNT_SCALE,
        e.logprob[rows],
        e.least_logprob[rows],
        _known(e.entropy[rows]),
        ~np.isnan(value),
        _known(value),
        _known(value - before),
        (e.probe[rows] >= 0) & config.probes,
        e.streak[rows] * _COUNT_SCALE * config.probes,
        e.prompt_tokens[rows, 0] / config.cost_unit,
        sample,
        force,
        climb,
        to_end,
        ~np.isnan(difficulty[:, 0]),
        _known(difficulty[:, 0]),
        _known(difficulty[:, -1]),
    )
    return assemble(columns, len(price), rows, out)


def _known(values: Floats) -> Floats:
    """The same with 0 in place of NaN."""
    return np.where(np.isnan(values), 0.0, values)
