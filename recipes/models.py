"""The bundled models and adapters.

python -m recipes.models train small
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controller.backends.prompts import REVISER, VERIFIER
from controller.errors import ConfigError
from recipes.adapters import train_adapter
from recipes.language_models import CONFIGS, LanguageModelTraining
from training.cli.app import main
from training.learn.threads import limit_threads
from training.report.view import progress_bar

MODELS = Path("checkpoints")

app = typer.Typer(help="The bundled models and adapters.", no_args_is_help=True)


@app.callback()
def _named() -> None:
    """Keeps the name of the only command."""


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="small, large, reviser or verifier")],
    out: Annotated[Path | None, typer.Option(help="Default: checkpoints/NAME.")] = None,
    compiled: Annotated[
        bool, typer.Option(help="torch.compile in bfloat16; needs a C++ compiler.")
    ] = False,
) -> None:
    """Train a bundled language model or adapter; run again to resume."""
    out = out or MODELS / name
    if name in (REVISER, VERIFIER):
        limit_threads()
        with progress_bar(f"training {name}", 1.0) as update:
            result = train_adapter(name, MODELS, out, update)
        for figure, value in result.items():
            print(figure, value)
        return
    if name not in CONFIGS:
        raise ConfigError(f"model: expected one of {[*CONFIGS, REVISER, VERIFIER]}, found {name!r}")
    config = CONFIGS[name]
    with progress_bar(f"training {name}", config.train_tokens) as bar:
        LanguageModelTraining(config, out, compiled=compiled).run(
            lambda tokens, loss: bar(tokens, f"{name}, loss {loss:.3f}")
        )


if __name__ == "__main__":
    main(app)
