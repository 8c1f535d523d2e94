"""What a policy sees: a flat vector with a versioned list of names.

Nothing here is computed from a reference. Unknown signals read 0 and their
`*_known` flag reads 0 too.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from controller.episodes import Episodes, Floats

OBSERVATION_VERSION = 1

OBSERVATION_NAMES: tuple[str, ...] = (
    "log_price",
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
    "last_verifier",
    "leader_verifier",
    "mean_verifier",
    "small_length",
    "prompt_length",
    "sample_price",
    "revise_price",
    "escalate_price",
    "difficulty_known",
    "small_difficulty",
    "large_difficulty",
)
"""Entry i of an observation is the feature named i."""

NUM_FEATURES = len(OBSERVATION_NAMES)

_BETA_SIZE = 128
_COUNT_SCALE = 1 / 8


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
        top: votes of the leader.
        second: votes of its closest rival, same shape.

    Source: as in adaptive consistency, arXiv 2305.11860.
    """
    last = _BETA_SIZE - 1
    rows = np.minimum(top, last).astype(np.int64)
    columns = np.minimum(second, last).astype(np.int64)
    return _leader_stays_table()[rows, columns]


def observe(episodes: Episodes) -> NDArray[np.float32]:
    """Observations of all episodes, (N, D) float32, in the order of OBSERVATION_NAMES."""
    e, config = episodes, episodes.config
    observation = np.empty((e.num_episodes, NUM_FEATURES), np.float32)  # (N, D)
    rows = np.arange(e.num_episodes)
    leader = np.maximum(e.leader, 0)
    answered = e.total > 0
    total, small_total = np.maximum(e.total, 1), np.maximum(e.small_total, 1)
    attempts = np.maximum(e.num_attempts, 1)
    price = e.price * config.cost_unit
    sample, revise, climb = (
        np.log10(e.price * np.maximum(cost, 1.0)) for cost in e.expected_cost()
    )
    bounded = np.isfinite(e.budget)
    left = np.maximum(np.where(bounded, e.budget - e.spent, 0.0) / config.cost_unit, 0.0)
    logprob_known, score_known = ~np.isnan(e.last_logprob), ~np.isnan(e.last_score)
    difficulty_known = ~np.isnan(e.difficulty[:, 0])
    columns = (
        np.log10(price),
        bounded,
        np.log1p(left),
        e.rounds * _COUNT_SCALE,
        e.counts[:, 0] * _COUNT_SCALE,
        e.revisions * _COUNT_SCALE,
        (e.num_attempts - e.counts[:, 0] - e.revisions) * 0.5,
        e.rung,
        answered,
        e.top / total,
        (e.top - e.second) / total,
        np.where(answered, np.log(total) - e.count_log_count / total, 0.0),
        e.distinct * _COUNT_SCALE,
        leader_stays(e.top, e.second),
        e.top * _COUNT_SCALE,
        e.second * _COUNT_SCALE,
        e.small_votes[rows, leader] / small_total,
        e.large_backed[rows, leader],
        e.last_agrees,
        e.unanswered / attempts,
        logprob_known,
        np.where(logprob_known, e.last_logprob, 0.0),
        np.where(np.isnan(e.last_min_logprob), 0.0, e.last_min_logprob),
        e.answer_logprob[rows, leader] / np.maximum(e.answer_logprobs[rows, leader], 1),
        e.logprob_sum / np.maximum(e.logprobs, 1),
        score_known,
        np.where(score_known, e.last_score, 0.0),
        e.answer_score[rows, leader] / np.maximum(e.answer_scores[rows, leader], 1),
        e.score_sum / np.maximum(e.scores, 1),
        e.small_tokens / np.maximum(e.counts[:, 0] + e.revisions, 1) / config.cost_unit,
        e.prompt_tokens[:, 0] / config.cost_unit,
        sample,
        revise,
        climb,
        difficulty_known,
        np.where(difficulty_known, e.difficulty[:, 0], 0.0),
        np.where(difficulty_known, e.difficulty[:, -1], 0.0),
    )
    for i, column in enumerate(columns):
        observation[:, i] = column
    return observation
