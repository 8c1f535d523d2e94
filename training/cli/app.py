"""The command `allot`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import typer

from controller.errors import AllotError
from training.cli.answer import answer
from training.cli.evaluate import evaluate
from training.cli.read import read
from training.cli.record import record
from training.cli.report import dashboard, explain, report
from training.cli.serve import key, playground, serve
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
for command in (record, serve, playground, key, read, verify):
    app.command()(command)
app.command("import")(import_)
for command in (evaluate, report, dashboard, explain, answer):
    app.command()(command)

_INTERRUPTED = 130
"""Exit code that typer makes of a KeyboardInterrupt."""


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
