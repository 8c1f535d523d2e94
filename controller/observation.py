"""What a policy sees: a flat vector with a versioned list of names.

Nothing here is computed from a reference. Unknown signals read 0 and their
`*_known` flag reads 0 too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from controller.episodes import Episodes, Floats, Rows

OBSERVATION_VERSION = 2

OBSERVATION_NAMES: tuple[str, ...] = (
    "log_price",
    "rounds_priced",
    "log_round_price",
    "budget_known",
    "log_budget_left",
    "step",
    "samples",
    "revisions",
    "escalations",
    "rung",
    "answered",
    "vote_share",
    "vote_margin",
    "vote_entropy",
    "distinct_answers",
    "leader_stays",
    "leader_votes",
    "rival_votes",
    "leader_small_share",
    "leader_large_backed",
    "last_agrees",
    "unanswered_share",
    "logprob_known",
    "last_mean_logprob",
    "last_min_logprob",
    "leader_mean_logprob",
    "mean_logprob",
    "verifier_known",
    "leader_verifier",
    "mean_verifier",
    "unverified",
    "small_length",
    "prompt_length",
    "sample_price",
    "revise_price",
    "escalate_price",
    "verify_price",
    "difficulty_known",
    "small_difficulty",
    "large_difficulty",
)
"""Entry i of an observation is the feature named i."""

NUM_FEATURES = len(OBSERVATION_NAMES)

_BETA_SIZE = 128
_COUNT_SCALE = 1 / 8
_PER_DECADE = np.float32(1 / np.log(10))
_LEAST_ROUND_PRICE = 1e-4


@cache
def _leader_stays_table() -> NDArray[np.float64]:
    """P(X > 1/2) for X ~ Beta(leader + 1, rival + 1), by [leader, rival].

    Source: Aggarwal et al. 2023, "Let's Sample Step by Step" (arXiv 2305.11860), eq. 2.
    """
    votes = np.arange(_BETA_SIZE)
    return np.asarray(1 - betainc(votes[:, None] + 1, votes[None, :] + 1, 0.5))


def leader_stays(top: Floats, second: Floats) -> Floats:
    """Posterior that the leading answer stays ahead of its closest rival.

    Args:
        top: votes of the leader; rounded to whole ones.
        second: votes of its closest rival, same shape.

    Source: as in adaptive consistency, arXiv 2305.11860.
    """
    last = _BETA_SIZE - 1
    rows = np.minimum(np.rint(top), last).astype(np.int64)
    columns = np.minimum(np.rint(second), last).astype(np.int64)
    return _leader_stays_table()[rows, columns]


def log10(values: Floats) -> NDArray[np.float32]:
    """Through float32, whose logarithm NumPy computes several numbers at a time."""
    return np.log(values.astype(np.float32)) * _PER_DECADE


def observe(
    episodes: Episodes, rows: Rows = slice(None), out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Observations in the order of OBSERVATION_NAMES.

    Args:
        episodes: state of N episodes.
        rows: which of them; all when left out.
        out: (N, D) observations of all episodes, in which those of `rows` are replaced.

    Returns:
        `out`, or without it the observations of `rows` alone, (n, D) float32.
    """
    e, config = episodes, episodes.config
    total_votes, small_votes = e.total[rows], e.small_total[rows]
    leader = np.maximum(e.leader[rows], 0)
    at_leader = e.recall(np.arange(e.num_episodes)[rows], leader)  # (n, 8)
    _, small_backing, large_backing, _, logprob, logprobs, score, num_scores = at_leader.T
    top, second = e.top[rows], e.second[rows]
    total, attempts = np.maximum(total_votes, 1), np.maximum(e.num_attempts[rows], 1)
    samples, revisions = e.counts[rows, 0], e.revisions[rows]
    price, budget, round_price = e.price[rows], e.budget[rows], e.round_price[rows]
    sample, revise, climb, verify = (
        log10(price * np.maximum(cost, 1.0)) for cost in e.expected_cost(rows)
    )
    bounded = np.isfinite(budget)
    left = np.where(bounded, budget - e.spent[rows], 0.0) / config.cost_unit
    entropy = np.log(total) - e.count_log_count[rows] / total
    last_logprob, last_min_logprob = e.last_logprob[rows], e.last_min_logprob[rows]
    difficulty, scores = e.difficulty[rows], e.scores[rows]
    logprob_known = ~np.isnan(last_logprob)
    difficulty_known = ~np.isnan(difficulty[:, 0])
    columns = (
        log10(price * config.cost_unit),
        round_price > 0,
        log10(np.maximum(round_price, _LEAST_ROUND_PRICE)),
        bounded,
        np.log1p(np.maximum(left, 0.0)),
        e.rounds[rows] * _COUNT_SCALE,
        samples * _COUNT_SCALE,
        revisions * _COUNT_SCALE,
        (e.num_attempts[rows] - samples - revisions) * 0.5,
        e.rung[rows],
        total_votes > 0,
        top / total,
        (top - second) / total,
        np.where(total_votes > 0, entropy, 0.0),
        e.distinct[rows] * _COUNT_SCALE,
        leader_stays(top, second),
        top * _COUNT_SCALE,
        second * _COUNT_SCALE,
        small_backing / np.maximum(small_votes, 1),
        large_backing > 0,
        e.last_agrees[rows],
        e.unanswered[rows] / attempts,
        logprob_known,
        np.where(logprob_known, last_logprob, 0.0),
        np.where(np.isnan(last_min_logprob), 0.0, last_min_logprob),
        logprob / np.maximum(logprobs, 1),
        e.logprob_sum[rows] / np.maximum(e.logprobs[rows], 1),
        scores > 0,
        score / np.maximum(num_scores, 1),
        e.score_sum[rows] / np.maximum(scores, 1),
        e.unverified[rows] * _COUNT_SCALE,
        e.small_tokens[rows] / np.maximum(samples + revisions, 1) / config.cost_unit,
        e.prompt_tokens[rows, 0] / config.cost_unit,
        sample,
        revise,
        climb,
        verify,
        difficulty_known,
        np.where(difficulty_known, difficulty[:, 0], 0.0),
        np.where(difficulty_known, difficulty[:, -1], 0.0),
    )
    return assemble(columns, len(price), rows, out)


def assemble(
    columns: Sequence[NDArray[Any]], n: int, rows: Rows, out: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Observations from their features, (n,) each; `rows` and `out` as in `observe`."""
    if out is None:
        # Features lie side by side in memory: they are computed one after the other.
        out, rows = np.empty((len(columns), n), np.float32).T, slice(None)
    for feature, column in zip(out.T, columns, strict=True):
        feature[rows] = column
    return out
