"""The best hand-made rule in hindsight: the bar that a training is shown against."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from controller.baselines import Rule, RulePolicy, routers, rule_families
from controller.episodes import EpisodeConfig
from envs.table import TraceTable
from training.play import play

Floats = NDArray[np.float64]


def best_rule_utilities(
    table: TraceTable, config: EpisodeConfig, prices: Floats, difficulty: Floats | None = None
) -> Floats:
    """Highest utility that any setting of any rule has at each price, (P,).

    The setting is chosen on the very questions that it is played on, as the weights of a
    training are on its validation questions. So the bar is, if anything, too high.

    Args:
        table: questions to play.
        config: the decision process.
        prices: (P,).
        difficulty: (Q, R) log-odds for rules that read the prompt; None leaves those out.
    """
    families = rule_families(
        config.max_samples, revises=config.max_revisions > 0, verifies=config.verifies
    )
    blind = replace(config, reads_prompt=False)

    def utilities(rule: Rule, process: EpisodeConfig, known: Floats | None) -> Floats:
        policy = RulePolicy(rule)
        played = play(policy, table, process, price=1.0, difficulty=known, repeats=1)
        return np.array([played.utility(price).mean() for price in prices])

    rows = [utilities(rule, blind, None) for rules in families.values() for rule in rules]
    if difficulty is not None:
        rows += [utilities(rule, config, difficulty) for rule in routers()]
    return np.asarray(np.max(rows, axis=0))
