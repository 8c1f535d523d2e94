"""Model cards: what a checkpoint is, how good it is, and what it is not good for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from math import nan
from pathlib import Path
from typing import Annotated, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from pydantic import BeforeValidator, TypeAdapter

from controller.checkpoint import AnyCheckpoint
from controller.errors import CheckpointError
from controller.files import write_json
from controller.granularity import ATTEMPTS
from controller.process.cost import TOKENS
from controller.process.episodes import EpisodeConfig

FRONTIER_FILE = "frontier.png"
FIGURES_VERSION = 1
FIGURES_FILE = "card.json"
MAX_FIGURES_BYTES = 2**20

TAGS = ("allot", "reinforcement-learning", "test-time-compute")

Number = Annotated[float, BeforeValidator(lambda value: nan if value is None else value)]
"""JSON has no NaN: null stands for one."""

Interval = tuple[Number, Number]
"""Ends of a 95% interval: paired bootstrap over questions, unless said otherwise."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How a controller or a rule did at one price; means per question.

    Attributes:
        price: accuracy per small-model token.
        accuracy, accuracy_interval: share of questions answered right.
        cost, cost_interval: in small-model tokens.
        utility, utility_interval: accuracy − price × cost.
    """

    price: float
    accuracy: float
    accuracy_interval: Interval
    cost: float
    cost_interval: Interval
    utility: float
    utility_interval: Interval


@dataclass(frozen=True, kw_only=True)
class PricePoint(Measured):
    """A controller at one price.

    Attributes:
        rule: the hand-made rule that it leads least, tuned for this price.
        lead, lead_interval: utility less that rule's.
    """

    rule: str
    lead: float
    lead_interval: Interval


@dataclass(frozen=True, kw_only=True)
class ComputeRatio:
    """A controller's compute over that of a kind of rule: geometric mean over accuracies."""

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
    write_json(directory / FIGURES_FILE, {"version": FIGURES_VERSION, **asdict(figures)})


def read_figures(directory: Path) -> Figures | None:
    """The figures beside a checkpoint, or None.

    Raises:
        CheckpointError: they are damaged or of an unknown version.
    """
    path = directory / FIGURES_FILE
    if not path.exists():
        return None
    if path.stat().st_size > MAX_FIGURES_BYTES:
        raise CheckpointError(f"{path}: expected at most {MAX_FIGURES_BYTES} bytes")
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


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""A table in Markdown.

    >>> print(markdown_table(("a", "b"), [("1", "x|y")]))
    | a | b |
    | --- | --- |
    | 1 | x\|y |
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(content: object) -> str:
    return " ".join(str(content).split()).replace("|", "\\|")


def model_card(checkpoint: AnyCheckpoint, figures: Figures | None, **metadata: Any) -> ModelCard:
    """The card of a checkpoint, with figures of these very weights if there are some.

    `metadata` are more fields of `huggingface_hub.ModelCardData`, such as `license`, or other
    values for those that are set here.
    """
    ladder, directory = " -> ".join(model.name for model in checkpoint.models), checkpoint.path
    data = {
        "library_name": "allot",
        "pipeline_tag": "reinforcement-learning",
        "tags": list(TAGS),
        "model_name": f"compute controller for {ladder}",
        "eval_results": _eval_results(figures) if figures else None,
        **metadata,
    }
    drawn = directory is not None and (directory / FRONTIER_FILE).exists()
    low, high = checkpoint.price_range
    whole = checkpoint.granularity.name == ATTEMPTS.name
    return ModelCard.from_template(
        ModelCardData(**data),
        template_path=str(Path(__file__).with_name("card.md.jinja")),
        checkpoint=checkpoint,
        ladder=ladder,
        step="attempt" if whole else "segment of an attempt",
        middle_price=(low * high) ** 0.5,
        actions=_actions(checkpoint),
        cell=_cell,
        tokens=TOKENS,
        figures=figures,
        held_out=held_out,
        picture=FRONTIER_FILE if drawn else None,
        training={"config": {}, **checkpoint.training},
    )


def _actions(checkpoint: AnyCheckpoint) -> list[tuple[str, str, str]]:
    """Actions that there are attempts for: name, meaning, attempts per question."""
    config, meanings, rows = checkpoint.config, checkpoint.granularity.meanings, []
    for action in config.actions:
        most = action.kind.spec.limit(config) if isinstance(config, EpisodeConfig) else None
        if most != 0:
            wide = f", {action.width} side by side" if action.width > 1 else ""
            meaning = meanings[str(replace(action, width=1))]
            rows.append((str(action), meaning + wide, "" if most is None else str(most)))
    return rows


def _eval_results(figures: Figures) -> list[EvalResult]:
    """Accuracy, cost and utility at the least, the middle and the greatest price."""
    points = figures.points
    chosen = sorted({0, len(points) // 2, len(points) - 1})
    return [
        EvalResult(
            task_type="reinforcement-learning",
            task_name="answering at a price",
            dataset_type=figures.traces,
            dataset_name=f"trace set {figures.traces}",
            dataset_split="test",
            dataset_revision=figures.traces_digest,
            metric_type=quantity,
            metric_name=f"{quantity} at price {point.price:.1e}",
            metric_value=round(getattr(point, quantity), 6),
            metric_args={
                "price": point.price,
                "interval": [round(end, 6) for end in getattr(point, f"{quantity}_interval")],
            },
        )
        for point in (points[i] for i in chosen)
        for quantity in ("accuracy", "cost", "utility")
    ]
