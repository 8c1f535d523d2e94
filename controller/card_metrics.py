"""How a checkpoint did on held-out questions: what its model card says."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from controller.errors import CheckpointError

FIGURES_VERSION = 1
FIGURES_FILE = "card.json"

MAX_FILE_BYTES = 2**20

Interval = tuple[float, float]
"""Ends of a 95% interval."""


@dataclass(frozen=True, kw_only=True)
class PricePoint:
    """How a controller did at one price; means per question.

    Attributes:
        price: accuracy per small-model token.
        accuracy, accuracy_interval: share of questions answered right.
        cost, cost_interval: in small-model tokens.
        utility, utility_interval: accuracy − price × cost.
        rule: the hand-made rule that it leads least, tuned for this price.
        lead, lead_interval: utility less that rule's.
    """

    price: float
    accuracy: float
    accuracy_interval: Interval
    cost: float
    cost_interval: Interval
    utility: float
    utility_interval: Interval
    rule: str
    lead: float
    lead_interval: Interval


@dataclass(frozen=True, kw_only=True)
class ComputeRatio:
    """A controller's compute over that of a kind of rule, at equal accuracy.

    Attributes:
        rules: the kind of rule, each tuned for each price.
        ratio, interval: geometric mean over the accuracies that both reach.
    """

    rules: str
    ratio: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One evaluation on the test split of a trace set.

    Attributes:
        traces: name of the trace set.
        traces_digest: of its content; None if it has none.
        questions: held-out questions.
        distinct: of them that ask something else, not the same in another order or wording.
        repeats: episodes per question and price.
        weights: digests of the controllers, which differ by seed alone and were pooled.
        points: by ascending price.
        ratios: one per kind of rule.
    """

    traces: str
    traces_digest: str | None
    questions: int
    distinct: int
    repeats: int
    weights: tuple[str, ...]
    points: tuple[PricePoint, ...]
    ratios: tuple[ComputeRatio, ...]


_FIGURES = TypeAdapter(Figures)


def held_out(questions: int, distinct: int) -> str:
    """How many questions figures are of.

    >>> held_out(1025, 856)
    '1025 held-out questions (856 if those that differ in order or wording are one)'
    """
    asked = f"{questions} held-out questions"
    same = f"{asked} ({distinct} if those that differ in order or wording are one)"
    return asked if distinct == questions else same


def file_digest(path: Path) -> str:
    """Digest of a checkpoint's weights, which ties figures to them."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_figures(figures: Figures, directory: Path) -> None:
    """Save figures beside its checkpoint, atomically."""
    temporary = directory / (FIGURES_FILE + ".tmp")
    entry = {"version": FIGURES_VERSION, **asdict(figures)}
    temporary.write_text(json.dumps(entry, indent=1) + "\n")
    os.replace(temporary, directory / FIGURES_FILE)


def read_figures(directory: Path) -> Figures | None:
    """The figures beside a checkpoint, or None.

    Raises:
        CheckpointError: they are damaged or of an unknown version.
    """
    path = directory / FIGURES_FILE
    if not path.exists():
        return None
    if path.stat().st_size > MAX_FILE_BYTES:
        raise CheckpointError(f"{path}: expected at most {MAX_FILE_BYTES} bytes")
    try:
        entry = json.loads(path.read_text())
        if entry["version"] != FIGURES_VERSION:
            raise ValueError(f"version {entry['version']!r} instead of {FIGURES_VERSION}")
        return _FIGURES.validate_python({"distinct": entry["questions"], **entry})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected what `allot evaluate` writes: {' '.join(str(error).split())}; run "
            "it again"
        ) from None
