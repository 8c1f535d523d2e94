"""The command `allot answer`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from controller.backends.places import NamedModels
from controller.bundled import bundled
from controller.errors import ConfigError
from controller.process.terms import Terms
from training.cli.flags import flag, with_flags
from training.cli.options import Json, Seed


@dataclass(frozen=True, kw_only=True)
class AnswerConfig:
    """What answers may cost, and who makes and chooses them.

    Attributes:
        price: accuracy per small-model token; default: mid-range.
        worth: instead: what a right answer is worth, in dollars where the controller counts these,
            else in small-model tokens.
        controller: checkpoint; default: the bundled one, or that of a bundled menu.
        models: that make attempts.
        examples: draw so many new bundled questions.
        mean_cost: instead of a price: small-model tokens per question.
        accuracy: instead of a price: share to be answered right.
        round_price: accuracy per serial round.
        budget: hard cap on cost per question.
        segments: decide inside one attempt, segment by segment.
        segment_controller: checkpoint that does.
        segment_price: decide about whole attempts, each written under it at this price.
    """

    price: float | None = None
    worth: float | None = None
    controller: Path | None = None
    models: NamedModels = field(default_factory=NamedModels)
    examples: int = 0
    mean_cost: float | None = None
    accuracy: float | None = None
    round_price: float = 0.0
    budget: float | None = None
    segments: bool = flag(False, "--segments")
    segment_controller: Path = bundled("segments/controller")
    segment_price: float | None = None

    @property
    def checkpoint(self) -> Path:
        """Where the controller of whole attempts lies."""
        return self.controller or self.models.controller

    def __post_init__(self) -> None:
        _ = Terms(price=self.price, worth=self.worth)
        if self.models.all and self.segments:
            raise ConfigError(
                "small, large: expected neither with --segments, whose checkpoint says where its "
                f"models lie, found {list(self.models.all)}"
            )


@with_flags(AnswerConfig)
def answer(
    questions: Annotated[list[str] | None, typer.Argument(help="Questions.")] = None,
    *,
    config: AnswerConfig,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Answer questions with live models, showing each decision."""
    from controller.checkpoint import load_any
    from controller.loop import Controller
    from controller.process.types import Question
    from training.learn.threads import limit_threads
    from training.report.show import new_questions, outcome_json, print_outcome

    asked = [
        Question(question_id=f"asked/{i}", text=text) for i, text in enumerate(questions or [])
    ] + (new_questions(config.examples, seed) if config.examples else [])
    if not asked:
        raise ConfigError('questions: expected at least one, as in allot answer "3 * 4 ="')
    checkpoint = load_any(config.segment_controller if config.segments else config.checkpoint)
    if config.segment_price is not None:
        under = str(config.segment_controller.resolve()), config.segment_price
        checkpoint = replace(checkpoint, segment_controller=under)
    loaded = Controller.load(
        checkpoint,
        models=config.models.all,
        mean_cost=config.mean_cost,
        accuracy=config.accuracy,
    )
    console = Console()
    with loaded:
        limit_threads(max(model.parameters or 0 for model in loaded.backend.models))
        for question in asked:
            outcome = loaded.answer(
                question,
                price=config.price,
                worth=config.worth,
                round_price=config.round_price,
                budget=config.budget,
            )
            if as_json:
                print(json.dumps(outcome_json(question, outcome)))
            else:
                print_outcome(console, question, outcome, checkpoint.config.cost.dollars)
