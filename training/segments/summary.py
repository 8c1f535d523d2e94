"""Tables and intervals of a comparison inside attempts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.play import Played
from training.segments.evaluate import ATTEMPTS, SEGMENTS, SegmentComparison
from training.summary import Bootstrap, cost_at_accuracy, leads, points, row

Floats = NDArray[np.float64]

_RESAMPLES = 200


def summarise_segments(comparison: SegmentComparison) -> dict[str, Any]:
    """Tables of a comparison, ready for JSON.

    Returns:
        `policies`: per name and price accuracy, cost and utility with 95% intervals and what
        was done; `lead`: per other policy and price, the segment controller's utility less its
        own; `equal_accuracy`: compute relative to the attempt controller's at the same
        accuracy, of the segment controller and of whichever of both is cheaper.
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


def _row(
    played: Played, price: float, bootstrap: Bootstrap, settings: Any, place: int
) -> dict[str, Any]:
    found = row(played, price, bootstrap)
    found["segments"], found["redone"] = found.pop("samples"), found.pop("revisions")
    found["forced"] = found.pop("verified")
    return found | ({"setting": settings[place]} if settings else {})


def _equal_accuracy(comparison: SegmentComparison, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Compute at equal accuracy, from what one small attempt reaches up to what both reach."""
    segments, attempts = comparison.played[SEGMENTS], comparison.played[ATTEMPTS]
    uniform = np.full(len(comparison.levels), 1 / len(comparison.levels))
    bottom = float(comparison.played["always go on"][0].right.mean())
    top = min(max(p.right.mean() for p in played) for played in (segments, attempts))

    def ratios(weights: Floats, accuracy: float) -> tuple[float, float]:
        ours, theirs = points(segments, weights), points(attempts, weights)
        base = cost_at_accuracy(*theirs, accuracy)
        both = tuple(np.concatenate(pair) for pair in zip(ours, theirs, strict=True))
        return (
            cost_at_accuracy(*ours, accuracy) / base,
            cost_at_accuracy(both[0], both[1], accuracy) / base,
        )

    rows = []
    for accuracy in np.linspace(bottom, top, 5):
        found = ratios(uniform, accuracy)
        resampled = np.array([ratios(w, accuracy) for w in bootstrap.weights[:_RESAMPLES]])
        finite = np.where(np.isfinite(resampled), resampled, np.nan)
        low, high = np.nanquantile(finite, [0.025, 0.975], axis=0)
        rows.append(
            {
                "accuracy": float(accuracy),
                "segments": found[0],
                "segments_interval": (float(low[0]), float(high[0])),
                "cheaper_of_both": found[1],
                "cheaper_interval": (float(low[1]), float(high[1])),
            }
        )
    return rows
