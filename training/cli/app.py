"""The command `allot`."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from controller.bundled import bundled
from controller.errors import AllotError, ConfigError
from training.cli.evaluate import evaluate
from training.cli.options import Json, LargeModels, Seed, SmallModel
from training.cli.read import read
from training.cli.record import record
from training.cli.report import dashboard, explain, report
from training.cli.serve import key, named_models, serve
from training.cli.traces import evaluate_models, import_, verify
from training.cli.train import dashed, train

app = typer.Typer(
    help="Learns how much inference compute each question deserves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="The recorded language models.", no_args_is_help=True)
app.add_typer(models_app, name="models")
models_app.command("evaluate")(evaluate_models)
app.command("train", context_settings={"token_normalize_func": dashed})(train)
for command in (record, serve, key, read, verify):
    app.command()(command)
app.command("import")(import_)
for command in (evaluate, report, dashboard, explain):
    app.command()(command)

_INTERRUPTED = 130
"""Exit code that typer makes of a KeyboardInterrupt."""


@app.command()
def answer(
    questions: Annotated[list[str] | None, typer.Argument(help="Questions.")] = None,
    price: Annotated[
        float | None, typer.Option(help="Accuracy per small-model token; default: mid-range.")
    ] = None,
    controller: Annotated[
        Path, typer.Option(help="Checkpoint.", show_default="the bundled one")
    ] = bundled("controller"),
    small: SmallModel = None,
    large: LargeModels = None,
    examples: Annotated[int, typer.Option(help="Draw so many new bundled questions.")] = 0,
    mean_cost: Annotated[
        float | None, typer.Option(help="Instead of a price: small-model tokens per question.")
    ] = None,
    accuracy: Annotated[
        float | None, typer.Option(help="Instead of a price: share to be answered right.")
    ] = None,
    round_price: Annotated[float, typer.Option(help="Accuracy per serial round.")] = 0.0,
    budget: Annotated[float | None, typer.Option(help="Hard cap on cost per question.")] = None,
    segments: Annotated[
        bool, typer.Option("--segments", help="Decide inside one attempt, segment by segment.")
    ] = False,
    segment_controller: Annotated[
        Path, typer.Option(help="Checkpoint that does.", show_default="the bundled one")
    ] = bundled("segments/controller"),
    segment_price: Annotated[
        float | None,
        typer.Option(help="Decide about whole attempts, each written under it at this price."),
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Answer questions with live models, showing each decision."""
    models = named_models(small, large)
    if models and segments:
        raise ConfigError(
            "small, large: expected neither with --segments, whose checkpoint says where its "
            f"models lie, found {list(models)}"
        )
    from controller.checkpoint import load_any
    from controller.loop import Controller
    from controller.process.types import Question
    from training.learn.threads import limit_threads
    from training.report.show import new_questions, outcome_json, print_outcome

    asked = [
        Question(question_id=f"asked/{i}", text=text) for i, text in enumerate(questions or [])
    ] + (new_questions(examples, seed) if examples else [])
    if not asked:
        raise ConfigError('questions: expected at least one, as in allot answer "3 * 4 ="')
    checkpoint = load_any(segment_controller if segments else controller)
    if segment_price is not None:
        under = str(segment_controller.resolve()), segment_price
        checkpoint = replace(checkpoint, segment_controller=under)
    loaded = Controller.load(checkpoint, models=models, mean_cost=mean_cost, accuracy=accuracy)
    with loaded:
        limit_threads(max(model.parameters or 0 for model in loaded.backend.models))
        for question in asked:
            outcome = loaded.answer(question, price=price, round_price=round_price, budget=budget)
            if as_json:
                print(json.dumps(outcome_json(question, outcome)))
            else:
                print_outcome(Console(), question, outcome)


def main(program: Callable[[], object] = app) -> None:
    """Entry point: errors that allot raises on purpose become one line and exit code 2.

    Packages that are missing do, too: those of the extra `train`, which commands import late.

    Args:
        program: command line that runs.
    """
    warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
    try:
        program()
    except AllotError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        print(
            f"error: expected the packages of allot[train], found no {error.name}; "
            "pip install 'allot[train]'",
            file=sys.stderr,
        )
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            print("interrupted; run the same command again to resume", file=sys.stderr)
        raise
