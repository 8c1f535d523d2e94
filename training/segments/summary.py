"""Tables and intervals of a comparison inside attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.segments.rules import (
    SEGMENT_CASCADES,
    SEGMENT_REVISIONS,
    SEGMENT_ROUTERS,
    SEGMENT_STATIC,
    SEGMENT_STOP_RULES,
)
from training.play import Played
from training.segments.evaluate import ATTEMPTS, BOTH, SEGMENTS, SegmentComparison
from training.summary import (
    Bootstrap,
    compute_at_equal_accuracy,
    cost_at_accuracy,
    leads,
    points,
    row,
)

Floats = NDArray[np.float64]

_RESAMPLES = 200


def summarise_segments(comparison: SegmentComparison) -> dict[str, Any]:
    """Tables of a comparison, ready for JSON.

    Returns:
        `policies`: per name and price accuracy, cost and utility with 95% intervals and what
        was done; `lead`: per other policy and price, the segment controller's utility less its
        own; `equal_accuracy`: compute relative to the attempt controller's at the same
        accuracy, of the others and of whichever is cheaper.
    """
    bootstrap = Bootstrap(len(comparison.levels))
    ours = comparison.played[SEGMENTS]
    summary: dict[str, Any] = {
        "num_questions": len(comparison.levels),
        "num_seeds": len(comparison.seeds),
        "prices": comparison.prices.tolist(),
        "seeds": comparison.seeds.tolist(),
        "policies": {
            name: [
                _row(p, float(price), bootstrap, comparison.settings.get(name), i)
                for i, (p, price) in enumerate(zip(played, comparison.prices, strict=True))
            ]
            for name, played in comparison.played.items()
        },
        "lead": {
            name: leads(ours, played, comparison.prices, bootstrap)
            for name, played in comparison.played.items()
            if name != SEGMENTS
        },
    }
    if ATTEMPTS in comparison.played:
        summary["equal_accuracy"] = _equal_accuracy(comparison, bootstrap)
    return summary


def segment_headline(comparison: SegmentComparison) -> dict[str, Any]:
    """The segment controller's compute over that of each kind of policy; as in `summarise`."""
    kinds = {
        "always large": ["always large"],
        "fixed length": ["fixed length"],
        "stop rules": SEGMENT_STOP_RULES,
        "redoing segments": SEGMENT_REVISIONS,
        "cascades": SEGMENT_CASCADES,
        "prompt-only rules": SEGMENT_ROUTERS,
        "static mixtures": SEGMENT_STATIC,
        "whole attempts": [ATTEMPTS],
        BOTH: [BOTH],
    }
    return compute_at_equal_accuracy(
        comparison.played,
        SEGMENTS,
        kinds,
        single="always go on",
        bootstrap=Bootstrap(len(comparison.levels)),
    )


def _row(
    played: Played, price: float, bootstrap: Bootstrap, settings: Any, place: int
) -> dict[str, Any]:
    found = row(played, price, bootstrap)
    found["segments"], found["redone"] = found.pop("samples"), found.pop("revisions")
    found["forced"] = found.pop("verified")
    return found | ({"setting": settings[place]} if settings else {})


def _equal_accuracy(comparison: SegmentComparison, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Compute at equal accuracy, from what one small attempt reaches up to what all reach."""
    kinds = {name: [name] for name in (SEGMENTS, BOTH) if name in comparison.played}
    kinds["whichever is cheaper"] = [*kinds, ATTEMPTS]
    reached = [max(p.right.mean() for p in comparison.played[n]) for n in (SEGMENTS, ATTEMPTS)]
    bottom = float(comparison.played["always go on"][0].right.mean())
    uniform = np.full(len(comparison.levels), 1 / len(comparison.levels))

    def ratio(names: Sequence[str], weights: Floats, accuracy: float) -> float:
        base = cost_at_accuracy(*points(comparison.played[ATTEMPTS], weights), accuracy)
        found = [points(comparison.played[name], weights) for name in names]
        accuracies, costs = (np.concatenate(parts) for parts in zip(*found, strict=True))
        cost = cost_at_accuracy(accuracies, costs, accuracy)
        return cost / base if np.isfinite([cost, base]).all() else np.nan

    rows = []
    for accuracy in np.linspace(bottom, min(reached), 5):
        compute: dict[str, dict[str, Any]] = {}
        for kind, names in kinds.items():
            found = ratio(names, uniform, accuracy)
            if np.isnan(found):
                compute[kind] = {"ratio": None, "interval": None}
                continue
            resampled = [ratio(names, w, accuracy) for w in bootstrap.weights[:_RESAMPLES]]
            low, high = np.nanquantile([found, *resampled], [0.025, 0.975])
            compute[kind] = {"ratio": found, "interval": (float(low), float(high))}
        rows.append({"accuracy": float(accuracy), "compute": compute})
    return rows
