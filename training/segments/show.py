"""Shows how an attempt came about, segment by segment."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from controller.segments.checkpoint import load_segment_checkpoint
from controller.segments.loop import SegmentOutcome
from controller.types import Question
from training.show import print_answer
from training.threads import limit_threads


def answer_by_segments(
    console: Console,
    questions: Sequence[Question],
    checkpoint: Path,
    price: float | None,
    budget: float | None,
    as_json: bool,
) -> None:
    """Answer questions with one attempt each, showing each decision.

    Args:
        console: to print to.
        questions: to answer.
        checkpoint: of a controller inside attempts.
        price: accuracy per small-model token; the middle of the trained range when None.
        budget: hard cap on cost per question; None for no cap.
        as_json: print a line of JSON per question instead.
    """
    controller = load_segment_checkpoint(checkpoint).controller()
    limit_threads(max(model.parameters or 0 for model in controller.backend.models))
    for question in questions:
        outcome = controller.answer(question, price=price, budget=budget)
        if as_json:
            print(json.dumps(segments_json(question, outcome)))
        else:
            print_segments(console, question, outcome)


def print_segments(console: Console, question: Question, outcome: SegmentOutcome) -> None:
    """One line per decision, with the numbers that gave the reason."""
    console.print(f"\n[bold]{question.text.strip()}[/bold]", highlight=False)
    table = Table("action", "brought", "probabilities", "least logprob", "value", "cost", box=None)
    for decision in outcome.decisions:
        segment = decision.segment
        table.add_row(
            str(decision.action),
            segment.text.strip() if segment else "",
            " ".join(f"{name} {p:.2f}" for name, p in decision.probabilities.items() if p >= 0.005),
            f"{segment.min_logprob:.2f}" if segment and segment.min_logprob is not None else "",
            f"{decision.value:.3f}",
            f"{decision.cost:.0f}",
        )
    console.print(table)
    print_answer(console, question, outcome.answer, outcome.cost, outcome.price)


def segments_json(question: Question, outcome: SegmentOutcome) -> dict[str, Any]:
    """An outcome as JSON."""
    return {
        "question": question.text,
        "answer": outcome.answer,
        "text": outcome.text,
        "price": outcome.price,
        "cost": outcome.cost,
        "actions": dict(Counter(str(d.action) for d in outcome.decisions)),
        "usage": {model: asdict(usage) for model, usage in outcome.usage.items()},
        "decisions": [
            {
                "action": str(decision.action),
                "probabilities": decision.probabilities,
                "value": decision.value,
                "cost": decision.cost,
                "observation": decision.observation,
                "text": decision.segment.text if decision.segment else None,
            }
            for decision in outcome.decisions
        ],
    }
