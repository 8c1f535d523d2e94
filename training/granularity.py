"""The learned side of both granularities: tables to learn from, and rules to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from controller.errors import ConfigError, TraceFormatError
from controller.granularity import Process
from controller.policy import rules
from controller.policy.difficulty import Difficulty
from controller.policy.readouts import Readout
from controller.policy.rules import routers, rule_families
from controller.process.episodes import EpisodeConfig
from controller.segments import rules as segment_rules
from controller.segments.episodes import SegmentConfig
from controller.segments.rules import segment_rule_families
from envs.granularity import AnyTable, AnyTraces
from envs.reward import ROUND_PRICES, LogUniform
from envs.segments import SegmentTable, SegmentTraces, build_trees
from envs.traces.derive import (
    cost_model,
    derive_config,
    derive_segment_config,
    known_rates,
    priced_model,
)
from envs.traces.format import TraceSet
from envs.traces.table import TraceTable, build_table
from training.learn.config import TrainConfig
from training.learn.difficulty import Outcomes, attempt_outcomes


@dataclass(frozen=True, kw_only=True)
class Learning:
    """Training and comparison at one granularity.

    Attributes:
        split: from a set and settings to questions to learn from, to watch a training on and
            to tell how good it is.
        derive: from the first of these, the set, settings and the read-out of difficulty to
            the decision process.
        outcomes: of the attempts at the questions of a table.
        value: read-out of the worth of what an attempt has so far, that a set came with.
        round_prices: to train for; None for none.
        families: of rules, by name, for a decision process.
        routers: rules that read the difficulty, likewise; no family of `families`.
        reads: whether those of `families` do, too.
        tally: names of `Played.actions`.
        single: name of the rule that makes one attempt by the small model.
        kinds: names of families by kind; those of a comparison's headline.
    """

    split: Callable[[Any, TrainConfig], tuple[Any, Any, Any]]
    derive: Callable[[Any, Any, TrainConfig, Difficulty | None], Any]
    outcomes: Callable[[Any], Outcomes]
    value: Callable[[Any], Readout | None]
    round_prices: LogUniform | None
    families: Callable[[Any], Mapping[str, Sequence[Any]]]
    routers: Callable[[Any], Sequence[Any]]
    reads: bool
    tally: tuple[str, ...]
    single: str
    kinds: Mapping[str, Sequence[str]]

    def rules(self, process: Process) -> list[Any]:
        """Those of all families."""
        return [rule for family in self.families(process).values() for rule in family]


def _refuse(config: TrainConfig, names: Sequence[str], where: str) -> None:
    """Raises ConfigError for settings that the other granularity alone follows."""
    for name in names:
        if (value := getattr(config, name)) != (default := getattr(TrainConfig(), name)):
            raise ConfigError(f"{name}: expected {default or 'none'} {where}, found {value}")


def _split_attempts(
    traces: TraceSet, config: TrainConfig
) -> tuple[TraceTable, TraceTable, TraceTable]:
    """The validation split is halved; its first half is learnt from as well, unless it chooses."""
    _refuse(config, ("probes", "escalate"), "about whole attempts")
    config.check_models(traces.model_rows)
    ladder = [model.name for model in traces.models(config.ladder)]
    held = build_table(traces, ["validation"], ladder)
    order = np.random.default_rng(0).permutation(len(held))
    first, fresh = (held.take(half) for half in np.split(order, [len(held) // 2]))
    if not len(first):
        raise TraceFormatError(
            f"{traces.path}: expected at least 2 validation questions that each of {ladder} has "
            f"tried, found {len(held)}"
        )
    also = () if config.patience else first.question_ids
    train = build_table(traces, ["train"], ladder, also=also)
    return train, first if config.patience else fresh, fresh


def _derive_attempts(
    train: TraceTable, traces: TraceSet, config: TrainConfig, difficulty: Difficulty | None
) -> EpisodeConfig:
    models, unit = traces.models(config.ladder), config.unit
    process = derive_config(
        train,
        models,
        traces.arms(config.ladder),
        cost=cost_model(models, config.token_costs)
        if unit == "flops"
        else priced_model(models, known_rates(traces, models, unit, config.rates), unit),
        sample_widths=config.sample_widths,
        max_samples=config.max_samples,
    )
    reads_prompt = difficulty is not None and not difficulty.is_free
    return replace(
        process,
        reads_prompt=reads_prompt,
        own_actions=config.own_actions,
        # Who starts from another controller sees what that one sees.
        own_features=tuple(
            dict.fromkeys((*(() if config.start else process.own_features), *config.own_features))
        ),
    )


def _split_segments(
    traces: SegmentTraces, config: TrainConfig
) -> tuple[SegmentTable, SegmentTable, SegmentTable]:
    """Nothing is chosen by the validation split: one outcome a question is too noisy for that."""
    of_attempts = (
        "patience",
        "own_actions",
        "own_features",
        "unit",
        "sample_widths",
        "max_samples",
    )
    _refuse(config, of_attempts, "inside attempts")
    config.check_models(traces.manifest["models"])
    train, held = (build_trees(traces, [s], config.ladder) for s in ("train", "validation"))
    return train, held, held


def _derive_segments(
    train: SegmentTable, traces: SegmentTraces, config: TrainConfig, _: Difficulty | None
) -> SegmentConfig:
    return derive_segment_config(
        train,
        traces,
        config.ladder,
        token_costs=config.token_costs,
        probes=config.probes,
        escalates=config.escalate,
    )


ATTEMPTS = Learning(
    split=_split_attempts,
    derive=_derive_attempts,
    outcomes=attempt_outcomes,
    value=lambda traces: None,
    round_prices=ROUND_PRICES,
    families=rule_families,
    routers=routers,
    reads=False,
    tally=("samples", "revisions", "escalations", "verified"),
    single="always small",
    kinds={
        "always large": ["always large"],
        "stop rules": rules.STOP_RULES,
        "cascades": rules.CASCADES,
        "prompt-only rules": rules.ROUTERS,
        rules.SELECTOR: [rules.SELECTOR],
        "static mixtures": rules.STATIC,
    },
)
SEGMENTS = Learning(
    split=_split_segments,
    derive=_derive_segments,
    outcomes=lambda table: Outcomes(table.success_rates),
    value=lambda traces: traces.value,
    round_prices=None,
    families=lambda process: segment_rule_families(max(process.draws)),
    routers=lambda process: (),
    reads=True,
    tally=("segments", "redone", "escalations", "forced"),
    single="always go on",
    kinds=segment_rules.KINDS,
)


def learning_of(about: AnyTraces | AnyTable | Process) -> Learning:
    """The granularity of a set, of its table or of a decision process."""
    inside = isinstance(about, SegmentTraces | SegmentTable | SegmentConfig)
    return SEGMENTS if inside else ATTEMPTS
