"""What a policy sees of whole attempts: a flat vector, whose features are a table.

Nothing here is computed from a reference. Unknown signals read 0 and their
`*_known` flag reads 0 too.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from controller.process.actions import PRICED, ActionKind
from controller.process.episodes import (
    LARGE_VOTES,
    LOGPROB,
    LOGPROB_COUNT,
    SCORE,
    SCORES,
    SMALL_VOTES,
    Episodes,
    Floats,
    Rows,
)
from controller.process.features import (
    BUDGET_KNOWN,
    COUNTS,
    DIFFICULTY_KNOWN,
    FLAG,
    KNOWN,
    LARGE_DIFFICULTY,
    LENGTHS,
    LOG10,
    LOG_BUDGET_LEFT,
    LOG_PRICE,
    LOGPROBS,
    PER_UNIT,
    PLAIN,
    QUOTIENT,
    SMALL_DIFFICULTY,
    TERMS,
    Feature,
    FeatureTable,
    Scale,
    cost_feature,
    counted,
    is_known,
    quotient,
)

_BETA_SIZE = 128
_LEAST_ROUND_PRICE = 1e-4
_COUNT = counted(1 / 8, "1/8 each")
_VOTES, _SCORES = "votes", "verifier scores"


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


class Seen:
    """What several features are computed from, of n episodes, (n,) each.

    Args:
        episodes: state of N episodes, whose names these are.
        rows: which of them.
    """

    def __init__(self, episodes: Episodes, rows: Rows) -> None:
        e = episodes
        self.e, self.rows, self.unit = e, rows, e.config.cost_unit
        self.total, self.top, self.second = e.total[rows], e.top[rows], e.second[rows]
        self.samples, self.revisions = e.counts[rows, 0], e.revisions[rows]
        self.attempts, self.scores = e.num_attempts[rows], e.scores[rows]
        self.leader = e.recall(e.positions(rows), np.maximum(e.leader[rows], 0)).T  # (8, n)
        self.last_logprob = e.last_logprob[rows]
        self.price, self.round_price = e.price[rows], e.round_price[rows]
        self.difficulty, budget = e.difficulty[rows], e.budget[rows]
        self.bounded = np.isfinite(budget)
        self.left = np.where(self.bounded, budget - e.spent[rows], 0.0) / self.unit
        self.costs = self.price * np.maximum(e.expected_cost(rows), 1.0)
        self.counted = e.prompt_counted[rows]


def _entropy(s: Seen) -> Floats:
    total = np.maximum(s.total, 1)
    return np.log(total) - s.e.count_log_count[s.rows] / total


def _price(row: int, kind: ActionKind) -> Feature[Seen]:
    return cost_feature(f"{kind.value}_price", kind.spec.paid_for, lambda s: s.costs[row])


FEATURES = FeatureTable[Seen](
    3,
    LOG_PRICE,
    Feature(
        name="rounds_priced",
        group=TERMS,
        unit="",
        scale=FLAG,
        meaning="whether serial rounds have a price",
        column=lambda s: s.round_price > 0,
    ),
    Feature(
        name="log_round_price",
        group=TERMS,
        unit="accuracy per round",
        scale=LOG10,
        meaning=f"price of a serial round, at least {_LEAST_ROUND_PRICE}",
        column=lambda s: np.maximum(s.round_price, _LEAST_ROUND_PRICE),
    ),
    BUDGET_KNOWN,
    LOG_BUDGET_LEFT,
    Feature(
        name="step",
        group=COUNTS,
        unit="rounds",
        scale=_COUNT,
        meaning="serial rounds so far",
        column=lambda s: s.e.rounds[s.rows],
    ),
    Feature(
        name="samples",
        group=COUNTS,
        unit="attempts",
        scale=_COUNT,
        meaning="independent attempts by the small model",
        column=lambda s: s.samples,
    ),
    Feature(
        name="revisions",
        group=COUNTS,
        unit="attempts",
        scale=_COUNT,
        meaning="revisions",
        column=lambda s: s.revisions,
    ),
    Feature(
        name="escalations",
        group=COUNTS,
        unit="attempts",
        scale=Scale(text="1/2 each"),
        meaning="attempts by larger models",
        column=lambda s: (s.attempts - s.samples - s.revisions) * 0.5,
    ),
    Feature(
        name="rung",
        group=COUNTS,
        unit="rungs",
        scale=PLAIN,
        meaning="highest model that was asked, 0 for the small one",
        column=lambda s: s.e.rung[s.rows],
    ),
    Feature(
        name="answered",
        group=COUNTS,
        unit="",
        scale=FLAG,
        meaning="whether any attempt gave an answer",
        column=lambda s: s.total > 0,
    ),
    Feature(
        name="vote_share",
        group=_VOTES,
        unit="share of votes",
        scale=QUOTIENT,
        meaning="votes for the leading answer among all",
        column=lambda s: (s.top, s.total),
    ),
    Feature(
        name="vote_margin",
        group=_VOTES,
        unit="share of votes",
        scale=QUOTIENT,
        meaning="lead over the closest rival among all votes",
        column=lambda s: (s.top - s.second, s.total),
    ),
    Feature(
        name="vote_entropy",
        group=_VOTES,
        unit="nats",
        scale=PLAIN,
        meaning="entropy of the votes",
        column=_entropy,
    ),
    Feature(
        name="distinct_answers",
        group=_VOTES,
        unit="answers",
        scale=_COUNT,
        meaning="different answers",
        column=lambda s: s.e.distinct[s.rows],
    ),
    Feature(
        name="leader_stays",
        group=_VOTES,
        unit="probability",
        scale=PLAIN,
        meaning="posterior that the leading answer stays ahead of its closest rival",
        column=lambda s: leader_stays(s.top, s.second),
    ),
    Feature(
        name="leader_votes",
        group=_VOTES,
        unit="votes",
        scale=_COUNT,
        meaning="for the leading answer",
        column=lambda s: s.top,
    ),
    Feature(
        name="rival_votes",
        group=_VOTES,
        unit="votes",
        scale=_COUNT,
        meaning="for its closest rival",
        column=lambda s: s.second,
    ),
    Feature(
        name="leader_small_share",
        group=_VOTES,
        unit="share of attempts",
        scale=QUOTIENT,
        meaning="attempts that gave the leading answer among all of the small model with an answer",
        column=lambda s: (s.leader[SMALL_VOTES], s.e.small_total[s.rows]),
    ),
    Feature(
        name="leader_large_backed",
        group=_VOTES,
        unit="",
        scale=FLAG,
        meaning="whether a larger model gave the leading answer",
        column=lambda s: s.leader[LARGE_VOTES] > 0,
    ),
    Feature(
        name="last_agrees",
        group=_VOTES,
        unit="",
        scale=FLAG,
        meaning="whether the latest attempt gave the answer that led before",
        column=lambda s: s.e.last_agrees[s.rows],
    ),
    Feature(
        name="unanswered_share",
        group=_VOTES,
        unit="share of attempts",
        scale=QUOTIENT,
        meaning="attempts without an answer",
        column=lambda s: (s.e.unanswered[s.rows], s.attempts),
    ),
    Feature(
        name="logprob_known",
        group=LOGPROBS,
        unit="",
        scale=FLAG,
        meaning="whether log-probabilities of the latest attempt are known",
        column=lambda s: is_known(s.last_logprob),
    ),
    Feature(
        name="last_mean_logprob",
        group=LOGPROBS,
        unit="nats",
        scale=KNOWN,
        meaning="mean log-probability of the latest attempt's tokens",
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
        name="leader_mean_logprob",
        group=LOGPROBS,
        unit="nats",
        scale=QUOTIENT,
        meaning="mean over the attempts that gave the leading answer",
        column=lambda s: (s.leader[LOGPROB], s.leader[LOGPROB_COUNT]),
    ),
    Feature(
        name="mean_logprob",
        group=LOGPROBS,
        unit="nats",
        scale=QUOTIENT,
        meaning="mean over all attempts",
        column=lambda s: (s.e.logprob_sum[s.rows], s.e.logprobs[s.rows]),
    ),
    Feature(
        name="verifier_known",
        group=_SCORES,
        unit="",
        scale=FLAG,
        meaning="whether a verifier has scored any attempt",
        column=lambda s: s.scores > 0,
    ),
    Feature(
        name="leader_verifier",
        group=_SCORES,
        unit="probability",
        scale=QUOTIENT,
        meaning="mean score of the attempts that gave the leading answer",
        column=lambda s: (s.leader[SCORE], s.leader[SCORES]),
    ),
    Feature(
        name="mean_verifier",
        group=_SCORES,
        unit="probability",
        scale=QUOTIENT,
        meaning="mean score of all that were scored",
        column=lambda s: (s.e.score_sum[s.rows], s.scores),
    ),
    Feature(
        name="unverified",
        group=COUNTS,
        unit="attempts",
        scale=_COUNT,
        meaning="attempts that a verifier could score and has not",
        column=lambda s: s.e.unverified[s.rows],
    ),
    Feature(
        name="small_length",
        group=LENGTHS,
        unit="tokens",
        scale=PER_UNIT,
        meaning="mean length of the small model's attempts",
        column=lambda s: quotient(s.e.small_tokens[s.rows], s.samples + s.revisions) / s.unit,
    ),
    Feature(
        name="prompt_length",
        group=LENGTHS,
        unit="tokens",
        scale=PER_UNIT,
        meaning="length of the small model's prompt; 0 where unknown",
        column=lambda s: s.e.prompt_tokens[s.rows, 0] * s.counted / s.unit,
    ),
    *(_price(i, kind) for i, kind in enumerate(PRICED)),
    DIFFICULTY_KNOWN,
    SMALL_DIFFICULTY,
    LARGE_DIFFICULTY,
    Feature(
        name="prompt_known",
        group=LENGTHS,
        unit="",
        scale=FLAG,
        meaning="whether the length of the small model's prompt is known",
        column=lambda s: s.counted,
    ),
    Feature(
        name="last_cut",
        group=LENGTHS,
        unit="",
        scale=FLAG,
        meaning="whether the latest attempt was cut at its longest",
        column=lambda s: s.e.last_cut[s.rows],
    ),
    Feature(
        name="cut_share",
        group=LENGTHS,
        unit="share of attempts",
        scale=QUOTIENT,
        meaning="attempts that were cut at their longest",
        column=lambda s: (s.e.cuts[s.rows], s.attempts),
    ),
)
OBSERVATION_NAMES = FEATURES.names
NUM_FEATURES = len(FEATURES)


def observe(
    episodes: Episodes, rows: Rows = slice(None), out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Observations of N episodes.

    Args:
        episodes: their state.
        rows: which of them; all when left out.
        out: (N, D) observations of all episodes, in which those of `rows` are replaced.

    Returns:
        `out`, or without it the observations of `rows` alone, (n, D) float32.
    """
    seen = Seen(episodes, rows)
    return FEATURES.observe(seen, len(seen.price), rows, out)
