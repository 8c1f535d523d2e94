"""Whether a mean cost and an accuracy that were asked for are kept on held-out questions."""

from __future__ import annotations

import numpy as np

from controller.checkpoint import Checkpoint
from controller.errors import ConfigError
from controller.policy.pricing import Pricing
from controller.process.terms import Terms
from envs.traces.table import TraceTable
from training.compare.simulate import play_checkpoint

_IN_FLIGHT = 16
"""Questions answered side by side; their costs are known together."""

ACCURACIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CONFIDENCE = 0.9


def kept_costs(
    checkpoint: Checkpoint, test: TraceTable, *, num_targets: int = 5, seed: int = 0
) -> list[dict[str, float]]:
    """Ask for mean costs over a controller's range, and stream the test questions once for each.

    Args:
        checkpoint: with a calibration.
        test: held-out questions.
        num_targets: evenly spaced on a log scale, between the least and the greatest.
        seed: of the order of the questions.

    Returns:
        Per target `asked`, mean cost `paid`, `deviation` of that from what was asked, and the
        same for the `fixed` price that brings the target on the calibration's questions. Nothing
        for a controller that spends the same at every price.
    """
    assert checkpoint.calibration is not None
    low, high = checkpoint.calibration.cost_range()
    if high <= max(low, 1.0):
        return []
    targets = np.geomspace(max(low, 1.0), high, num_targets + 2)[1:-1]
    order = np.random.default_rng(seed).permutation(len(test))
    rows = []
    for asked in targets.tolist():
        target, costs = Terms(mean_cost=asked), []
        pricing = Pricing(checkpoint, target)
        for chunk in np.array_split(order, -(-len(order) // _IN_FLIGHT)):
            price = pricing.price_for(Terms())
            played = play_checkpoint(checkpoint, test.take(chunk), price, repeats=1)
            costs += played.cost.tolist()
            for cost in played.cost.tolist():
                pricing.count(Terms(), cost)
        fixed = play_checkpoint(checkpoint, test, pricing.price_for(target), repeats=1)
        rows.append(
            {
                "asked": asked,
                "paid": float(np.mean(costs)),
                "deviation": float(np.mean(costs) / asked - 1),
                "fixed": float(fixed.cost.mean() / asked - 1),
            }
        )
    return rows


def kept_accuracies(checkpoint: Checkpoint, test: TraceTable) -> list[dict[str, float]]:
    """Ask for those of `ACCURACIES` that the calibration can promise.

    Returns:
        Per target `asked`, `price` and the accuracy `found` on the test questions.
    """
    rows = []
    for asked in ACCURACIES:
        try:
            price = Pricing(checkpoint).price_for(Terms(accuracy=asked, confidence=CONFIDENCE))
        except ConfigError:
            break
        played = play_checkpoint(checkpoint, test, price, repeats=8)
        rows.append({"asked": asked, "price": price, "found": float(played.right.mean())})
    return rows
