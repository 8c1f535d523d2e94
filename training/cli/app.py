"""The command `allot`, and those that answer: `answer`, `serve`, `playground`, `key`, `status`."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import typer

from controller.backends.places import NamedModels
from controller.bundled import bundled
from controller.errors import AllotError, ConfigError
from controller.process.terms import Terms
from controller.server.config import ServeConfig
from training.cli import traces
from training.cli.flags import Json, Seed, flag, with_flags
from training.cli.train import dashboard, dashed, evaluate, explain, report, shadow_, train


@dataclass(frozen=True, kw_only=True)
class AnswerConfig:
    """What answers may cost, and who makes and chooses them.

    Attributes:
        price: accuracy per small-model token; default: mid-range.
        worth: instead: what a right answer is worth, in dollars or seconds where the controller
            counts these, else in small-model tokens.
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

    @property
    def terms(self) -> Terms:
        """What each answer may cost."""
        named = {name: getattr(self, name) for name in ("price", "worth", "round_price", "budget")}
        return Terms(**named)

    def __post_init__(self) -> None:
        replace(self.terms, mean_cost=self.mean_cost, accuracy=self.accuracy)  # or ConfigError
        if self.segments and (self.controller or self.segment_price is not None):
            raise ConfigError(
                "controller, segment_price: expected neither with --segments, which decides by "
                "--segment-controller, at --price"
            )
        unused = not self.segments and self.segment_price is None
        if unused and self.segment_controller != bundled("segments/controller"):
            raise ConfigError("segment_controller: expected --segments or --segment-price with it")
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
    from training.report.view import plain_console

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
        checkpoint, models=config.models.all, mean_cost=config.mean_cost, accuracy=config.accuracy
    )
    console = plain_console()
    with loaded:
        limit_threads(max(model.parameters or 0 for model in loaded.backend.models))
        for question in asked:
            outcome = loaded.answer(question, config.terms)
            if as_json:
                print(json.dumps(outcome_json(question, outcome)))
            else:
                print_outcome(console, question, outcome, checkpoint.config.cost.currency)


@with_flags(ServeConfig)
def serve(config: ServeConfig) -> None:
    """Serve an OpenAI-compatible API in front of two or more models."""
    from controller.server.run import run_service
    from training.learn.threads import limit_threads

    limit_threads()
    run_service(config)


def playground(
    controller: Annotated[
        Path, typer.Option(help="Checkpoint.", show_default="the bundled one")
    ] = bundled("controller"),
    port: Annotated[int, typer.Option(help="0 for any that is free.")] = 8080,
) -> None:
    """Watch a controller decide, on a page that asks the models of its checkpoint."""
    from controller.server.run import run_service
    from training.learn.threads import limit_threads

    limit_threads()
    config = ServeConfig(controller=controller, port=port, log=Path(os.devnull))
    run_service(config, lambda url: print(f"open {url} in a browser; Ctrl-C ends it", flush=True))


def key(name: Annotated[str, typer.Argument(help="Who will use it.")]) -> None:
    """Make an API key: the key for its owner, the line for the service's file."""
    from controller.server.keys import key_line, new_key

    made = new_key()
    print(f"key   {made}\nline  {key_line(name, made)}")


def status(
    url: Annotated[str, typer.Argument(help="Of the service.")] = "http://127.0.0.1:8080",
) -> None:
    """Say what the last check of each model of a running service found; 1 if it is not ready."""
    import httpx2

    try:
        found = httpx2.get(f"{url.rstrip('/')}/ready", timeout=5).json()
        models = {**dict.fromkeys(found["available"], "ok"), **found["wrong"]}
    except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"url: expected a running service at {url}: {error}") from None
    print("ready" if found["ready"] else "draining" if found["draining"] else "not ready")
    for name, said in models.items():
        print(f"  {name}: {said}")
    for warning in found["warnings"]:
        print(f"  warning: {warning}")
    if not found["ready"]:
        raise typer.Exit(1)


app = typer.Typer(
    help="Learns how much inference compute each question deserves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for name, about, verb, run in (
    ("models", "The recorded language models.", "evaluate", traces.evaluate_models),
    ("adapters", "Revisers and verifiers of models.", "train", traces.train_adapter),
):
    group = typer.Typer(help=about, no_args_is_help=True)
    group.callback()(lambda: None)  # keeps the name of the only command
    group.command(verb)(run)
    app.add_typer(group, name=name)
app.command("train", context_settings={"token_normalize_func": dashed})(train)
app.command()(traces.record)
for name, renamed in (("shadow", shadow_), ("import", traces.import_)):
    app.command(name)(renamed)
for named in (serve, playground, key, status, traces.cost, traces.read, traces.verify):
    app.command()(named)
for command in (evaluate, report, dashboard, explain, answer):
    app.command()(command)

_INTERRUPTED = 130
"""Exit code that typer makes of a KeyboardInterrupt."""


def main(program: Callable[[], object] = app) -> None:
    """Run a command line; errors that allot or the system raises become one line and exit code 2.

    Packages that are missing do, too: those of the extra `train`, which commands import late.
    """
    if sys.argv[1:2] == ["serve"]:
        # A reload that is asked for meanwhile waits until there is something to reload.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
    try:
        program()
    except (AllotError, OSError) as error:
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
            print(
                "interrupted; a recording or a training goes on when its command is run again",
                file=sys.stderr,
            )
        raise
