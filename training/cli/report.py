"""Commands that show what was learnt: `allot report`, `explain` and `dashboard`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from controller.bundled import bundled
from training.cli.options import Traces

console = Console()


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run directories that `allot evaluate` has written to.", metavar="RUN"),
    ],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    questions: Annotated[
        int, typer.Option(min=1, help="Of which single episodes can be stepped through.")
    ] = 48,
) -> None:
    """Compare runs on one HTML page that needs no network and no account.

    Frontier with intervals, policies by utility at a price of your choice, single episodes
    decision by decision, actions by difficulty and training curves. Leads are those of the
    first RUN; all must have been evaluated on the same questions and prices.
    """
    from training.report.page import write_report

    write_report(runs, out, questions)
    console.print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB, opens in any browser")


def dashboard(
    project: Annotated[str, typer.Argument(help="W&B project, or ENTITY/PROJECT.")],
    show: Annotated[
        bool, typer.Option("--print", help="Print what would be saved; needs no account.")
    ] = False,
) -> None:
    """Build a W&B workspace over the runs of train and evaluate."""
    from training.report.dashboard import build_workspace, save, spec

    entity, _, name = project.rpartition("/")
    workspace = build_workspace(entity, name)
    if show:
        print(json.dumps(spec(workspace), indent=1))
    else:
        console.print(save(workspace), highlight=False)


def explain(
    controller: Annotated[
        Path, typer.Argument(help="Checkpoint.", show_default="the bundled one")
    ] = bundled("controller"),
    traces: Traces = bundled("traces"),
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("policy.png"),
) -> None:
    """Draw what a controller does, when, and at which price."""
    from controller.checkpoint import load_checkpoint
    from envs.traces.format import TraceSet
    from envs.traces.table import build_table
    from training.learn.threads import limit_threads
    from training.report.plots import explain as draw

    limit_threads()
    checkpoint = load_checkpoint(controller)
    names = [model.name for model in checkpoint.models]
    draw(checkpoint, build_table(TraceSet.read(traces), ["test"], names), out)
    console.print(f"{out}: drawn from the test split")
