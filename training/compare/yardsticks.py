"""What controllers are held against beside tuned rules.

Oracles know more than can be seen, a rule in hindsight was chosen on the very questions that it is
played on, attempts at temperature 0 are what repairing sampled ones is up against, and a promise is
what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from controller.backends.base import Request, run_now
from controller.checkpoint import Checkpoint
from controller.errors import ConfigError
from controller.granularity import Process
from controller.policy.pricing import Pricing
from controller.policy.rules import CASCADES, ROUTERS, SELECTOR, STATIC, STOP_RULES
from controller.process.actions import ActionKind
from controller.process.cost import CostModel
from controller.process.episodes import EpisodeConfig
from controller.process.lockstep import Floats
from controller.process.terms import Terms
from controller.process.types import Question
from controller.segments.rules import KINDS as SEGMENT_KINDS
from envs.granularity import AnyTable, AnyTraces
from envs.questions.grader import KindGrader
from envs.traces.table import TraceTable
from training.compare.results import KeptAccuracy, KeptCost, Promises
from training.compare.simulate import Played, play_checkpoint, play_rules
from training.granularity import learning_of

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
    table: TraceTable, config: EpisodeConfig, price: float, *, repeats: int = 8, seed: int = 0
) -> Played:
    """What one could do who sees in advance which attempts are right; out of reach.

    It samples up to the first right attempt, or escalates to the top likewise, or gives up,
    whichever is worth most in each episode.
    """
    rng = np.random.default_rng(seed)
    q = len(table)
    best = np.zeros((repeats, q))
    right, cost, tokens, rounds = np.zeros((4, repeats, q))
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
            right[repeat, better] = 1.0
            tokens[repeat, better] = spent[better]
            cost[repeat, better] = config.cost.weights[rung] * spent[better]
            rounds[repeat, better] = first[better] + 1
            actions[repeat, better] = 0
            actions[repeat, better, 2 if rung else 0] = first[better] + 1
    return Played(
        right=right.mean(0),
        cost=cost.mean(0),
        tokens=tokens.mean(0),
        rounds=rounds.mean(0),
        actions=actions.mean(0),
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

    entries = list(traces.manifest["models"].values())
    models = [load_model(traces.path / e["path"], rung) for rung, e in enumerate(entries)]
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
