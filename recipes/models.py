"""The bundled models and adapters.

python -m recipes.models train small
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.backends.prompts import REVISER, VERIFIER
from controller.errors import ConfigError
from envs.questions.bundled import draw_split
from envs.traces.format import TraceSet
from recipes.language_models import CONFIGS, LanguageModelTraining
from recipes.looped import CONFIG, LOOPED, LoopedTraining
from recipes.solutions import worked_solution
from training.adapters import ReviserConfig, VerifierTraining, train_reviser
from training.cli.app import main
from training.learn.threads import limit_threads
from training.record.settings import RecordConfig
from training.record.sources import find_source, record_models
from training.report.view import progress_bar

Progress = Callable[[float, str], None]

MODELS = Path("checkpoints")

REVISER_QUESTIONS = (1200, 2200, 2500, 2500, 0)
VERIFIER_QUESTIONS = (400, 500, 500, 500, 250)
"""Questions per task, by level; the verifier learns from the reviser's as well."""
REVISER_SAMPLES, VERIFIER_SAMPLES = 4, 16
"""Attempts at each of them."""

NUM_DRAWS = 60_000
"""Questions looked through per task and level."""

_VALIDATION_SHARE = 0.03


def train_adapter(name: str, models: Path, out: Path, progress: Progress) -> dict[str, Any]:
    """Record what the reviser or the verifier of `models`/small learns from, and train it.

    Attempts go to `attempts` in `out`, unless they are there, what resuming needs to `training`;
    `progress` is called with the share that is done and a description. What is known of the result
    is returned.
    """
    small = models / "small"

    def solutions(question_id: str) -> Sequence[str]:
        return (worked_solution(question_id),)

    progress(0.0, "recording attempts to learn from")
    own = _recorded(small, models / REVISER / "attempts", REVISER_QUESTIONS, REVISER_SAMPLES, 1)
    if name == REVISER:
        progress(0.0, "training the reviser")
        train_reviser(small, own, solutions, out, ReviserConfig(muon_lr=0.01))
        return {"adapter": str(out)}
    mixed = _recorded(small, out / "attempts", VERIFIER_QUESTIONS, VERIFIER_SAMPLES, 0)
    training = VerifierTraining(small, [mixed, own], solutions, out)
    measured = training.run(lambda done, loss: progress(done, f"verifier, loss {loss:.3f}"))
    return {"adapter": str(out), **measured}


def _recorded(small: Path, out: Path, sizes: tuple[int, ...], samples: int, seed: int) -> TraceSet:
    """Attempts at questions of the pool `adapters`, so many per task and level, in `out`."""
    if not (out / "trace.json").exists():
        questions = draw_split("adapters", sizes, seed=seed, num_draws=NUM_DRAWS)
        random.Random(0).shuffle(questions)
        kept = int(len(questions) * (1 - _VALIDATION_SHARE))
        splits = {"train": questions[:kept], "validation": questions[kept:]}
        config = RecordConfig(samples=samples, escalations=0)
        record_models(splits, find_source([str(small)], seed=seed), out, config)
    return TraceSet.read(out)


app = typer.Typer(help="The bundled models and adapters.", no_args_is_help=True)


@app.callback()
def _named() -> None:
    """Keeps the name of the only command."""


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="small, large, looped, reviser or verifier")],
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
    trainings = dict.fromkeys(CONFIGS, LanguageModelTraining) | {LOOPED: LoopedTraining}
    if name not in trainings:
        known = [*trainings, REVISER, VERIFIER]
        raise ConfigError(f"model: expected one of {known}, found {name!r}")
    config = CONFIG if name == LOOPED else CONFIGS[name]
    with progress_bar(f"training {name}", config.train_tokens) as bar:
        trainings[name](config, out, compiled=compiled).run(
            lambda tokens, loss: bar(tokens, f"{name}, loss {loss:.3f}")
        )


if __name__ == "__main__":
    main(app)
