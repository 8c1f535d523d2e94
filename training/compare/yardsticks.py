"""What controllers are held against beside tuned rules.

A selector of plans and a bandit with a budget learn from questions. Oracles know more than can be
seen, a rule in hindsight was chosen on the very questions that it is played on, attempts at
temperature 0 are what repairing sampled ones is up against, and a promise is what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.backends.base import Request, run_now
from controller.checkpoint import Checkpoint
from controller.errors import ConfigError
from controller.granularity import Process
from controller.policy.pricing import Pricing
from controller.policy.rules import CASCADES, ROUTERS, SELECTOR, STATIC, STOP_RULES
from controller.process.actions import ActionKind
from controller.process.cost import CostModel
from controller.process.episodes import EpisodeConfig
from controller.process.lockstep import Floats, chance
from controller.process.terms import Terms
from controller.process.types import Question
from controller.segments.rules import KINDS as SEGMENT_KINDS
from envs.granularity import AnyTable, AnyTraces
from envs.questions.grader import KindGrader
from envs.traces.table import TraceTable
from training.compare.results import KeptAccuracy, KeptCost, Promises
from training.compare.simulate import Played, outcomes_of, play_checkpoint, play_rules
from training.granularity import learning_of
from training.learn.forests import grow

GREEDY = ("greedy small attempt", "greedy large attempt")

KINDS = {
    "static": (*STATIC, "self-consistency-", *SEGMENT_KINDS["static mixtures"], *GREEDY),
    "stop": (*STOP_RULES, *SEGMENT_KINDS["stop rules"]),
    "cascade": (*CASCADES, *SEGMENT_KINDS["cascades"]),
    "prompt": (*ROUTERS, SELECTOR, *SEGMENT_KINDS["prompt-only rules"]),
    "verify": ("verified best of ", "revise-n", *SEGMENT_KINDS["redoing segments"]),
}
"""Names of rules by what they look at; a number may follow one."""

ACCURACIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CONFIDENCE = 0.9

_TARGETS = 5
_IN_FLIGHT = 16
"""Questions answered side by side; their costs are known together."""


def kind_of(rule: str) -> str:
    """One of `KINDS`, or "other"."""
    numbered = rule.rstrip("n0123456789")
    return next((kind for kind, names in KINDS.items() if {rule, numbered} & {*names}), "other")


def clairvoyant(
    table: TraceTable, config: EpisodeConfig, price: float, *, repeats: int = 8
) -> Played:
    """What one could do who sees in advance which attempts are right; out of reach.

    It samples up to the first right attempt, or escalates to the top likewise, or gives up,
    whichever is worth most in each episode.
    """
    rng, q = np.random.default_rng(0), len(table)
    best, tokens, cost, rounds = np.zeros((4, repeats, q))
    actions = np.zeros((repeats, q, 4))
    for rung, most in enumerate(config.caps.tolist()):
        stream = table.stream[:, rung]  # (Q, S)
        for repeat in range(repeats):
            order = rng.random(stream.shape) + 2 * (stream < 0)
            places = np.take_along_axis(stream, order.argsort(1), 1)[:, :most]
            hits = table.right(places)
            written = np.cumsum(table.attempts["completion_tokens"][places] * (places >= 0), 1)
            processed = config.prompt_share[rung] * table.prompt_tokens[:, rung, None] + written
            first, found = hits.argmax(1), hits.any(1)
            spent = processed[np.arange(q), first]
            utility = found - price * config.cost.weights[rung] * spent
            better = found & (utility > best[repeat])
            best[repeat, better] = utility[better]
            tokens[repeat, better] = spent[better]
            cost[repeat, better] = config.cost.weights[rung] * spent[better]
            rounds[repeat, better] = first[better] + 1
            actions[repeat, better] = 0
            actions[repeat, better, 2 if rung else 0] = first[better] + 1
    means = {"tokens": tokens, "cost": cost, "rounds": rounds, "actions": actions}
    return Played(
        right=(best > 0).mean(0), **{name: column.mean(0) for name, column in means.items()}
    )


def best_rule_utilities(
    table: AnyTable, config: Process, prices: Floats, difficulty: Floats | None = None
) -> Floats:
    """Highest utility of any setting of any rule at each of P prices, (P,): if anything, too high.

    It is chosen on the questions that are played. Rules that read prompts need their difficulty,
    (Q, R).
    """
    learning = learning_of(config)
    blind = replace(config, reads_prompt=False) if isinstance(config, EpisodeConfig) else config
    rules, known = learning.rules(config), difficulty if learning.reads else None
    found = play_rules(rules, table, blind, difficulty=known, repeats=1)
    if difficulty is not None:
        routers = learning.routers(config)
        found += play_rules(routers, table, config, difficulty=difficulty, repeats=1)
    return np.array([max(p.utility(price).mean() for p in found) for price in prices])


def play_greedy(
    traces: AnyTraces, questions: Sequence[Question], cost: CostModel
) -> dict[str, Played]:
    """One attempt at each question by each model that the traces name, at temperature 0."""
    from controller.backends.local.backend import TransformersBackend, load_model

    paths = {name: entry.get("path") for name, entry in traces.manifest["models"].items()}
    if not all(paths.values()):
        raise ConfigError(
            f"greedy: expected traces of local models, found no place of any of {[*paths]}"
        )
    models = [load_model(traces.path / path, rung) for rung, path in enumerate(paths.values())]
    longest = int(traces.models()[0].max_new_tokens or 1)
    backend = TransformersBackend(models, temperature=0, max_new_tokens=longest)
    grader, played = KindGrader(), {}
    for rung, name in enumerate(GREEDY[: len(models)]):
        action = ActionKind.ESCALATE if rung else ActionKind.SAMPLE
        requests = [Request(question=q, action=action, rung=rung) for q in questions]
        attempts = run_now(backend.attempts(requests))
        tokens = np.array([a.prompt_tokens + a.completion_tokens for a in attempts], np.float64)
        right = [grader.is_right(q, a.answer) for q, a in zip(questions, attempts, strict=True)]
        made = np.zeros((len(questions), 4))
        made[:, 2 * rung] = 1
        played[name] = Played(
            right=np.array(right, np.float64),
            cost=cost.weights[rung] * tokens,
            tokens=tokens,
            rounds=np.ones(len(questions)),
            actions=made,
        )
    return played


def kept_promises(checkpoint: Checkpoint, test: TraceTable) -> Promises | None:
    """What becomes of mean costs and accuracies asked for; None without a calibration."""
    if checkpoint.calibration is None:
        return None
    return Promises(
        mean_cost=tuple(_kept_costs(checkpoint, test, *checkpoint.calibration.cost_range())),
        accuracy=tuple(_kept_accuracies(checkpoint, test)),
    )


def _kept_costs(
    checkpoint: Checkpoint, test: TraceTable, low: float, high: float
) -> Iterator[KeptCost]:
    """The test questions streamed once for each of some mean costs, evenly spaced on a log scale.

    Nothing for a controller that spends the same at every price.
    """
    if high <= max(low, 1.0):
        return
    order = np.random.default_rng(0).permutation(len(test))
    for asked in np.geomspace(max(low, 1.0), high, _TARGETS + 2)[1:-1].tolist():
        target, costs = Terms(mean_cost=asked), []
        pricing = Pricing(checkpoint, target)
        for chunk in np.array_split(order, -(-len(order) // _IN_FLIGHT)):
            price = pricing.price_for(Terms())
            played = play_checkpoint(checkpoint, test.take(chunk), price, repeats=1)
            costs += played.cost.tolist()
            for cost in played.cost.tolist():
                pricing.count(Terms(), cost)
        fixed = play_checkpoint(checkpoint, test, pricing.price_for(target), repeats=1)
        yield KeptCost(
            asked=asked,
            paid=float(np.mean(costs)),
            deviation=float(np.mean(costs) / asked - 1),
            fixed=float(fixed.cost.mean() / asked - 1),
        )


def _kept_accuracies(checkpoint: Checkpoint, test: TraceTable) -> Iterator[KeptAccuracy]:
    """Those of `ACCURACIES` that the calibration can promise."""
    for asked in ACCURACIES:
        try:
            price = Pricing(checkpoint).price_for(Terms(accuracy=asked, confidence=CONFIDENCE))
        except ConfigError:
            return
        played = play_checkpoint(checkpoint, test, price, repeats=8)
        yield KeptAccuracy(asked=asked, price=price, found=float(played.right.mean()))


_LEAVES = (3, 10, 30, 100)
"""Least questions in a leaf, to choose from."""
_TARGET_PRICES = 4
_EXPLAINED = 0.95
"""Share of the variance of utilities at these prices that trees are grown by."""
_PICKING_LEAF, _LEAST_GAIN = 5, 1e-4
"""Least questions in a leaf where plans are picked, and what a plan has to add to mean utility."""


def select_plans(
    known: NDArray[np.float32], plans: Sequence[Played], new: NDArray[np.float32], prices: Floats
) -> tuple[NDArray[np.int64], Floats]:
    """For each price and new question the plan of the highest expected utility.

    Of Q known questions, features (Q, F), there is how each plan did; new ones are (Q', F).

    A forest of extremely randomised trees (Geurts et al. 2006) tells what is right and what is
    spent by every plan. The same trees serve all prices: they are grown by the principal components
    of the plans' utilities. How large their leaves are is chosen for each price by the utility of
    what is picked out of bag.

    Returns:
        (P, Q') positions in `plans`, and (P,) the utility of what is picked out of bag.
    """
    right, cost, targets = _targets(plans, prices)
    known, new = (np.ascontiguousarray(x, np.float32) for x in (known, new))
    outcomes, rows = np.hstack([right, cost]), np.arange(len(known))
    choice, expected = np.zeros((len(prices), len(new)), np.int64), np.full(len(prices), -np.inf)
    for leaf in _LEAVES:
        held, told = _outcomes(known, new, targets, outcomes, leaf)
        for p, price in enumerate(prices):
            best, picked = ((x[0] - price * x[1]).argmax(1) for x in (held, told))
            utility = (right[rows, best] - price * cost[rows, best]).mean()
            if utility > expected[p]:
                expected[p], choice[p] = utility, picked
    return choice, expected


def pick_plans(
    known: NDArray[np.float32], plans: Sequence[Played], prices: Floats, most: int
) -> list[int]:
    """Positions of few plans that a selector does nearly as well with, the best one first.

    Arguments are those of `select_plans`; what each adds is told out of bag.
    """
    right, cost, targets = _targets(plans, prices)
    known = np.ascontiguousarray(known, np.float32)
    held, _ = _outcomes(known, known[:1], targets, np.hstack([right, cost]), _PICKING_LEAF)
    expected, found = (x - prices[:, None, None] * y for x, y in (held, (right, cost)))
    # Nothing done is worth nothing; (P, Q) each.
    hoped, gained = np.zeros((2, *expected.shape[:2]))
    picked: list[int] = []
    while len(picked) < most:
        better = expected > hoped[..., None]  # (P, Q, K)
        totals = np.where(better, found, gained[..., None]).mean((0, 1))
        best = int(totals.argmax())
        if totals[best] < gained.mean() + _LEAST_GAIN:
            break
        picked.append(best)
        hoped, gained = (
            np.where(better[..., best], of[..., best], so_far)
            for of, so_far in ((expected, hoped), (found, gained))
        )
    return picked


def _targets(plans: Sequence[Played], prices: Floats) -> tuple[Floats, Floats, Floats]:
    """What plans got right and spent, (Q, K) each, and what trees are grown by."""
    right, cost = outcomes_of(plans)
    some = prices[:: -(-len(prices) // _TARGET_PRICES)]
    return right, cost, _components(np.hstack([_scaled(right - price * cost) for price in some]))


def _scaled(columns: Floats) -> Floats:
    """Columns (Q, K), their means 0 and their variances 1 in all."""
    columns = columns - columns.mean(0)
    return columns / (np.linalg.norm(columns) or 1.0)


def _components(columns: Floats) -> Floats:
    """The first principal components of columns (Q, K) of mean 0, up to `_EXPLAINED`."""
    variances, directions = np.linalg.eigh(columns.T @ columns)  # ascending
    left_out = np.cumsum(variances) <= (1 - _EXPLAINED) * variances.sum()
    return columns @ directions[:, min(left_out.sum(), len(left_out) - 1) :]


def _outcomes(
    known: NDArray[np.float32],
    new: NDArray[np.float32],
    targets: Floats,
    outcomes: Floats,
    leaf: int,
) -> tuple[Any, Any]:
    """What trees tell of `outcomes`, (Q, 2K): of known questions out of bag, and of new ones.

    Returns:
        Of both the first K columns and the last K; of new questions the sum over all trees.
    """
    from scipy.sparse import csr_array

    held, times = np.zeros(outcomes.shape), np.zeros(len(known))
    told = np.zeros((len(new), outcomes.shape[1]))
    for tree, shown in grow(known, targets, min_samples_leaf=leaf, max_features=0.5):
        leaves, count = tree.apply(known, check_input=False), tree.tree_.node_count
        place = (shown.astype(np.float64), (leaves, np.arange(len(known))))
        sums = csr_array(place, shape=(count, len(known))) @ outcomes
        means = sums / np.maximum(np.bincount(leaves, shown, count), 1)[:, None]
        told += means[tree.apply(new, check_input=False)]
        held[shown == 0] += means[leaves[shown == 0]]
        times += shown == 0
    held /= np.maximum(times, 1)[:, None]
    return np.split(held, 2, 1), np.split(told, 2, 1)


NUM_BUDGETS = 16
_TRIALS = 6_000
"""Questions that it learns from, over again where there are fewer."""
_OPTIMISM = 0.1
"""Standard errors by which the chance of an arm that is little known is raised."""
_PACE = 0.05
"""Step of the pacer: share of what a question costs too much that goes into the price."""


@dataclass(frozen=True, kw_only=True)
class PacedBandit:
    """What was learnt about which arm to ask, for each of B budgets, from arms that were asked.

    Source: ParetoBandit (arXiv 2604.00136), a LinUCB (Li et al. 2010, arXiv 1003.0146) over models
    whose costs count at a price that a pacer moves until they come to a budget. Left out is what it
    has for models that change.

    Attributes:
        weights: (B, R, F) from a question's features to the chance that an arm is right.
        prices: (B,) of a unit of cost, as the pacer left them.
        costs: (R,) mean cost of each arm.
    """

    weights: Floats
    prices: Floats
    costs: Floats

    def choose(self, features: Floats) -> NDArray[np.int64]:
        """The arm of highest worth for each budget and question, -1 where none has any, (B, n)."""
        chance = np.einsum("brf,nf->bnr", self.weights, features)
        worth = chance - (self.prices[:, None] * self.costs)[:, None]  # (B, n, R)
        return np.where(worth.max(-1) > 0, worth.argmax(-1), -1)


def features_of(difficulty: Floats) -> Floats:
    """Chances of the arms as the prompt tells them, and 1, (n, R + 1), of log-odds (n, R)."""
    chances = chance(np.nan_to_num(difficulty))
    return np.column_stack([chances, np.ones(len(chances))])


def learn_paced(features: Floats, right: Floats, cost: Floats) -> PacedBandit:
    """Learn by asking one arm about each question, under budgets from a part of the cheapest up.

    Features are (Q, F), chances that an attempt by each arm is `right` and its `cost` (Q, R); a
    draw of the former is seen. Arms may be free.
    """
    rng, means = np.random.default_rng(0), cost.mean(0)
    dearest = means.max() or 1.0
    cheapest = means.min(initial=dearest, where=means > 0)
    budgets = np.geomspace(cheapest / 8, dearest, NUM_BUDGETS)  # (B,)
    b, (num, width), arms = len(budgets), features.shape, cost.shape[1]
    inverse = np.broadcast_to(np.eye(width), (b, arms, width, width)).copy()
    earned, prices, rows = np.zeros((b, arms, width)), np.zeros(b), np.arange(b)
    kept: list[Floats] = []
    for trial in range(_TRIALS):
        if trial % num == 0:
            order = rng.permutation(num)
        q = order[trial % num]
        x = features[q]
        known = inverse @ x  # (B, R, F)
        chance = np.einsum("brf,brf->br", known, earned)
        bonus = _OPTIMISM * np.sqrt(np.einsum("brf,f->br", known, x))
        worth = chance + bonus - prices[:, None] * means
        arm = worth.argmax(1)  # (B,)
        asks = worth[rows, arm] > 0
        reward = rng.random() < right[q, arm]
        spent = np.where(asks, cost[q, arm], 0.0)
        towards = known[rows, arm]  # (B, F)
        # Sherman and Morrison: the inverse with one more question.
        step = towards[:, :, None] * towards[:, None] / (1 + towards @ x)[:, None, None]
        inverse[rows, arm] -= step * asks[:, None, None]
        earned[rows, arm] += (reward & asks)[:, None] * x
        prices = np.maximum(prices + _PACE * (spent / budgets - 1) / dearest, 0.0)
        if trial >= _TRIALS // 2:
            kept.append(prices)
    weights = np.einsum("brfg,brg->brf", inverse, earned)
    return PacedBandit(weights=weights, prices=np.mean(kept, 0), costs=means)
