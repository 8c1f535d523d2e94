"""The command `allot`."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from controller.bundled import bundled
from controller.errors import AllotError
from training.cli.answer import answer
from training.cli.options import (
    Json,
    Ray,
    WorkerCpus,
    cluster_of,
    numbers,
)
from training.cli.read import read
from training.cli.record import record
from training.cli.serve import key, serve
from training.cli.train import dashed, train
from training.learn.settings import WandbMode
from training.report.tables import command_line, lead_table, print_rows
from training.report.view import progress_bar

app = typer.Typer(
    help="Learns how much inference compute each question deserves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="The recorded language models.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.command("train", context_settings={"token_normalize_func": dashed})(train)
app.command()(record)
app.command()(answer)
app.command()(serve)
app.command()(key)
app.command()(read)
console = Console()

_INTERRUPTED = 130
"""Exit code that typer makes of a KeyboardInterrupt."""

Traces = Annotated[Path, typer.Option(help="Trace set.", show_default="the bundled one")]
Controller = Annotated[Path, typer.Option(help="Checkpoint.", show_default="the bundled one")]
Wandb = Annotated[WandbMode, typer.Option(help="W&B: auto, online, offline or disabled.")]


@models_app.command("evaluate")
def evaluate_models(
    traces: Traces = bundled("traces"),
    split: Annotated[str, typer.Option(help="train, validation or test")] = "test",
    as_json: Json = False,
) -> None:
    """pass@1, majority and pass@k of a trace set's models, by level and task."""
    from envs.traces.format import TraceSet
    from training.compare.model_table import model_table

    table = model_table(TraceSet.read(traces), split)
    if as_json:
        print(json.dumps(table, indent=1))
        return
    for kind, rows in table.items():
        print_rows(kind, rows)


@app.command()
def verify(
    traces: Annotated[Path, typer.Argument(help="Trace set with the attempts' texts.")],
    verifier: Annotated[Path, typer.Option(help="Adapter of the small model.")],
    out: Annotated[Path, typer.Option(help="Directory of the new trace set.")],
    small: Annotated[
        str, typer.Option(help="Directory or hub id.", show_default="the bundled one")
    ] = str(bundled("small")),
) -> None:
    """Add a verifier's scores to a trace set that was recorded without it."""
    from envs.traces.format import TraceSet
    from training.learn.threads import limit_threads
    from training.record.scores import add_scores

    limit_threads()
    trace_set = TraceSet.read(traces)
    with progress_bar("verifying", trace_set.num_attempts) as update:
        num_scored = add_scores(trace_set, small, verifier, out, update)
    console.print(f"{out}: {num_scored} attempts scored")


@app.command("import")
def import_(
    files: Annotated[
        list[Path],
        typer.Argument(help="lm-evaluation-harness or allot serve logs, CSV, JSONL, parquet."),
    ],
    out: Annotated[Path, typer.Option(help="Directory of the trace set.")],
    small: Annotated[
        str | None, typer.Option(help="Model that samples; default: most attempts.")
    ] = None,
    parameters: Annotated[
        list[str] | None, typer.Option(help="MODEL=COUNT, for the ledger; repeatable.")
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(help="For logs of allot serve: reference by question_id or question."),
    ] = None,
    answers: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Of answers, see docs/answers.md; default: auto, and what a harness has read.",
        ),
    ] = None,
) -> None:
    """Make a trace set from generations that were recorded elsewhere."""
    from controller.answers import load_kind
    from envs.traces.importing import import_attempts
    from envs.traces.served import read_references

    sizes = numbers("parameters", parameters or [])
    known = read_references(references) if references else {}
    kind = None if answers is None else load_kind(answers).name
    for missing in import_attempts(
        files, out, small=small, parameters=sizes, references=known, answers=kind
    ):
        console.print(f"missing {missing}", highlight=False)
    console.print(f"{out}: ready for allot train --traces {out}", highlight=False)


@app.command()
def evaluate(
    controllers: Annotated[
        list[Path],
        typer.Argument(help="Checkpoints, or directories of `--seeds`; seeds are pooled."),
    ],
    traces: Annotated[
        Path | None, typer.Option(help="Trace set; default: the bundled one of their granularity.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory for pictures and evaluation/, which `allot report` reads; "
            "default: the first one given."
        ),
    ] = None,
    num_prices: Annotated[int, typer.Option(help="Evenly spaced on a log scale.")] = 12,
    repeats: Annotated[int, typer.Option(help="Episodes per question and price.")] = 8,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=CONTROLLER[,...]@TRACES",
            help="Other controllers, of either granularity, on their traces of the same test "
            "questions; seeds are pooled. Prices are those of the first. Repeatable.",
        ),
    ] = None,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="Add attempts at temperature 0, by the live models.")
    ] = False,
    results: Annotated[
        Path | None, typer.Option(help="Markdown file to write the results to.")
    ] = None,
    ray: Ray = None,
    worker_cpus: WorkerCpus = 1.0,
    as_json: Json = False,
    wandb: Wandb = "auto",
) -> None:
    """Compare controllers with tuned rules on the test split; fills in the model card."""
    from controller.checkpoint import load_any
    from envs.granularity import read_traces, recordings_of
    from envs.traces.format import write_atomically
    from training.compare.evaluate import CONTROLLER as OURS
    from training.compare.evaluate import compare, read_others
    from training.compare.evaluation import save_evaluation
    from training.compare.greedy import play_greedy
    from training.compare.summary import summarise
    from training.learn.runs import seed_directories
    from training.learn.threads import limit_threads
    from training.report.lineage import controller_artifact, evaluation_artifact, traces_artifact
    from training.report.results import results_markdown, write_card
    from training.report.track_evaluation import track_evaluation
    from training.report.tracking import Tracker

    limit_threads()
    paths = seed_directories(controllers)
    checkpoints = [load_any(path) for path in paths]
    inside = checkpoints[0].granularity.name == "segments"
    trace_set = read_traces(traces or bundled("segments/traces" if inside else "traces"))
    names = [model.name for model in checkpoints[0].models]
    recordings = recordings_of(trace_set)
    test = recordings.recorded(trace_set, ["test"], names)
    comparison = compare(
        checkpoints,
        recordings.table(trace_set, ["train", "validation"], names),
        test.table,
        others=read_others(beside or []),
        fixed=play_greedy(trace_set, test.questions, checkpoints[0].config.cost)
        if greedy
        else None,
        num_prices=num_prices,
        repeats=repeats,
        cluster=cluster_of(ray, cpus=worker_cpus),
    )
    summary = summarise(comparison)
    out = out or controllers[0]
    about = {
        "controllers": [str(path) for path in paths],
        "traces": trace_set.path.name,
        "traces_digest": trace_set.manifest.get("digest"),
        "models": names,
        "repeats": repeats,
    }
    evaluation = save_evaluation(
        out,
        about,
        summary,
        checkpoint=checkpoints[0],
        recorded=test,
        played=comparison.played[OURS],
    )
    with Tracker(
        out, "evaluate", about, mode=wandb, group=trace_set.path.name, name=str(out)
    ) as tracker:
        tracker.uses(traces_artifact(trace_set))
        for checkpoint, path in zip(checkpoints, paths, strict=True):
            tracker.uses(controller_artifact(checkpoint, path, trace_set))
        track_evaluation(tracker, summary, evaluation.decisions, out)
        tracker.makes(evaluation_artifact(evaluation.decisions, trace_set))
    write_card(summary, paths, trace_set, repeats)
    if results is not None:
        text = results_markdown(summary, command_line(), len(paths))
        write_atomically(results, lambda path: path.write_text(text))
    if as_json:
        print(json.dumps(summary, indent=1))
    else:
        _print_summary(summary, out)


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run directories that `allot evaluate` has written to.",
            metavar="RUN",
        ),
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


@app.command()
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


@app.command()
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
    from envs.traces.table_builder import build_table
    from training.learn.threads import limit_threads
    from training.report.explain import explain as draw

    limit_threads()
    checkpoint = load_checkpoint(controller)
    names = [model.name for model in checkpoint.models]
    draw(checkpoint, build_table(TraceSet.read(traces), ["test"], names), out)
    console.print(f"{out}: drawn from the test split")


def _print_summary(summary: dict[str, Any], out: Path) -> None:
    from training.compare.summary import behind
    from training.learn.runs import print_seeds
    from training.report.track_evaluation import PICTURES

    console.print(lead_table(summary, "controller", "best rule"), "")
    table = Table("at equal accuracy with", "compute used", "95%", "at accuracies", box=None)
    for name, entry in summary["headline"].items():
        low, high = entry["interval"]
        table.add_row(
            name,
            f"{entry['ratio']:.0%}",
            f"{low:.0%} to {high:.0%}",
            ", ".join(f"{a:.1%}" for a in entry["accuracies"]),
        )
    console.print(table, "")
    console.print(f"behind a rule beyond its interval: {behind(summary)}")
    if "mean" in summary["seeds"]:
        print_seeds(console, summary["seeds"])
    console.print(f"pictures: {', '.join(str(out / f'{n}.png') for n in PICTURES)}")


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


if __name__ == "__main__":
    main()
