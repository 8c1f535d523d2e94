"""The best hand-made rule in hindsight: the bar that a training is shown against."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.granularity import Process
from controller.process.episodes import EpisodeConfig
from envs.granularity import AnyTable
from training.compare.simulate import play
from training.granularity import learning_of

Floats = NDArray[np.float64]


def best_rule_utilities(
    table: AnyTable, config: Process, prices: Floats, difficulty: Floats | None = None
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
    learning = learning_of(config)
    blind = config
    if isinstance(config, EpisodeConfig):
        blind = replace(config, reads_prompt=False)

    def utilities(rule: Any, process: Process, known: Floats | None) -> Floats:
        policy = learning.policy(rule)
        played = play(policy, table, process, price=1.0, difficulty=known, repeats=1)
        return np.array([played.utility(price).mean() for price in prices])

    seen = difficulty if learning.reads else None
    families = learning.families(config).values()
    rows = [utilities(rule, blind, seen) for rules in families for rule in rules]
    if difficulty is not None:
        rows += [utilities(rule, config, difficulty) for rule in learning.routers]
    return np.asarray(np.max(rows, axis=0))
