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

OBSERVATION_VERSION = 3

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
    "prompt_known",
    "last_cut",
    "cut_share",
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
    places = np.minimum(np.rint(np.array([top, second])), last).astype(np.int64)
    return np.asarray(_leader_stays_table()[places[0], places[1]])


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
    at = e.positions(rows)
    total, top, second = e.total[rows], e.top[rows], e.second[rows]
    samples, revisions, attempts = e.counts[rows, 0], e.revisions[rows], e.num_attempts[rows]
    at_leader = e.recall(at, np.maximum(e.leader[rows], 0))  # (n, 8)
    _, small_backing, large_backing, _, logprob, logprobs, score, scores = at_leader.T
    price, budget, difficulty = e.price[rows], e.budget[rows], e.difficulty[rows]
    round_price, verified = e.round_price[rows], e.scores[rows]
    bounded = np.isfinite(budget)
    left = np.where(bounded, budget - e.spent[rows], 0.0) / config.cost_unit
    # At batch 1 a call takes longer than its arithmetic: what is alike is computed at once.
    step, sampled, revised, distinct, leader_votes, rival_votes, unverified = _COUNT_SCALE * (
        np.array(
            [
                e.rounds[rows],
                samples,
                revisions,
                e.distinct[rows],
                top,
                second,
                e.unverified[rows],
            ]
        )
    )
    share, margin, disorder, small, failed, cut, length, *means = _ratios(
        (top, total),
        (top - second, total),
        (e.count_log_count[rows], total),
        (small_backing, e.small_total[rows]),
        (e.unanswered[rows], attempts),
        (e.cuts[rows], attempts),
        (e.small_tokens[rows], samples + revisions),
        (logprob, logprobs),
        (e.logprob_sum[rows], e.logprobs[rows]),
        (score, scores),
        (e.score_sum[rows], verified),
    )
    leader_logprob, mean_logprob, leader_score, mean_score = means
    signals = np.array(
        [e.last_logprob[rows], e.last_min_logprob[rows], difficulty[:, 0], difficulty[:, -1]]
    )
    known = ~np.isnan(signals)
    last_logprob, last_min_logprob, small_difficulty, large_difficulty = np.where(
        known, signals, 0.0
    )
    costs = price * np.maximum(e.expected_cost(rows), 1.0)
    least_round = np.maximum(round_price, _LEAST_ROUND_PRICE)
    counted = e.prompt_counted[rows]
    *priced, log_price, log_round_price = log10(
        np.array([*costs, price * config.cost_unit, least_round])
    )
    columns = (
        log_price,
        round_price > 0,
        log_round_price,
        bounded,
        np.log1p(np.maximum(left, 0.0)),
        step,
        sampled,
        revised,
        (attempts - samples - revisions) * 0.5,
        e.rung[rows],
        total > 0,
        share,
        margin,
        np.log(np.maximum(total, 1)) - disorder,
        distinct,
        leader_stays(top, second),
        leader_votes,
        rival_votes,
        small,
        large_backing > 0,
        e.last_agrees[rows],
        failed,
        known[0],
        last_logprob,
        last_min_logprob,
        leader_logprob,
        mean_logprob,
        verified > 0,
        leader_score,
        mean_score,
        unverified,
        length / config.cost_unit,
        e.prompt_tokens[rows, 0] * counted / config.cost_unit,
        *priced,
        known[2],
        small_difficulty,
        large_difficulty,
        counted,
        e.last_cut[rows],
        cut,
    )
    return assemble(columns, len(price), rows, out)


def _ratios(*pairs: tuple[NDArray[Any], NDArray[Any]]) -> Floats:
    """Quotients of (sum, count), 0 where nothing was counted, a row each."""
    sums, counts = zip(*pairs, strict=True)
    return np.asarray(np.array(sums) / np.maximum(np.array(counts), 1))


def assemble(
    columns: Sequence[NDArray[Any]], n: int, rows: Rows, out: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Observations from their features, (n,) each; `rows` and `out` as in `observe`."""
    if out is None:
        # Features lie side by side in memory: they are computed one after the other.
        return np.concatenate(columns, dtype=np.float32).reshape(len(columns), n).T
    for feature, column in zip(out.T, columns, strict=True):
        feature[rows] = column
    return out
