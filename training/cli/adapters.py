"""`allot adapters train`: a reviser or a verifier of one's own model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Adapter(StrEnum):
    """What an adapter does with attempts."""

    REVISER = "reviser"
    VERIFIER = "verifier"


adapters_app = typer.Typer(help="Revisers and verifiers of models.", no_args_is_help=True)


@adapters_app.callback()
def _named() -> None:
    """Keeps the name of the only command."""


@adapters_app.command()
def train(
    adapter: Annotated[Adapter, typer.Argument(help="reviser or verifier")],
    model: Annotated[
        str,
        typer.Option(help="[NAME=]DIRECTORY, GGUF file or hub id, by its name in the trace set."),
    ],
    traces: Annotated[Path, typer.Option(help="Trace set with the attempts' texts.")],
    out: Annotated[Path, typer.Option(help="Directory of the adapter.")],
    lora: Annotated[
        bool,
        typer.Option("--lora", help="A verifier with weights of its own, instead of a read-out."),
    ] = False,
    samples: Annotated[
        int, typer.Option(min=1, help="Attempts at a question that a read-out learns from.")
    ] = 4,
    epochs: Annotated[int, typer.Option(min=0, help="Of LoRA weights; 0: as suit.")] = 0,
) -> None:
    """Train a reviser or a verifier from recorded attempts, and measure it; run again to resume."""
    from controller.backends.places import ModelPlace
    from envs.traces.format import TraceSet
    from training.adapters import (
        ReviserConfig,
        VerifierConfig,
        VerifierTraining,
        measure_reviser,
        right_texts,
        train_readout,
        train_reviser,
    )
    from training.learn.threads import limit_threads
    from training.report.view import progress_bar

    limit_threads()
    place, recorded = ModelPlace.parse(model), TraceSet.read(traces)
    solutions, given = right_texts(recorded), {"epochs": epochs} if epochs else {}
    if adapter is Adapter.REVISER:
        train_reviser(place, recorded, solutions, out, ReviserConfig(**given), place.name)
        found = measure_reviser(place, out, recorded)
    elif lora:
        config = VerifierConfig(**given)
        training = VerifierTraining(place, [recorded], solutions, out, config, place.name)
        with progress_bar("training a verifier", 1.0) as update:
            found = training.run(lambda done, loss: update(done, f"verifier, loss {loss:.3f}"))
    else:
        with progress_bar("reading attempts", 1.0) as update:
            found = train_readout(
                place,
                recorded,
                out,
                samples=samples,
                progress=lambda done, of: update(done / of, f"read {done:,} of {of:,} attempts"),
            )
    for name, value in found.items():
        print(f"{name} {value:.3f}")
