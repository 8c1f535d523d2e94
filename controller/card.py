"""Model cards: what a checkpoint is, how good it is, and what it is not good for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from controller.card_metrics import Figures, PricePoint, held_out
from controller.checkpoint import AnyCheckpoint
from controller.granularity import ATTEMPTS
from controller.process.actions import Action
from controller.process.episodes import EpisodeConfig

FRONTIER_FILE = "frontier.png"

TAGS = ("allot", "reinforcement-learning", "test-time-compute")


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""A table in Markdown.

    >>> print(markdown_table(("a", "b"), [("1", "x|y")]))
    | a | b |
    | --- | --- |
    | 1 | x\|y |
    """
    lines = [head, ["---"] * len(head), *rows]
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def model_card(checkpoint: AnyCheckpoint, figures: Figures | None, **metadata: Any) -> ModelCard:
    """The card of a checkpoint.

    Args:
        checkpoint: to describe.
        figures: of these very weights; None if there is none.
        metadata: more fields of `huggingface_hub.ModelCardData`, such as `license`, or other
            values for those that are set here.
    """
    ladder = " -> ".join(model.name for model in checkpoint.models)
    data = {
        "library_name": "allot",
        "pipeline_tag": "reinforcement-learning",
        "tags": list(TAGS),
        "model_name": f"compute controller for {ladder}",
        "eval_results": _eval_results(figures) if figures else None,
        **metadata,
    }
    sections = (
        _summary(checkpoint, ladder),
        _usage(checkpoint),
        _actions(checkpoint),
        *_floor(checkpoint),
        _models(checkpoint),
        _figures(figures, checkpoint.path) if figures else _UNKNOWN,
        _training(checkpoint),
        _limits(checkpoint, figures),
    )
    return ModelCard(f"---\n{ModelCardData(**data).to_yaml()}\n---\n\n" + "\n\n".join(sections))


def _summary(checkpoint: AnyCheckpoint, ladder: str) -> str:
    low, high = checkpoint.price_range
    step = "attempt" if checkpoint.granularity.name == ATTEMPTS.name else "segment of an attempt"
    return f"""# Compute controller for {ladder}

A policy that decides, question by question, how much compute these models spend. After every
{step} it looks at what has come out so far and chooses what to do next; its reward is
accuracy − price × cost. The price is an input: this one checkpoint serves every price from
{low:.1e} to {high:.1e} (accuracy per token of the small model). It holds the policy alone, not
the models."""


def _usage(checkpoint: AnyCheckpoint) -> str:
    paths = ", ".join(f'"PATH OR HUB ID OF {model.name}"' for model in checkpoint.models)
    adapters = ", ".join(f'"{a.name}": "PATH"' for a in checkpoint.models[0].adapters)
    low, high = checkpoint.price_range
    return f"""## Use

```python
from controller.loop import Controller

controller = Controller.from_pretrained(
    "PATH OR HUB ID OF THIS CHECKPOINT",
    models=[{paths}],{f"{chr(10)}    adapters={{{adapters}}}," if adapters else ""}
)
outcome = controller.answer("QUESTION", price={(low * high) ** 0.5:.1e})
print(outcome.answer, outcome.cost)
```

Models whose weights differ from those below are refused."""


def _actions(checkpoint: AnyCheckpoint) -> str:
    config, meanings = checkpoint.config, checkpoint.granularity.meanings

    def most(action: Action) -> int | None:
        return action.kind.spec.limit(config) if isinstance(config, EpisodeConfig) else None

    def row(action: Action) -> tuple[str, str, str]:
        limit = most(action)
        wide = f", {action.width} side by side" if action.width > 1 else ""
        meaning = meanings[str(replace(action, width=1))]
        return str(action), meaning + wide, "" if limit is None else str(limit)

    allowed = [a for a in config.actions if most(a) != 0]
    table = markdown_table(("action", "what it does", "at most"), map(row, allowed))
    return f"## What it can do\n\n{table}\n\nLimits are attempts per question."


def _floor(checkpoint: AnyCheckpoint) -> list[str]:
    floor = checkpoint.floor
    if floor is None or not floor.share:
        return []
    places = zip(floor.prices, floor.rules, floor.leads, strict=True)
    rows = [(f"{p:.1e}", str(rule or "the policy"), f"{lead:+.3f}") for p, rule, lead in places]
    head = ("price", "who decides", "lead of the policy")
    return [
        f"""## Safe floor

A hand-made rule decides where questions that were not learnt from do not show the policy ahead of
the best one.

{markdown_table(head, rows)}"""
    ]


def _models(checkpoint: AnyCheckpoint) -> str:
    def row(rung: int) -> tuple[str, ...]:
        model = checkpoint.models[rung]
        size = f"{model.parameters:,.0f}" if model.parameters else "unknown"
        adapters = ", ".join(f"{a.name} `{a.digest}`" for a in model.adapters) or "none"
        weight = f"{checkpoint.config.cost.weights[rung]:.3g}"
        return model.name, size, weight, f"`{model.digest}`" if model.digest else "any", adapters

    head = ("model", "parameters", "cost of a token", "digest of the weights", "adapters")
    return f"## Models\n\n{markdown_table(head, map(row, range(len(checkpoint.models))))}"


_UNKNOWN = """## How good it is

Not measured yet. `allot evaluate DIRECTORY` does so and writes the result here."""


def _share(value: float) -> str:
    return f"{value:.1%}"


def _interval(values: tuple[float, float], spelling: str = "{:.1%}") -> str:
    return " to ".join(spelling.format(value) for value in values)


def _figures(figures: Figures, directory: Path | None) -> str:
    def row(point: PricePoint) -> tuple[str, ...]:
        return (
            f"{point.price:.1e}",
            f"{_share(point.accuracy)} ({_interval(point.accuracy_interval)})",
            f"{point.cost:.0f} ({_interval(point.cost_interval, '{:.0f}')})",
            f"{point.utility:.3f}",
            point.rule,
            f"{point.lead:+.3f} ({_interval(point.lead_interval, '{:+.3f}')})",
        )

    head = ("price", "accuracy", "cost", "utility", "best rule", "lead over it")
    by_price = markdown_table(head, map(row, figures.points))
    ratios = markdown_table(
        ("at equal accuracy with", "compute used", "95% interval"),
        ((r.rules, f"{r.ratio:.0%}", _interval(r.interval, "{:.0%}")) for r in figures.ratios),
    )
    trainings = len(figures.weights)
    pooled = f", {trainings} controllers that differ by seed pooled" if trainings > 1 else ""
    digest = f" `{figures.traces_digest[:16]}`" if figures.traces_digest else ""
    drawn = directory is not None and (directory / FRONTIER_FILE).exists()
    picture = f"![accuracy against compute]({FRONTIER_FILE})\n\n" if drawn else ""
    return f"""## How good it is

{held_out(figures.questions, figures.distinct)}, the test split of trace set
`{figures.traces}`{digest}, {figures.repeats} episodes each{pooled}. Cost is in tokens of
the small model, utility is accuracy − price × cost. In brackets: 95% intervals, paired
bootstrap over questions. Each rule was tuned for each price on the other splits.

{picture}{by_price}

{ratios}

Compute at equal accuracy: this controller's over that of the best rule of each kind, mixtures
of settings included."""


def _training(checkpoint: AnyCheckpoint) -> str:
    notes = checkpoint.training
    lines = [
        f"- {label}: {notes[name]}"
        for name, label in (
            ("questions", "questions of the train split"),
            ("traces", "trace set"),
            ("finished", "finished"),
        )
        if name in notes
    ]
    settings = notes.get("config")
    if isinstance(settings, dict) and "total_steps" in settings:
        lines.append(f"- decisions: {settings['total_steps']:,}, seed {settings['seed']}")
    if "validation_utility" in notes:
        lines.append(f"- mean utility on the validation split: {notes['validation_utility']:.4f}")
    readout = checkpoint.difficulty
    state = "the small model's prompt state and the shape of the wording"
    source = "the wording" if readout and readout.is_free else state
    lines.append(f"- estimates difficulty from: {source if readout else 'nothing'}")
    return "## Training\n\nPPO with masked actions on recorded attempts.\n\n" + "\n".join(lines)


def _limits(checkpoint: AnyCheckpoint, figures: Figures | None) -> str:
    low, high = checkpoint.price_range
    lines = [
        f"- Prices outside {low:.1e} to {high:.1e} are outside what it has seen.",
        "- Other questions than those of its trace set may cost more and come out wrong more "
        "often; it does not notice.",
        "- Attempts are compared by their final answers: the same number, or the same text. "
        "Where no answer can be read, there is nothing to vote on.",
        "- It chooses among answers and makes none: where the models are always wrong, so is it.",
    ]
    if checkpoint.calibration is not None:
        lines.append(
            f"- A target accuracy is kept with the given confidence for questions of the same "
            f"kind as the {checkpoint.calibration.questions} that it was calibrated on."
        )
    if figures is None:
        lines.append("- Nobody has measured it on held-out questions.")
    return "## Limits\n\n" + "\n".join(lines)


def _eval_results(figures: Figures) -> list[EvalResult]:
    """Accuracy, cost and utility at the least, the middle and the greatest price."""
    points = figures.points
    chosen = sorted({0, len(points) // 2, len(points) - 1})

    def result(point: PricePoint, quantity: str) -> EvalResult:
        return EvalResult(
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

    return [result(points[i], q) for i in chosen for q in ("accuracy", "cost", "utility")]
