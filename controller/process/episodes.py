"""State of many questions that are under way: attempts, votes, scores and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import Any, Self

import numpy as np

from controller.errors import ConfigError, check_range
from controller.process.actions import (
    ACTIONS,
    OWN_ACTIONS,
    PRICED,
    ActionKind,
    ActionSet,
    ActionSpec,
    Tier,
)
from controller.process.cost import CostModel
from controller.process.features import OWN_FEATURES, Feature, FromWording
from controller.process.lockstep import Bools, Floats, Ints, Lockstep, Rows, chance
from controller.process.menu import PAIR, Arm

NO_ANSWER = -1

LEAST_LOGPROB = -30.0
"""Lower log-probabilities, minus infinity among them, are read as this."""


@dataclass(frozen=True)
class Plan:
    """A rule that could be followed from a question's first attempt to its answer.

    Attributes:
        name: of the rule with its settings.
        cost: the most that following it has cost.
    """

    name: str
    cost: float

    def __post_init__(self) -> None:
        check_range(self, ("cost",), above=0)


@dataclass(frozen=True, kw_only=True)
class EpisodeConfig:
    """The decision process that a controller is trained for and deployed in.

    Attributes:
        sample_widths: widths of the SAMPLE actions.
        cost: ledger; one weight per rung.
        vote_weights: votes that one answer of each rung counts for, whole numbers.
        mean_completion_tokens: mean length of an attempt per rung, for the expected cost of an
            action.
        max_completion_tokens: longest attempt per rung, for hard budgets.
        cost_unit: cost that one typical small attempt has; makes prices comparable
            across models.
        max_samples: SAMPLE attempts per episode.
        max_revisions: REVISE attempts per episode.
        max_escalations: attempts per rung above the small model.
        revision_overhead: most tokens of a REVISE prompt beside question and parent.
        reads_prompt: whether the policy looks at the small model's prompt state, which
            charges the small model's prefill at the start of every episode.
        verifies: whether there is a verifier, and with it the action VERIFY: the arm that says so,
            or else an adapter of the first.
        verification_overhead: tokens that such an arm reads and writes beside question and attempt.
        verifier_calibration: what makes a probability of such an arm's judgement of an attempt:
            a factor of its log-odds, then what is added for each rung that may have made it; empty
            for scores that are taken as they are.
        tie_breaks: of each rung four numbers, on which the answer leads of several with as many
            votes: how likely its attempts are right beside others, their mean log-probability,
            what a nat above that adds, and what each e-fold of their tokens adds; empty for the
            larger model's answer, then the first.
        reads_logprobs: whether log-probabilities of attempts were known in training; if not,
            those of a deployment are left unread.
        reads_cuts: the same for attempts that were cut at their longest.
        arms: what can be asked, one per rung, the first one small; empty for `PAIR`.
        own_actions: registered ones that are offered after the table's.
        own_features: registered ones that are seen after the table's.
        plans: K of them, of which a policy sees what the wording tells of following each.
    """

    cost: CostModel
    vote_weights: tuple[int, ...]
    mean_completion_tokens: tuple[float, ...]
    max_completion_tokens: tuple[int, ...]
    cost_unit: float
    sample_widths: tuple[int, ...] = (1,)
    max_samples: int = 16
    max_revisions: int = 4
    max_escalations: int = 2
    revision_overhead: int = 0
    reads_prompt: bool = False
    verifies: bool = False
    verification_overhead: int = 0
    verifier_calibration: tuple[float, ...] = ()
    tie_breaks: tuple[float, ...] = ()
    reads_logprobs: bool = True
    reads_cuts: bool = False
    arms: tuple[Arm, ...] = ()
    own_actions: tuple[str, ...] = ()
    own_features: tuple[str, ...] = ()
    plans: tuple[Plan, ...] = ()

    def __post_init__(self) -> None:
        rungs = len(self.cost.weights)
        for name in ("vote_weights", "mean_completion_tokens", "max_completion_tokens"):
            values = getattr(self, name)
            if len(values) != rungs or min(values) <= 0:
                raise ConfigError(
                    f"{name}: expected {rungs} positive numbers, one per rung, found {values}"
                )
        check_range(self, ("cost_unit",), above=0)
        check_range(self, ("max_samples",), least=1)
        check_range(self, ("max_revisions", "max_escalations"), least=0)
        if len(self.menu) != rungs or self.menu[0].tier is not Tier.SMALL:
            raise ConfigError(
                f"arms: expected one per rung, {rungs}, the first one small, found {self.arms}"
            )
        for name, count in (("verifier_calibration", rungs + 1), ("tie_breaks", 4 * rungs)):
            found = getattr(self, name)
            if len(found) not in (0, count):
                raise ConfigError(f"{name}: expected {count} numbers, or none, found {found}")
        if sum(arm.verifies for arm in self.menu) > 1:
            raise ConfigError(
                "arms: expected at most one that verifies, found "
                f"{[arm.name for arm in self.menu if arm.verifies]}"
            )
        for name in ("own_actions", "own_features", "plan_names"):
            names = getattr(self, name)
            if not isinstance(names, tuple) or len(set(names)) < len(names):
                raise ConfigError(f"{name}: expected a tuple of distinct names, found {names!r}")
        ActionSet.build(self.sample_widths, self.verifies, own=self.added_actions)
        _ = self.added_features

    def __getstate__(self) -> dict[str, Any]:
        """Settings alone: what follows from them holds functions, which no pickle takes."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def added_actions(self) -> tuple[ActionKind, ...]:
        """Kinds of actions from outside; raises ConfigError for one that is not registered."""
        return tuple(OWN_ACTIONS[name] for name in self.own_actions)

    @cached_property
    def added_features(self) -> tuple[Feature, ...]:
        """Features from outside; raises ConfigError for one that is not registered."""
        return tuple(OWN_FEATURES[name] for name in self.own_features)

    @cached_property
    def plan_names(self) -> tuple[str, ...]:
        """Of the plans, (K,)."""
        return tuple(plan.name for plan in self.plans)

    @cached_property
    def plan_costs(self) -> Floats:
        """Of the plans, (K,)."""
        return np.array([plan.cost for plan in self.plans])

    @cached_property
    def readings(self) -> tuple[Callable[[str], float], ...]:
        """Those of them that the wording tells."""
        columns = chain(*(feature.columns for feature in self.added_features))
        return tuple(column.read for column in columns if isinstance(column, FromWording))

    @property
    def menu(self) -> tuple[Arm, ...]:
        """The arms, one per rung."""
        return self.arms or PAIR[: self.num_rungs]

    @cached_property
    def arm_names(self) -> tuple[str, ...]:
        """Of the arms, by rung."""
        return tuple(arm.name for arm in self.menu)

    @cached_property
    def by_tier(self) -> dict[Tier, tuple[int, ...]]:
        """Rungs of the arms of each tier."""
        return {t: tuple(r for r, arm in enumerate(self.menu) if arm.tier is t) for t in Tier}

    @cached_property
    def names_revisers(self) -> bool:
        """Whether arms say that they revise, so that actions name these."""
        return any(arm.revises for arm in self.menu)

    @cached_property
    def revisers(self) -> tuple[int, ...]:
        """Rungs of the arms that revise."""
        return tuple(r for r, arm in enumerate(self.menu) if arm.revises) or (0,)

    @cached_property
    def names_verifier(self) -> bool:
        """Whether an arm verifies, and not an adapter."""
        return any(arm.verifies for arm in self.menu)

    @cached_property
    def verifier(self) -> int:
        """Rung of the arm that verifies, itself or by its adapter."""
        return next((r for r, arm in enumerate(self.menu) if arm.verifies), 0)

    @cached_property
    def is_menu(self) -> bool:
        """Whether a tier has several arms, so that actions name these."""
        return any(len(rungs) > 1 for rungs in self.by_tier.values())

    @cached_property
    def is_small(self) -> Bools:
        """Whether an arm is small, (R,)."""
        return np.array([arm.tier is Tier.SMALL for arm in self.menu])

    @cached_property
    def family_members(self) -> Ints:
        """Which arms are of which family, (R, families)."""
        families = sorted({arm.family for arm in self.menu})
        return np.array([[arm.family == family for family in families] for arm in self.menu], int)

    @cached_property
    def actions(self) -> ActionSet:
        """The action set, in the order of a policy's outputs."""
        named = {
            kind: tuple(self.arm_names[rung] for rung in rungs)
            for kind in (*ActionKind, *self.added_actions)
            if len(rungs := self.rungs_of(kind)) > 1 or (kind.spec.revises and self.names_revisers)
        }
        every = ActionSet.build(self.sample_widths, self.verifies, named, self.added_actions)
        if not self.is_menu:
            return every
        # An arm that is asked once has no use for wider actions.
        least = min(self.sample_widths)
        most = [max(least, self.caps[self.rung_of(a.kind, a.arm)]) for a in every]
        return ActionSet(a for a, cap in zip(every, most, strict=True) if a.width <= cap)

    def rungs_of(self, kind: ActionKind) -> tuple[int, ...]:
        """The arms that a kind of action can ask."""
        if kind.spec.revises:
            return self.revisers
        if kind.spec.scores:
            return (self.verifier,)
        return self.by_tier[kind.spec.tier] if kind.spec.tier else ()

    def rung_of(self, kind: ActionKind, arm: str = "") -> int:
        """The arm that an action asks; without a name the first that it can ask, if any."""
        return self.arm_names.index(arm) if arm else next(iter(self.rungs_of(kind)), 0)

    def asks(self, rung: int) -> int:
        """Index of the action that makes one attempt by an arm."""
        arm = self.menu[rung]
        kind = next(kind for kind, spec in ACTIONS.items() if spec.tier is arm.tier)
        width = min(self.sample_widths) if kind.spec.wide else 1
        return self.actions.position(
            kind, width, arm.name if len(self.by_tier[arm.tier]) > 1 else ""
        )

    @cached_property
    def choices(self) -> tuple[tuple[ActionSpec, int], ...]:
        """What is to be said of each action, and its width."""
        return tuple(
            (ACTIONS[action.kind].on(self.rung_of(action.kind, action.arm)), action.width)
            for action in self.actions
        )

    @cached_property
    def kinds(self) -> tuple[ActionKind, ...]:
        """Kinds of actions that can be taken, in the order of a policy's outputs."""
        kinds = dict.fromkeys(action.kind for action in self.actions)
        return tuple(kind for kind in kinds if kind.spec.limit(self) != 0)

    @cached_property
    def priced(self) -> dict[ActionKind, ActionSpec]:
        """Actions whose expected cost a policy sees, of arms those of the first of a tier."""
        own = {kind: kind.spec for kind in self.added_actions if kind.spec.cost}
        return {kind: spec.on(self.rung_of(kind)) for kind, spec in (PRICED | own).items()}

    @cached_property
    def mean_lengths(self) -> Floats:
        """Expected length of an attempt per rung, (R,)."""
        return np.array(self.mean_completion_tokens, np.float64)

    @cached_property
    def worst_lengths(self) -> Ints:
        """Longest attempt per rung, (R,)."""
        return np.array(self.max_completion_tokens)

    @cached_property
    def token_cost(self) -> Floats:
        """Cost of a written token per rung, (R,)."""
        return np.array(self.cost.weights)

    @cached_property
    def revision_cost(self) -> Floats:
        """Cost of a token that goes through an arm when it revises, (R,)."""
        return np.array([self.cost.reviser_weight, *self.cost.weights[1:]])

    @cached_property
    def verification_cost(self) -> float:
        """Cost of a token that goes through the verifier."""
        if not self.names_verifier:
            return self.cost.verifier_weight
        return float(self.token_cost[self.verifier] * self.prompt_share[self.verifier])

    @cached_property
    def prompt_share(self) -> Floats:
        """Of that, what a prompt token costs, (R,)."""
        return np.array(self.cost.prompt_shares or (1.0,) * self.num_rungs)

    @property
    def num_rungs(self) -> int:
        """Arms."""
        return len(self.cost.weights)

    @cached_property
    def caps(self) -> Ints:
        """Most attempts by each arm, revisions apart, (R,)."""
        if self.is_menu:
            return np.array([arm.most for arm in self.menu])
        return np.where(self.is_small, self.max_samples, self.max_escalations)

    @property
    def max_attempts(self) -> int:
        """Attempts that one episode can hold."""
        return int(self.caps.sum()) + self.max_revisions


@dataclass(frozen=True, kw_only=True)
class AttemptColumns:
    """Attempts of several episodes, one each, as columns of length n.

    Attributes:
        rung: model that made it.
        answer: answer id, from 0; -1 when none could be read.
        prompt_tokens: length of the prompt; for REVISE that includes the parent.
        completion_tokens: tokens written.
        reasoning_tokens: those of them that were thinking.
        mean_logprob: nats; NaN when unknown.
        min_logprob: nats; NaN when unknown.
        cut: whether it was cut at its longest.
        scoreable: whether a verifier could judge it.
        first_child: where its recorded revisions by each arm that revises begin, (n, V); unused
            live.
        num_children: how many of them can be had, (n, V).
    """

    rung: Ints
    answer: Ints
    prompt_tokens: Ints
    completion_tokens: Ints
    reasoning_tokens: Ints
    mean_logprob: Floats
    min_logprob: Floats
    cut: Bools
    scoreable: Bools
    first_child: Ints
    num_children: Ints


VOTES, SMALL_VOTES, LARGE_VOTES, WEIGHT, LOGPROB, LOGPROB_COUNT, SCORE, SCORES = range(8)
"""Columns of `Episodes.answers`."""

_ZERO_AT_START = (
    *("counts", "revisions", "rung", "top", "second", "total", "small_total", "distinct"),
    *("count_log_count", "num_attempts", "unanswered", "cuts", "last_cut", "last_agrees"),
    "last_thinking",
    *("logprob_sum", "logprobs", "score_sum", "scores", "small_tokens", "unverified"),
    *("unverified_tokens", "prefilled", "spared", "streak"),
)

_LOOKED_AT = (
    *_ZERO_AT_START,
    *("at", "price", "round_price", "budget", "spent", "rounds", "prompt_tokens", "difficulty"),
    *("leader", "limits", "last_logprob", "last_min_logprob", "lengths", "prompt_counted"),
    *("priors", "plan_worths"),
)
_arrays = attrgetter(*_LOOKED_AT)

_LEAST_CHANCE = 1e-6

_LOG_FACTORS = (-3.0, 3.0)
"""What a wording may tell of lengths: it is extrapolated to questions unlike those of training."""

_TIE = 1e-9
"""Weights that differ by less after verification are equal: they are sums in some order."""

_MAX_WEIGHT = 4096
_COUNT_LOG_COUNT = np.array([0.0] + [c * np.log(c) for c in range(1, _MAX_WEIGHT)])


def score_weight(score: Floats) -> Floats:
    """Votes that an attempt counts for once a verifier has scored it; 1 without, as at 1/2."""
    return (2 * score) ** 2


def log_odds(score: Floats) -> Floats:
    """Of probabilities, none of which is taken for certain."""
    from scipy.special import logit

    return np.asarray(logit(np.clip(score, _LEAST_CHANCE, 1 - _LEAST_CHANCE)))


def calibrated(calibration: tuple[float, ...], score: Floats, rung: Ints) -> Floats:
    """How likely attempts are right, by an arm's judgement of each and who made it, all (n,).

    Source: Platt 1999, with an intercept for each arm, as `EpisodeConfig.verifier_calibration`.
    """
    factor, *added = calibration
    return chance(factor * log_odds(score) + np.array(added)[rung])


class Episodes(Lockstep):
    """N episodes in lockstep, with K distinct answers each at most.

    Attributes (arrays over N unless a shape is given; see also `Lockstep`):
        counts: attempts per rung, revisions apart, (N, R).
        limits: attempts per rung that can be had, (N, R).
        spared: prompt tokens per rung that need not be paid, as they are cached, (N, R).
        revisions: REVISE attempts.
        rung: highest rung used.
        answers: what is known of each answer, (N, K, 8); the next ones are views of it.
        votes: weighted votes per answer, (N, K).
        small_votes, large_votes: attempts that gave it, by arms of each tier, (N, K).
        arm_votes: attempts that gave it by each arm, (N, K, R); of a menu alone.
        families: behind it, (N, K); of a menu alone.
        weight: votes after verification, (N, K).
        answer_logprob, answer_logprobs: sum and count of mean log-probabilities, (N, K).
        answer_score, answer_scores: sum and count of verifier scores, (N, K).
        answer_sure: how sure it is on a tie: as its surest attempt, (N, K); of a process with
            `EpisodeConfig.tie_breaks` alone.
        leader: answer of most weight; -1 before the first answer.
        top, second: weight of the leader and of its closest rival.
        total: votes cast.
        distinct: answers seen.
        seen: which, in the order of their first attempts, (N, attempts); as many count as
            there are distinct ones.
        streak: how many of the latest attempts gave one and the same answer.
        readings: what the wording tells, by `EpisodeConfig.readings`, (N, F).
        unverified: attempts that a verifier could judge and has not.
        priors: chances that `difficulty` tells, (N, R).
        lengths: expected, of an attempt by each rung, as far as the wording tells, (N, R).
        plan_worths: chance that following each of K plans ends right, less price x what that
            costs, as far as the wording tells, at least -1, (N, K); NaN if unknown.
        prompt_counted: whether the length of the small model's prompt is known.
        cuts: attempts that were cut at their longest; last_cut: whether the latest was.
        last_thinking: share of the latest attempt's tokens that were thinking.
    """

    config: EpisodeConfig

    def __init__(self, config: EpisodeConfig, num_episodes: int, num_answers: int) -> None:
        super().__init__(config, num_episodes)
        if config.max_attempts * max(config.vote_weights) >= _MAX_WEIGHT:
            raise ConfigError(
                f"vote_weights: expected less than {_MAX_WEIGHT} votes per episode, found "
                f"{config.max_attempts} attempts with up to {max(config.vote_weights)} each"
            )
        n, k, r = num_episodes, num_answers, config.num_rungs
        self.lengths, self.priors = np.ones((n, r)), np.full((n, r), np.nan)
        self.readings = np.zeros((n, len(config.readings)))
        self.plan_worths = np.full((n, len(config.plans)), np.nan)
        self._vote_weight = np.array(config.vote_weights)
        self._tie_breaks = np.reshape(config.tie_breaks, (-1, 4))
        self.prompt_counted = np.ones(n, bool)
        self.cuts, self.last_cut = np.zeros(n, np.int64), np.zeros(n, bool)
        self.last_thinking = np.zeros(n)
        self.prefilled, self.spared = np.zeros((n, r), bool), np.zeros((n, r), np.int64)
        self.counts, self.limits = np.zeros((n, r), np.int64), np.zeros((n, r), np.int64)
        self.revisions, self.rung = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self._make_answers(k, n)
        self.arm_votes = np.zeros((n, k, r) if config.is_menu else (0, 0, 0), np.int64)
        self.families = np.zeros(self.arm_votes.shape[:2], np.int64)
        self.answer_sure = np.full((n, k) if config.tie_breaks else (0, 0), -np.inf)
        self.seen = np.zeros((config.max_attempts, n), np.int64).T
        revisers = len(config.revisers)
        self.next_child = np.zeros((revisers, k, n), np.int64).T
        self.children_left = np.zeros((revisers, k, n), np.int64).T
        self.leader = np.full(n, NO_ANSWER)
        self.top, self.second, self.total = np.zeros(n), np.zeros(n), np.zeros(n)
        self.small_total, self.distinct = np.zeros(n), np.zeros(n, np.int64)
        self.count_log_count = np.zeros(n)
        self.num_attempts, self.unanswered = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.last_agrees = np.zeros(n, bool)
        self.last_answer, self.streak = np.full(n, NO_ANSWER), np.zeros(n, np.int64)
        self.last_logprob, self.last_min_logprob = np.full(n, np.nan), np.full(n, np.nan)
        self.unverified, self.unverified_tokens = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.logprob_sum, self.logprobs = np.zeros(n), np.zeros(n, np.int64)
        self.score_sum, self.scores = np.zeros(n), np.zeros(n, np.int64)
        self.small_tokens = np.zeros(n, np.int64)

    def _make_answers(self, k: int, n: int) -> None:
        # What is known of an answer fills one cache line: it is read, written and reset together.
        # First answers lie side by side in memory: most episodes see few.
        self._lines = np.zeros((k * n, 8))
        self.answers = self._lines.reshape(k, n, 8).swapaxes(0, 1)
        columns = self.answers.transpose(2, 0, 1)
        self.votes, self.weight = columns[VOTES], columns[WEIGHT]
        self.small_votes, self.large_votes = columns[SMALL_VOTES], columns[LARGE_VOTES]
        self.answer_logprob, self.answer_logprobs = columns[LOGPROB], columns[LOGPROB_COUNT]
        self.answer_score, self.answer_scores = columns[SCORE], columns[SCORES]

    def reset(
        self,
        rows: Ints,
        *,
        limits: Ints,
        difficulty: Floats,
        prompt_counted: Bools | bool = True,
        readings: Floats | float = np.nan,
        **terms: Any,
    ) -> None:
        """Begin new episodes in `rows`, (n,).

        Args:
            rows: which episodes.
            limits: (n, R) attempts that can be had per rung.
            difficulty: (n, R), (n, 2R) or (n, 2R + 2K), `Difficulty.outlook` of the question; NaN
                if unknown.
            prompt_counted: (n,) whether the small model's prompt tokens are more than a guess.
            readings: (n, F) what the wordings tell; NaN if unknown.
            terms: for `begin`.
        """
        if self.distinct[rows].any():
            answers, known = self._seen(rows)
            used = np.broadcast_to(rows[:, None], answers.shape)[known], answers[known]
            self._note(*used, np.zeros((1, 8)))
            self.children_left[used] = 0
            if self.arm_votes.size:
                self.arm_votes[used] = self.families[used] = 0
            if self.answer_sure.size:
                self.answer_sure[used] = -np.inf
        for name in _ZERO_AT_START:
            getattr(self, name)[rows] = 0
        for unknown in (self.last_logprob, self.last_min_logprob):
            unknown[rows] = np.nan
        self.leader[rows] = NO_ANSWER
        self.last_answer[rows] = NO_ANSWER
        r, k = self.config.num_rungs, len(self.config.plans)
        chances, lengths, plans = np.split(difficulty, (r, 2 * r), axis=1)
        self.begin(rows, difficulty=chances, **terms)
        self.priors[rows] = chance(chances)
        if k and plans.size:
            right, cost = chance(plans[:, :k]), chance(plans[:, k:]) * self.config.plan_costs
            self.plan_worths[rows] = np.maximum(right - self.price[rows, None] * cost, -1.0)
        elif k:
            self.plan_worths[rows] = np.nan
        self.lengths[rows] = mean = self.config.mean_lengths
        if lengths.size:
            self.lengths[rows] = mean * np.exp(np.clip(np.nan_to_num(lengths), *_LOG_FACTORS))
        self.prompt_counted[rows], self.readings[rows] = prompt_counted, readings
        self.limits[rows] = np.minimum(limits, self.config.caps)
        if self.config.reads_prompt:
            self._read_prompts(rows)

    def _read_prompts(self, rows: Ints) -> None:
        """Charge `rows` for reading their prompts; where the budget is below it, none is read."""
        reading = self.reading_cost(self.prompt_tokens[rows, 0]) <= self.budget[rows]
        unread = rows[~reading]
        self.difficulty[unread] = self.priors[unread] = np.nan
        self.lengths[unread] = self.config.mean_lengths
        rows = rows[reading]
        self.prefilled[rows, 0] = True
        self.spent[rows] = self.reading_cost(self.prompt_tokens[rows, 0])
        self.tokens[rows] = self.prompt_tokens[rows, 0]

    def looked_at(self, rows: Rows) -> Self:
        """A part; of one episode alone numbers in place of arrays (1,), rows (R,) of (1, R).

        NumPy computes with numbers ten times as fast as with arrays of one, and to the same bits.
        """
        if rows is not None or self.num_episodes > 1 or "_of" in vars(self):
            return self.part(rows)
        one = object.__new__(type(self))
        numbers = [array[0] for array in _arrays(self)]
        one.__dict__.update(zip(_LOOKED_AT, numbers, strict=True))
        one.__dict__.update(config=self.config, num_episodes=1, _of=(self, 0))
        return one

    @property
    def expected_lengths(self) -> Floats:
        """Expected length of an attempt per rung, (R, N)."""
        return self.lengths.T

    @property
    def worst_lengths(self) -> Ints:
        """Longest attempt per rung, (R, N)."""
        return np.asarray(np.broadcast_to(self.config.worst_lengths, self.prompt_tokens.shape).T)

    def at_worst(self) -> Self:
        """The same with nothing of any prompt cached beforehand."""
        if not self.spared.any():
            return self
        worst = object.__new__(type(self))
        worst.__dict__.update(vars(self), spared=np.zeros_like(self.spared))
        return worst

    def reading_cost(self, prompt_tokens: Ints) -> Floats:
        """Cost of the small model's prefill; where the budget is below it, it is left out."""
        config = self.config
        return np.asarray(config.token_cost[0] * (config.prompt_share[0] * prompt_tokens))

    @property
    def has_verifier(self) -> Bools:
        """Whether there is one here: the arm that verifies may be missing, (N,)."""
        config = self.config
        there = self.limits[:, config.verifier] > 0 if config.names_verifier else True
        return np.broadcast_to(config.verifies & np.asarray(there), self.num_episodes)

    @property
    def fresh(self) -> Bools:
        """Whether no attempt has been made yet, (N,)."""
        return np.asarray(self.num_attempts == 0)

    @property
    def children_of_leader(self) -> Ints:
        """Revisions of the leading answer that can be had, by arm that revises, (N, V)."""
        whole, rows = self.place
        # Without a leader all answers, and so the last one, are as at the start.
        return whole.children_left[rows, self.leader]

    @property
    def known_of_leader(self) -> Floats:
        """What is known of the leading answer, (8, N)."""
        whole, rows = self.place
        return whole.recall(rows, self.leader).T

    def record(self, rows: Ints, revised: Bools, attempts: AttemptColumns) -> None:
        """Add one attempt to each of `rows`, (n,); `revised` tells which ones revise."""
        rung = attempts.rung
        self._count_prompts(rows, ~revised & (rung == 0), attempts.prompt_tokens)
        self._charge(rows, revised, attempts)
        self.revisions[rows] += revised
        self.counts[rows, rung] += ~revised
        self.rung[rows] = np.maximum(self.rung[rows], rung)
        self.num_attempts[rows] += 1
        self.small_tokens[rows] += attempts.completion_tokens * (rung == 0)
        self.last_logprob[rows] = attempts.mean_logprob
        self.last_min_logprob[rows] = attempts.min_logprob
        self.last_cut[rows] = attempts.cut
        thought, written = attempts.reasoning_tokens, attempts.completion_tokens
        self.last_thinking[rows] = np.minimum(thought, written) / np.maximum(written, 1)
        self.cuts[rows] += attempts.cut
        self.unverified[rows] += attempts.scoreable
        config = self.config
        beside = self.prompt_tokens[rows, config.verifier] + config.verification_overhead
        tokens = beside + attempts.completion_tokens
        self.unverified_tokens[rows] += tokens * attempts.scoreable
        unknown = np.isnan(attempts.mean_logprob)
        self.logprob_sum[rows] += np.where(unknown, 0.0, attempts.mean_logprob)
        self.logprobs[rows] += ~unknown
        answered = attempts.answer >= 0
        self.unanswered[rows] += ~answered
        self.last_agrees[rows] = attempts.answer == self.leader[rows]
        repeats = answered & (attempts.answer == self.last_answer[rows])
        self.streak[rows] = np.where(repeats, self.streak[rows], 0) + answered
        self.last_answer[rows] = attempts.answer
        if not answered.all():
            self.last_agrees[rows[~answered]] = False
            attempts = AttemptColumns(
                **{name: column[answered] for name, column in vars(attempts).items()}
            )
            rows = rows[answered]
        self._vote(rows, attempts)

    def _count_prompts(self, rows: Ints, small: Bools, prompt_tokens: Ints) -> None:
        """Learn the length of a prompt that was not known from the first attempt at it."""
        learned = small & ~self.prompt_counted[rows]
        if learned.any():
            self.prompt_tokens[rows[learned], 0] = prompt_tokens[learned]
            self.prompt_counted[rows[learned]] = True

    def _charge(self, rows: Ints, revised: Bools, attempts: AttemptColumns) -> None:
        rung = attempts.rung
        first = ~revised & ~self.prefilled[rows, rung]
        prefill = attempts.prompt_tokens * (revised | first)
        prefill = prefill - np.minimum(self.spared[rows, rung] * first, prefill)
        processed = prefill + attempts.completion_tokens
        # An attempt that failed before its prompt was read leaves the prompt to the next one.
        self.prefilled[rows, rung] |= ~revised & (attempts.prompt_tokens > 0)
        config = self.config
        cost = np.where(revised, config.revision_cost[rung], config.token_cost[rung])
        billed = config.prompt_share[rung] * prefill + attempts.completion_tokens
        self.charge(rows, np.asarray(cost * billed), processed)

    def _vote(self, rows: Ints, attempts: AttemptColumns) -> None:
        answer, rung = attempts.answer, attempts.rung
        vote, small = self._vote_weight[rung], self.config.is_small[rung]
        known = self.recall(rows, answer)  # (n, 8)
        votes, weight = known[:, VOTES], known[:, WEIGHT]
        small_votes, large_votes = known[:, SMALL_VOTES], known[:, LARGE_VOTES]
        logprob, logprobs = known[:, LOGPROB], known[:, LOGPROB_COUNT]
        before = votes.astype(np.int64)
        votes += vote
        small_votes += small
        large_votes += ~small
        weight += vote
        unknown = np.isnan(attempts.mean_logprob)
        logprob += np.where(unknown, 0.0, attempts.mean_logprob)
        logprobs += ~unknown
        self._note(rows, answer, known)
        self.count_log_count[rows] += _COUNT_LOG_COUNT[before + vote] - _COUNT_LOG_COUNT[before]
        new = before == 0
        self.distinct[rows] += new
        self.seen[rows[new], self.distinct[rows[new]] - 1] = answer[new]
        self.total[rows] += vote
        self.small_total[rows] += small
        if self.arm_votes.size:
            self.arm_votes[rows, answer, rung] += 1
            gave = self.arm_votes[rows, answer] > 0  # (n, R)
            self.families[rows, answer] = (gave @ self.config.family_members > 0).sum(1)
        revisable = attempts.num_children.any(1)
        if not self.config.names_revisers:
            revisable &= rung == 0
        self.next_child[rows[revisable], answer[revisable]] = attempts.first_child[revisable]
        self.children_left[rows[revisable], answer[revisable]] = attempts.num_children[revisable]
        if self.config.tie_breaks:
            surest = np.maximum(self.answer_sure[rows, answer], self._sureness(attempts))
            self.answer_sure[rows, answer] = surest
            surer = surest > self.answer_sure[rows, self.leader[rows]]
        else:
            surer = ~small
        self._lead(rows, answer, surer, weight)

    def _sureness(self, attempts: AttemptColumns) -> Floats:
        """How likely attempts are right, beside others at the same question, in log-odds, (n,)."""
        base, usual, per_nat, per_length = self._tie_breaks[attempts.rung].T
        # As precise as recorded, so that a live tie is broken as in a replay.
        logprob = attempts.mean_logprob.astype(np.float32)
        more = np.where(np.isnan(logprob), 0.0, logprob - usual)
        length = np.log(np.maximum(attempts.completion_tokens, 1))
        return np.asarray(base + per_nat * more + per_length * length)

    def _lead(self, rows: Ints, answer: Ints, surer: Bools, weight: Floats) -> None:
        """Find leaders and rivals after one answer of each of `rows` got more weight.

        `surer`, (n,), tells whether it leads on a tie.
        """
        top, second, leader = self.top[rows], self.second[rows], self.leader[rows]
        leads = answer == leader
        overtakes = ~leads & ((weight > top) | ((weight == top) & surer))
        self.second[rows] = np.where(
            leads, second, np.where(overtakes, top, np.maximum(second, weight))
        )
        self.top[rows] = np.where(leads | overtakes, weight, top)
        self.leader[rows] = np.where(overtakes, answer, leader)

    @property
    def backers(self) -> tuple[Ints, Ints]:
        """Families behind the leading answer, and at most behind any other one, (N,) each."""
        whole, rows = self.place
        rivals = np.array(whole.families[rows])  # (n, K)
        rivals.reshape(-1, rivals.shape[-1])[self.at, self.leader] = 0
        return whole.families[rows, self.leader], np.maximum.reduce(rivals, -1)

    def recall(self, rows: Ints, answer: Ints) -> Floats:
        """What is known of one answer in each of `rows`, a copy, (n, 8)."""
        return self._lines.take(answer * self.num_episodes + rows, axis=0)

    def _note(self, rows: Ints, answer: Ints, known: Floats) -> None:
        # NumPy copies one item of 64 bytes far quicker than eight of 8.
        self._lines.view("V64")[answer * self.num_episodes + rows] = known.view("V64")

    def score(self, rows: Ints, answer: Ints, rung: Ints, score: Floats) -> None:
        """Take note of a verifier's scores of attempts, all (n,); a row may come up repeatedly.

        `answer` are ids, -1 for none, and scores probabilities, see
        `EpisodeConfig.verifier_calibration`.
        """
        if self.config.verifier_calibration:
            score = calibrated(self.config.verifier_calibration, score, rung)
        np.add.at(self.score_sum, rows, score)
        np.add.at(self.scores, rows, 1)
        answered = answer >= 0
        rows, answer, score = rows[answered], answer[answered], score[answered]
        weight = self._vote_weight[rung[answered]] * (score_weight(score) - 1)
        np.add.at(self.answer_score, (rows, answer), score)
        np.add.at(self.answer_scores, (rows, answer), 1)
        np.add.at(self.weight, (rows, answer), weight)

    def finish_verification(self, rows: Ints) -> None:
        """Charge `rows` for the scores of all their attempts and find the leaders anew."""
        tokens = self.unverified_tokens[rows]
        self.charge(rows, np.asarray(self.config.verification_cost * tokens), tokens)
        self.unverified[rows] = self.unverified_tokens[rows] = 0
        answered = rows[self.leader[rows] != NO_ANSWER]
        if not len(answered):
            return
        answers, known = self._seen(answered)  # (n, seen)
        at = answered[:, None], answers
        # On a tie the surest answer leads, without tie breaks the larger model's, then the first.
        weight = np.where(known, self.weight[at], 0.0)
        if self.config.tie_breaks:
            ties = known & (weight >= weight.max(1, keepdims=True) - _TIE)
            place = np.where(ties, self.answer_sure[at], -np.inf).argmax(1)
        else:
            bonus = _TIE * (self.large_votes[at] > 0)
            place = np.where(known, weight + bonus, -np.inf).argmax(1)
        first = np.arange(len(answered)), place
        self.leader[answered] = answers[first]
        self.top[answered] = weight[first]
        weight[first] = 0.0
        self.second[answered] = np.maximum(weight.max(1), 0.0)

    def _seen(self, rows: Ints) -> tuple[Ints, Bools]:
        """Answers seen in each of `rows` and which entries count, (n, most distinct) each."""
        distinct = self.distinct[rows]
        width = int(np.maximum.reduce(distinct, None, initial=0))
        return self.seen[rows, :width], np.arange(width) < distinct[..., None]

    def take_child(self, rows: Ints, reviser: Ints) -> Ints:
        """Where the next recorded revision of each leading answer stands, (n,).

        `reviser`, (n,), are places in `EpisodeConfig.revisers`.
        """
        place = rows, self.leader[rows], reviser
        child = self.next_child[place]
        self.next_child[place] += 1
        self.children_left[place] -= 1
        return np.asarray(child)

    def finish_round(self, rows: Ints) -> None:
        """Count one serial round in each of `rows`."""
        self.rounds[rows] += 1
