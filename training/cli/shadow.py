"""The command `allot shadow`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from controller.backends.places import NamedModels
from controller.bundled import bundled
from controller.errors import ConfigError
from training.cli.flags import with_flags
from training.cli.options import Json


@dataclass(frozen=True, kw_only=True)
class ShadowConfig:
    """Which controller is tried, and what it may spend.

    Attributes:
        controller: checkpoint.
        models: of the log; asked where it has no attempt.
        spend: small-model tokens that new attempts may cost, all together.
        references: what is right, by question_id or question.
        grader: MODULE:FUNCTION of question and answer, instead of references.
    """

    controller: Path = bundled("controller")
    models: NamedModels = field(default_factory=NamedModels)
    spend: float = 0.0
    references: Path | None = None
    grader: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.spend < float("inf"):
            raise ConfigError(f"spend: expected 0 or more, found {self.spend}")
        if self.references is not None and self.grader is not None:
            raise ConfigError("references, grader: expected at most one of them")


@with_flags(ShadowConfig)
def shadow(
    log: Annotated[Path, typer.Argument(help="Of allot serve --log FILE --log-texts.")],
    *,
    config: ShadowConfig,
    as_json: Json = False,
) -> None:
    """Say what a controller would have saved and lost on questions that were served."""
    from controller.answers import answer_kind, imported, is_right
    from controller.backends.base import Backend
    from controller.checkpoint import load_checkpoint
    from controller.loading import load_backend
    from controller.loop import Controller
    from controller.process.types import Question
    from envs.traces.served import read_episodes, read_references
    from training.compare.shadow import LoggedFirst
    from training.compare.shadow import shadow as replay
    from training.report.show import print_shadow

    checkpoint = load_checkpoint(config.controller)
    kind = answer_kind(checkpoint.answers)
    known = {} if config.references is None else read_references(config.references)
    grade = None if config.grader is None else imported("grader", config.grader)

    def right(question: Question, answer: str | None) -> bool | None:
        if grade is not None:
            return answer is not None and bool(grade(question.text, answer))
        row = known.get(question.question_id, known.get(question.text))
        return None if row is None else is_right(kind, answer, str(row["reference"]))

    rows = read_episodes(log)
    backend = load_backend(checkpoint, config.models.all)
    assert isinstance(backend, Backend)
    logged = LoggedFirst(backend, checkpoint.config.cost, config.spend)
    with Controller.load(checkpoint, logged) as controller:
        found = replay(rows, controller, right)
    if as_json:
        print(json.dumps(asdict(found), indent=1))
    else:
        print_shadow(Console(), found)
