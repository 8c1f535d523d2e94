"""What no policy can reach: bounds that know more than can be seen."""

from __future__ import annotations

import numpy as np

from controller.process.episodes import EpisodeConfig
from envs.traces.table import TraceTable
from training.compare.simulate import Played


def clairvoyant(
    table: TraceTable, config: EpisodeConfig, price: float, *, repeats: int = 8, seed: int = 0
) -> Played:
    """What one could do who sees in advance which attempts are right; out of reach.

    It samples up to the first right attempt, or escalates to the top likewise, or gives up,
    whichever is worth most in each episode.
    """
    rng = np.random.default_rng(seed)
    q, top = len(table), config.num_rungs - 1
    best = np.zeros((repeats, q))
    right, cost, tokens, rounds = np.zeros((4, repeats, q))
    actions = np.zeros((repeats, q, 4))
    for rung, most in {0: config.max_samples, top: config.max_escalations}.items():
        stream = table.stream[:, rung]  # (Q, S)
        for repeat in range(repeats):
            order = rng.random(stream.shape) + 2 * (stream < 0)
            places = np.take_along_axis(stream, order.argsort(1), 1)[:, :most]
            known = places >= 0
            hits = table.right(places)
            processed = table.prompt_tokens[:, rung, None] + np.cumsum(
                table.completion_tokens[places] * known, 1
            )
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
