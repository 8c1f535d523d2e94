"""What a policy sees of whole attempts: a flat vector, whose features are a table.

Nothing here is computed from a reference. Unknown signals read 0 and their
`*_known` flag reads 0 too.
"""

from __future__ import annotations

from functools import cache, cached_property

import numpy as np

from controller.process.actions import PRICED, attempt_cost
from controller.process.episodes import (
    LARGE_VOTES,
    LOGPROB,
    LOGPROB_COUNT,
    SCORE,
    SCORES,
    SMALL_VOTES,
    Episodes,
)
from controller.process.features import (
    BUDGET,
    COUNTS,
    DIFFICULTY,
    FLAG,
    KNOWN,
    LENGTHS,
    LOG10,
    LOG_PRICE,
    LOGPROBS,
    PER_UNIT,
    PLAIN,
    QUOTIENT,
    TERMS,
    Feature,
    FeatureTable,
    Scale,
    Seen,
    counted,
    expected_costs,
    last_logprobs,
    quotient,
)
from controller.process.lockstep import Floats, Ints, at_least, at_most, integers

_BETA_SIZE = 128
_LEAST_ROUND_PRICE = 1e-4
_HALF = np.float64(0.5)
_COUNT = counted(1 / 8, "1/8 each")
_VOTES, _SCORES = "votes", "verifier scores"


@cache
def _leader_stays_table() -> Floats:
    """P(X > 1/2) for X ~ Beta(leader + 1, rival + 1), by [leader, rival].

    Source: Aggarwal et al. 2023, "Let's Sample Step by Step" (arXiv 2305.11860), eq. 2.
    """
    from scipy.special import betainc

    votes = np.arange(_BETA_SIZE)
    return np.asarray(1 - betainc(votes[:, None] + 1, votes[None, :] + 1, 0.5))


def leader_stays(top: Floats, second: Floats) -> Floats:
    """Posterior that the leading answer stays ahead of its closest rival, by votes of each.

    Source: as in adaptive consistency, arXiv 2305.11860.
    """
    leader, rival = (at_most(np.rint(votes), _BETA_SIZE - 1) for votes in (top, second))
    return _leader_stays_table()[integers(leader), integers(rival)]


class AttemptsSeen(Seen):
    """What columns are computed from; `leader`, (8, n), is what is known of leading answers."""

    def __init__(self, episodes: Episodes) -> None:
        super().__init__(episodes)
        self.leader = episodes.known_of_leader

    @cached_property
    def backers(self) -> tuple[Ints, Ints]:
        """Families behind the leading answer and its strongest rival, (n,) each."""
        return self.e.backers

    @cached_property
    def arm_prices(self) -> Floats:
        """Price x expected cost of an attempt by each arm, (R, n)."""
        e, config = self.e, self.e.config
        of_tokens, prompts = (config.token_cost, config.prompt_share), e.prompt_tokens - e.spared
        costs = attempt_cost(*of_tokens, prompts, e.prefilled, e.lengths).T
        return np.asarray(e.price * np.maximum(costs, 1.0))

    @cached_property
    def worths(self) -> Floats:
        """Chance that an attempt by each arm is right, less its price, at least -1, (R, n)."""
        return np.asarray(np.maximum(self.e.priors.T - self.arm_prices, -1.0))


def _entropy(s: AttemptsSeen) -> Floats:
    total = at_least(s.e.total, 1.0)
    return np.log(total) - s.e.count_log_count / total


# fmt: off
FEATURES = FeatureTable(
    3,
    LOG_PRICE,
    Feature("rounds_priced", TERMS, "", FLAG, lambda s: s.e.round_price > 0,
            "whether serial rounds have a price"),
    Feature("log_round_price", TERMS, "accuracy per round", LOG10,
            lambda s: at_least(s.e.round_price, _LEAST_ROUND_PRICE),
            f"price of a serial round, at least {_LEAST_ROUND_PRICE}"),
    *BUDGET,
    Feature("step", COUNTS, "rounds", _COUNT, "rounds",
            "serial rounds so far"),
    Feature("samples", COUNTS, "attempts", _COUNT, lambda s: s.e.counts.T[0],
            "independent attempts by the small model"),
    Feature("revisions", COUNTS, "attempts", _COUNT, "revisions",
            "revisions"),
    Feature("escalations", COUNTS, "attempts", Scale(text="1/2 each"),
            lambda s: (s.e.num_attempts - s.e.counts.T[0] - s.e.revisions) * _HALF,
            "attempts by larger models"),
    Feature("rung", COUNTS, "rungs", PLAIN, "rung",
            "highest model that was asked, 0 for the small one"),
    Feature("answered", COUNTS, "", FLAG, lambda s: s.e.total > 0,
            "whether any attempt gave an answer"),
    Feature("vote_share", _VOTES, "share of votes", QUOTIENT, ("top", "total"),
            "votes for the leading answer among all"),
    Feature("vote_margin", _VOTES, "share of votes", QUOTIENT,
            (lambda s: s.e.top - s.e.second, "total"),
            "lead over the closest rival among all votes"),
    Feature("vote_entropy", _VOTES, "nats", PLAIN, _entropy,
            "entropy of the votes"),
    Feature("distinct_answers", _VOTES, "answers", _COUNT, "distinct",
            "different answers"),
    Feature("leader_stays", _VOTES, "probability", PLAIN,
            lambda s: leader_stays(s.e.top, s.e.second),
            "posterior that the leading answer stays ahead of its closest rival"),
    Feature("leader_votes", _VOTES, "votes", _COUNT, "top",
            "for the leading answer"),
    Feature("rival_votes", _VOTES, "votes", _COUNT, "second",
            "for its closest rival"),
    Feature("leader_small_share", _VOTES, "share of attempts", QUOTIENT,
            (lambda s: s.leader[SMALL_VOTES], "small_total"),
            "attempts that gave the leading answer among all of the small model with an answer"),
    Feature("leader_large_backed", _VOTES, "", FLAG, lambda s: s.leader[LARGE_VOTES] > 0,
            "whether a larger model gave the leading answer"),
    Feature("last_agrees", _VOTES, "", FLAG, "last_agrees",
            "whether the latest attempt gave the answer that led before"),
    Feature("unanswered_share", _VOTES, "share of attempts", QUOTIENT,
            ("unanswered", "num_attempts"),
            "attempts without an answer"),
    *last_logprobs("latest attempt"),
    Feature("leader_mean_logprob", LOGPROBS, "nats", QUOTIENT,
            (lambda s: s.leader[LOGPROB], lambda s: s.leader[LOGPROB_COUNT]),
            "mean over the attempts that gave the leading answer"),
    Feature("mean_logprob", LOGPROBS, "nats", QUOTIENT, ("logprob_sum", "logprobs"),
            "mean over all attempts"),
    Feature("verifier_known", _SCORES, "", FLAG, lambda s: s.e.scores > 0,
            "whether a verifier has scored any attempt"),
    Feature("leader_verifier", _SCORES, "probability", QUOTIENT,
            (lambda s: s.leader[SCORE], lambda s: s.leader[SCORES]),
            "mean score of the attempts that gave the leading answer"),
    Feature("mean_verifier", _SCORES, "probability", QUOTIENT,
            ("score_sum", "scores"),
            "mean score of all that were scored"),
    Feature("unverified", COUNTS, "attempts", _COUNT, "unverified",
            "attempts that a verifier could score and has not"),
    Feature("small_length", LENGTHS, "tokens", PER_UNIT,
            lambda s: quotient(s.e.small_tokens, s.e.counts.T[0] + s.e.revisions) / s.unit,
            "mean length of the small model's attempts"),
    Feature("prompt_length", LENGTHS, "tokens", PER_UNIT,
            lambda s: s.e.prompt_tokens.T[0] * s.e.prompt_counted / s.unit,
            "length of the small model's prompt; 0 where unknown"),
    *expected_costs(PRICED),
    *DIFFICULTY,
    Feature("prompt_known", LENGTHS, "", FLAG, "prompt_counted",
            "whether the length of the small model's prompt is known"),
    Feature("last_cut", LENGTHS, "", FLAG, "last_cut",
            "whether the latest attempt was cut at its longest"),
    Feature("cut_share", LENGTHS, "share of attempts", QUOTIENT,
            ("cuts", "num_attempts"),
            "attempts that were cut at their longest"),
    seen=AttemptsSeen,
)
# fmt: on


_MENU_VERSION = 4
"""Of what is seen of a menu; checkpoints of another one are refused."""


def menu_features(arms: tuple[str, ...]) -> FeatureTable:
    """Those, and what a policy sees of each arm of a menu, and of their families."""
    backing = "agreement of families"
    # fmt: off
    return FeatureTable(
        _MENU_VERSION,
        *FEATURES.features,
        Feature("families_behind_leader", backing, "families", PLAIN, lambda s: s.backers[0],
                "families whose arms gave the leading answer"),
        Feature("families_behind_rival", backing, "families", PLAIN, lambda s: s.backers[1],
                "at most behind any other answer"),
        Feature("attempts", COUNTS, "attempts", _COUNT, _made,
                "attempts by it", arms),
        Feature("leader_share", _VOTES, "share of attempts", QUOTIENT, (_gave_leader, _made),
                "those that gave the leading answer", arms),
        Feature("difficulty", DIFFICULTY[0].group, "log-odds", KNOWN, lambda s: s.e.difficulty.T,
                "that an attempt is right, read from the prompt", arms),
        Feature("price", "expected cost of actions", "accuracy", LOG10, lambda s: s.arm_prices,
                "price x expected cost of an attempt", arms),
        Feature("worth", DIFFICULTY[0].group, "accuracy", KNOWN, lambda s: s.worths,
                "chance that an attempt is right, less price x expected cost", arms),
        Feature("worth_behind", DIFFICULTY[0].group, "accuracy", KNOWN,
                lambda s: s.worths - s.worths.max(0),
                "the same less that of the best arm", arms),
        seen=AttemptsSeen,
    )
    # fmt: on


def plan_features(plans: tuple[str, ...]) -> tuple[Feature, Feature]:
    """What the wording tells of each of K plans."""
    group = DIFFICULTY[0].group
    # fmt: off
    return (
        Feature("worth", group, "accuracy", KNOWN, lambda s: s.e.plan_worths.T,
                "chance that following the plan ends right, less price x what it costs", plans),
        Feature("worth_behind", group, "accuracy", KNOWN,
                lambda s: s.e.plan_worths.T - s.e.plan_worths.T.max(0),
                "the same less that of the best plan", plans),
    )
    # fmt: on


def _made(s: AttemptsSeen) -> Ints:
    return s.e.counts.T


def _gave_leader(s: AttemptsSeen) -> Ints:
    whole, rows = s.e.place
    return whole.arm_votes[rows, s.e.leader].T


OBSERVATION_NAMES = FEATURES.names
_OF_A_MENU = menu_features(("arm",)).features
COMMON_NAMES = tuple(feature.name for feature in _OF_A_MENU if not feature.arms)
ARM_NAMES = tuple(feature.name for feature in _OF_A_MENU if feature.arms)
"""What is seen of any menu, and of each of its arms."""
NUM_FEATURES = len(FEATURES)

observe = FEATURES.observe
