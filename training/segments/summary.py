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
_ACCURACIES = 5
_CHEAPER = "whichever is cheaper"


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
    """Compute at equal accuracy, from what one small attempt reaches up to what all reach.

    Resampled questions are harder or easier, so each resample has accuracies of its own.
    """
    kinds = {name: [name] for name in (SEGMENTS, BOTH) if name in comparison.played}
    kinds[_CHEAPER] = [*kinds, ATTEMPTS]

    def compare(weights: Floats) -> tuple[Floats, Floats]:
        """Accuracies, (A,), and ratios, (kinds, A)."""
        reached = {name: points(comparison.played[name], weights) for name in kinds[_CHEAPER]}
        bottom = weights @ comparison.played["always go on"][0].right
        top = min(right.max() for right, _ in reached.values())
        accuracies = np.linspace(bottom, top, _ACCURACIES)

        def costs(names: Sequence[str]) -> Floats:
            known = [reached[name] for name in names]
            right, cost = (np.concatenate(parts) for parts in zip(*known, strict=True))
            return np.array([cost_at_accuracy(right, cost, accuracy) for accuracy in accuracies])

        return accuracies, np.stack([costs(names) for names in kinds.values()]) / costs([ATTEMPTS])

    accuracies, found = compare(np.full(len(comparison.levels), 1 / len(comparison.levels)))
    resampled = [compare(weights)[1] for weights in bootstrap.weights[:_RESAMPLES]]
    low, high = np.quantile([found, *resampled], [0.025, 0.975], axis=0)
    figures = np.stack([found, low, high], axis=-1)  # (kinds, A, 3)
    return [
        {
            "accuracy": float(accuracy),
            "compute": {
                kind: {"ratio": float(ratio), "interval": (float(least), float(most))}
                for kind, (ratio, least, most) in zip(kinds, at, strict=True)
            },
        }
        for accuracy, at in zip(accuracies, figures.swapaxes(0, 1), strict=True)
    ]
