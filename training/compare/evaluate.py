"""Play controllers and hand-made rules on held-out questions.

Rules are tuned for each price on the train and validation splits; the test split is
looked at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from controller.checkpoint import AnyCheckpoint, load_any
from controller.errors import ConfigError
from controller.granularity import Process
from controller.policy.rules import (
    SELECTOR,
    STATIC,
    AlwaysLarge,
    AnyRule,
    On,
    Panel,
    SelfConsistency,
    VerifiedBestOfN,
    routers,
    rule_families,
)
from controller.process.cost import TOKENS
from controller.process.episodes import EpisodeConfig
from controller.process.lockstep import Floats, Ints
from controller.segments.episodes import SegmentConfig
from envs.granularity import AnyTable, read_traces, table_of
from envs.reward import LogUniform
from envs.traces.table import TraceTable
from training.compare.results import CONTROLLER, Promises
from training.compare.simulate import (
    Played,
    outcomes_of,
    outlook,
    play_checkpoint,
    play_rules,
    pool,
    select,
)
from training.compare.yardsticks import (
    clairvoyant,
    features_of,
    kept_promises,
    learn_paced,
    select_plans,
)
from training.granularity import Learning, learning_of
from training.learn.difficulty import (
    Fitted,
    Readings,
    attempt_outcomes,
    fit_difficulty,
    fit_readings,
    neighbours,
    stack,
)
from training.learn.floor import Rulebook
from training.record.cluster import Cluster, map_on

_TUNING_EPISODES = 10_000
"""Enough to tell settings of a rule apart; more only takes longer."""
_MANY_SETTINGS = 100
"""Of one rule; more, as menus of several arms have, are screened on a sample first."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that was played on the test split.

    Attributes:
        learning: granularity of the controllers.
        prices: (P,).
        played: by policy name, one entry per price.
        settings: by rule family, the setting tuned for each price.
        expected: by rule family, its utility at each price on the questions that it was tuned on,
            (P,).
        oracles: as `played`, for what no policy can do.
        levels: (Q,) difficulty of each question; 0 when unknown.
        promises: mean costs and accuracies that the first controller was asked for, and what
            became of them.
        seeds: (S, P) mean utility of each controller.
        others: names in `played` of other controllers.
    """

    learning: Learning
    prices: Floats
    played: dict[str, list[Played]] = field(default_factory=dict)
    settings: dict[str, list[str]] = field(default_factory=dict)
    expected: dict[str, Floats] = field(default_factory=dict)
    oracles: dict[str, list[Played]] = field(default_factory=dict)
    levels: Ints
    promises: Promises | None = None
    seeds: Floats
    others: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Other:
    """Controllers that differ by seed alone, and traces of the same test questions as others'."""

    checkpoints: Sequence[AnyCheckpoint]
    table: AnyTable

    def unit(self, first: AnyCheckpoint) -> float:
        """What their unit of cost is in that of another controller.

        Raises:
            ConfigError: one counts something else than the other, or a size is unknown.
        """
        units = {_unit(checkpoint, first) for checkpoint in self.checkpoints}
        if len(units) > 1:
            raise ConfigError(
                "controllers that are pooled: expected one unit of cost, found units of "
                f"{', '.join(f'{unit:g}' for unit in sorted(units))} of the first one's"
            )
        return units.pop()

    def play(
        self, question_ids: Sequence[str], price: float, repeats: int, unit: float = 1.0
    ) -> Played:
        """How they do at these questions, in this order; price and costs are in others' unit.

        Raises:
            ConfigError: some were not recorded.
        """
        position = {name: q for q, name in enumerate(self.table.question_ids)}
        missing = [name for name in question_ids if name not in position]
        if missing:
            raise ConfigError(
                f"beside: expected traces of the same test questions, missing {len(missing)}, for "
                f"example {missing[0]}"
            )
        table = self.table.take(np.array([position[name] for name in question_ids]))
        found = pool(
            [play_checkpoint(c, table, price * unit, repeats=repeats) for c in self.checkpoints]
        )
        return replace(found, cost=found.cost * unit)


def _unit(other: AnyCheckpoint, first: AnyCheckpoint) -> float:
    """A controller's unit of cost in that of another."""
    ours, theirs = (checkpoint.config.cost.currency for checkpoint in (first, other))
    own, its = (checkpoint.models[0] for checkpoint in (first, other))
    if ours.name == theirs.name != TOKENS.name:
        return float(theirs.size / ours.size)
    if ours == theirs:
        if own.parameters and its.parameters:
            return its.parameters / own.parameters
        if own.name == its.name:
            return 1.0
    found = [
        f"tokens of {model.name}" if currency == TOKENS else currency.name
        for currency, model in ((ours, own), (theirs, its))
    ]
    raise ConfigError(
        "beside: expected costs of one currency, dollars, seconds or operations of models whose "
        f"sizes are known, found {found[0]} and {found[1]}; train both with the same --unit, or "
        "say `parameters` in trace.json"
    )


def read_others(entries: Sequence[str]) -> dict[str, Other]:
    """Other controllers by name, from NAME=CONTROLLER[,...]@TRACES each.

    Raises:
        ConfigError: an entry is of another form, or its name is taken.
    """
    others: dict[str, Other] = {}
    for entry in entries:
        name, _, places = entry.partition("=")
        if name == CONTROLLER or name in others:
            raise ConfigError(f"beside: expected another name, found {name!r}, which is taken")
        controllers, _, traces = places.rpartition("@")
        if not (name and controllers and traces):
            raise ConfigError(f"beside: expected NAME=CONTROLLER[,...]@TRACES, found {entry!r}")
        checkpoints = [load_any(path) for path in controllers.split(",")]
        models = [model.name for model in checkpoints[0].models]
        table = table_of(read_traces(traces), ["test"], models)
        others[name] = Other(checkpoints=checkpoints, table=table)
    return others


def compare(
    checkpoints: Sequence[AnyCheckpoint],
    tuning: AnyTable,
    test: AnyTable,
    *,
    others: Mapping[str, Other] | None = None,
    fixed: Mapping[str, Played] | None = None,
    num_prices: int = 12,
    repeats: int = 8,
    read: Readings | None = None,
    cluster: Cluster | None = None,
) -> Comparison:
    """Play controllers and tuned rules on the test split.

    Args:
        checkpoints: controllers that differ by seed alone; their episodes are pooled.
        tuning: questions that rules are tuned on; an arm's judgements as `cross_calibrated`.
        test: held-out questions.
        others: controllers to compare with, of either granularity, by name; the prices are
            then from the range of the first of them.
        fixed: what was played on the test questions and is the same at every price, by name.
        num_prices: P, evenly spaced on a log scale over the trained range.
        repeats: episodes per question.
        read: `fit_readings` of the tuning questions, where that has been done.
        cluster: plays the controllers side by side; this process alone if None.
    """
    first, others = checkpoints[0], others or {}
    learning = learning_of(test)
    Other(checkpoints=checkpoints, table=test).unit(first)  # or ConfigError
    units = {name: other.unit(first) for name, other in others.items()}
    ranges = ((o.checkpoints[0].price_range, units[name]) for name, o in others.items())
    (low, high), unit = next(ranges, (first.price_range, 1.0))
    prices = LogUniform(low=low / unit, high=high / unit).grid(num_prices)
    by_checkpoint = map_on(cluster, play_prices, checkpoints, test, prices, repeats)
    seeds = [
        [p.utility(price).mean() for p, price in zip(played, prices, strict=True)]
        for played in by_checkpoint
    ]
    found = Comparison(
        learning=learning,
        prices=prices,
        levels=test.levels,
        seeds=np.array(seeds),
        others=tuple(others),
    )
    contest = _Contest(first, tuning, test, found, repeats)
    found.played[CONTROLLER] = [pool(played) for played in zip(*by_checkpoint, strict=True)]
    config = contest.blind
    known = contest.known(read) if learning.reads else None
    for family, rules in learning.families(first.config).items():
        contest.add(family, rules, config, known)
    contest.give_up()
    if isinstance(test, TraceTable):
        contest.add_routers(read)
        seeing = [clairvoyant(test, config, p, repeats=repeats) for p in prices]
        oracles = {"informed oracle": contest.informed(config), "clairvoyant oracle": seeing}
        found = replace(found, oracles=oracles, promises=kept_promises(first, test))
    found.played.update({name: [once] * num_prices for name, once in (fixed or {}).items()})
    for name, other in others.items():
        found.played[name] = [
            other.play(test.question_ids, p, repeats, units[name]) for p in prices
        ]
    return found


def play_prices(
    checkpoint: AnyCheckpoint, test: AnyTable, prices: Floats, repeats: int
) -> list[Played]:
    """How a controller does at each of some prices."""
    return [play_checkpoint(checkpoint, test, price, repeats=repeats) for price in prices]


class _Contest:
    """Rules tuned on one table and played on another, price by price, for a comparison."""

    def __init__(
        self, checkpoint: AnyCheckpoint, tuning: Any, test: Any, found: Comparison, repeats: int
    ) -> None:
        self.config, self.difficulty = checkpoint.config, checkpoint.difficulty
        self.tuning, self.test = tuning, test
        self.prices, self.repeats = found.prices, repeats
        self.tuning_repeats = max(1, min(repeats, _TUNING_EPISODES // len(tuning)))
        self.played, self.settings, self.expected = found.played, found.settings, found.expected
        self._plans_played: dict[str, tuple[Played, Played]] = {}

    @property
    def blind(self) -> Any:
        """The decision process of those that do not read the prompt."""
        if isinstance(self.config, SegmentConfig):
            return self.config
        return replace(self.config, reads_prompt=False)

    def known(self, read: Readings | None) -> tuple[Floats, Floats] | None:
        """Difficulty of tuning and test questions, or None; see `fit_difficulty`.

        The controller's own read-out has seen most of the tuning questions: settings that were
        tuned by it would trust it too much.
        """
        if self.difficulty is None:
            return None
        outcomes = learning_of(self.tuning).outcomes(self.tuning)
        return self._on_both(fit_difficulty(self.tuning, outcomes, read))

    def give_up(self) -> None:
        """Let giving up cost nothing: who gives up need not so much as read the question."""
        nothing = np.zeros(len(self.test.levels))
        given_up = [replace(p, cost=nothing, tokens=nothing) for p in self.played["give up"]]
        self.played["give up"] = given_up

    def _play(
        self, table: Any, rules: Sequence[Any], config: Process, difficulty: Floats | None
    ) -> list[Played]:
        repeats = self.tuning_repeats if table is self.tuning else self.repeats
        return play_rules(rules, table, config, difficulty=difficulty, repeats=repeats)

    def _means(self, played: Sequence[Played]) -> Floats:
        """Mean utility of each policy at each price, (P, policies)."""
        return np.array([[p.utility(price).mean() for p in played] for price in self.prices])

    def add(
        self,
        family: str,
        rules: Sequence[Any],
        config: Process,
        difficulty: tuple[Floats, Floats] | None = None,
    ) -> None:
        """Play settings of a rule, the best one for each price; difficulty is of both tables."""
        tuning, test = difficulty or (None, None)
        if len(rules) > _MANY_SETTINGS:
            book = Rulebook(process=config, prices=self.prices, rules=rules)
            rules = book.shortlist(self.tuning, tuning).rules
        tuned = self._play(self.tuning, rules, config, tuning)
        utility = self._means(tuned)  # (P, rules)
        best, self.expected[family] = utility.argmax(1).tolist(), utility.max(1)
        chosen = sorted(set(best))
        played = self._play(self.test, [rules[i] for i in chosen], config, test)
        tested = dict(zip(chosen, played, strict=True))
        self._plans_played |= {f"{family}/{rules[i]}": (tuned[i], tested[i]) for i in tested}
        self.played[family] = [tested[i] for i in best]
        self.settings[family] = [str(rules[i]) for i in best]

    def add_routers(self, read: Readings | None) -> None:
        """Play the rules that decide by the question alone, if it was recorded.

        Those that read the small model's prompt state, if there is one, pay for it.
        """
        outcomes = attempt_outcomes(self.tuning)
        read = fit_readings(self.tuning, outcomes) if read is None else read
        known = self._on_both(read.line or next(iter(read.wording), None))
        if known is None:
            return
        paying = replace(self.config, reads_prompt=read.line is not None)
        told = {
            "logistic router": known,
            "network router": self._on_both(read.network),
            "kNN router": neighbours(self.tuning, self.test),
        }
        for family, difficulty in told.items():
            if difficulty is not None:
                self.add(family, routers(self.config), paying, difficulty)
        blind = replace(self.config, reads_prompt=False)
        wording = self._on_both(stack(read.wording, outcomes))
        self.add("wording router", routers(self.config), blind, wording)
        if isinstance(self.config, EpisodeConfig) and self.config.is_menu:
            self._add_bandit(paying, known)
        self.played["difficulty bins"] = self._lookup(blind, wording or known)
        self._add_selector()

    def _add_bandit(self, config: EpisodeConfig, known: tuple[Floats, Floats]) -> None:
        """Let a bandit that reads what the logistic router reads pick an arm for each question."""
        arms = [Panel((name,), 1) for name in config.arm_names]
        give_up = On(SelfConsistency(0), *config.arm_names[:1] * 2)
        plans: list[Any] = [*arms, give_up]  # the last one is also number -1
        tuned = self._play(self.tuning, plans, config, known[0])
        tested = self._play(self.test, plans, config, known[1])
        features = [features_of(difficulty[:, : len(arms)]) for difficulty in known]
        bandit = learn_paced(features[0], *outcomes_of(tuned[:-1]))
        by_budget = [
            [select(played, choice % len(plans)) for choice in bandit.choose(of)]
            for of, played in zip(features, (tuned, tested), strict=True)
        ]
        utility = self._means(by_budget[0])  # (P, budgets)
        self.expected["LinUCB router"] = utility.max(1)
        self.played["LinUCB router"] = [by_budget[1][i] for i in utility.argmax(1)]

    def _add_selector(self) -> None:
        """Let the wording pick one of all rules that were tuned for any of the prices."""
        features = [table.features("words") for table in (self.tuning, self.test)]
        plans = list(self._plans_played.values())
        choice, self.expected[SELECTOR] = select_plans(
            features[0], [p for p, _ in plans], features[1], self.prices
        )
        self.played[SELECTOR] = [select([p for _, p in plans], row) for row in choice]

    def _on_both(self, fitted: Fitted | None) -> tuple[Floats, Floats] | None:
        """Difficulty of both by what was fitted on the tuning questions."""
        new = None if fitted is None else outlook(fitted[0], self.test)
        return None if fitted is None or new is None else (fitted[1], new)

    def _plans(self, config: EpisodeConfig) -> list[AnyRule]:
        """What can be done about a question without looking at its attempts."""
        if config.is_menu:
            families = rule_families(config)
            return [rule for name in STATIC for rule in families.get(name, ())]
        counts = [n for n in range(config.max_samples + 1) if n <= 4 or n % 4 == 0]
        plans: list[AnyRule] = [AlwaysLarge(), *(SelfConsistency(n) for n in counts)]
        if config.verifies:
            plans += [VerifiedBestOfN(n) for n in counts if n > 1]
        return plans

    def _lookup(self, config: EpisodeConfig, difficulty: tuple[Floats, Floats]) -> list[Played]:
        """The best plan for each fifth of the questions by difficulty.

        Source: Snell et al. 2024 (arXiv 2408.03314), section 3.2.
        """
        plans = self._plans(config)
        tuned = self._play(self.tuning, plans, config, difficulty[0])
        tested = self._play(self.test, plans, config, difficulty[1])
        edges = np.quantile(difficulty[0][:, 0], [0.2, 0.4, 0.6, 0.8])
        known, new = (np.searchsorted(edges, d[:, 0]) for d in difficulty)
        played = []
        for price in self.prices:
            utility = np.array([p.utility(price) for p in tuned])  # (plans, Q)
            # Where many are equally hard, a fifth may have none to tune on.
            bins = [known == b if (known == b).any() else known >= 0 for b in range(5)]
            by_bin = [utility[:, members].mean(1).argmax() for members in bins]
            played.append(select(tested, np.array(by_bin)[new]))
        return played

    def informed(self, config: EpisodeConfig) -> list[Played]:
        """The best plan for each question, by what it brings on that very question."""
        tested = self._play(self.test, self._plans(config), config, None)
        return [
            select(tested, np.array([p.utility(price) for p in tested]).argmax(0))
            for price in self.prices
        ]
