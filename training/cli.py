"""The command `allot`."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from controller.backends.base import TEMPERATURE
from controller.errors import AllotError, ConfigError
from controller.prompts import REVISER, VERIFIER
from training.cluster import Cluster
from training.serve_cli import key, serve
from training.settings import WandbMode
from training.tables import command_line, lead_table, print_rows
from training.train_command import dashed, train
from training.view import progress_bar

app = typer.Typer(
    help="Learns how much inference compute each question deserves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="The recorded language models.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.command("train", context_settings={"token_normalize_func": dashed})(train)
app.command()(serve)
app.command()(key)
console = Console()

TRACES = Path("checkpoints/traces")
CONTROLLER = Path("checkpoints/controller")
SEGMENT_CONTROLLER = Path("checkpoints/segments/controller")
SEGMENT_TRACES = Path("checkpoints/segments/traces")

_INTERRUPTED = 130
"""Exit code that typer makes of a KeyboardInterrupt."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Seed = Annotated[int, typer.Option(help="Everything random follows from it.")]
Ladder = Annotated[
    str, typer.Option(help="Models by name, the small one first, separated by commas.")
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Work on a Ray cluster: HOST:PORT, auto for this machine's, local to start one.",
    ),
]
Workers = Annotated[
    int | None, typer.Option(help="On the cluster; default: as many as there is room for.")
]
WorkerCpus = Annotated[float, typer.Option(help="CPUs of each worker.")]
WorkerGpus = Annotated[float, typer.Option(help="GPUs of each worker; 0.5 lets two share one.")]
Wandb = Annotated[WandbMode, typer.Option(help="W&B: auto, online, offline or disabled.")]


@models_app.command("evaluate")
def evaluate_models(
    traces: Annotated[Path, typer.Option(help="Trace set.")] = TRACES,
    split: Annotated[str, typer.Option(help="train, validation or test")] = "test",
    as_json: Json = False,
) -> None:
    """pass@1, majority and pass@k of a trace set's models, by level and task."""
    from envs.traces import TraceSet
    from training.model_table import model_table

    table = model_table(TraceSet.read(traces), split)
    if as_json:
        print(json.dumps(table, indent=1))
        return
    for kind, rows in table.items():
        print_rows(kind, rows)


@app.command()
def record(
    out: Annotated[Path, typer.Option(help="Directory of the trace set.")],
    small: Annotated[
        str, typer.Option(help="Directory, hub id, or URL#MODEL of a server.")
    ] = "checkpoints/small",
    large: Annotated[str, typer.Option(help="The same.")] = "checkpoints/large",
    questions: Annotated[
        Path | None,
        typer.Option(
            help="JSONL or parquet with question and reference (and question_id, dataset, level, "
            "split); default: the bundled tasks."
        ),
    ] = None,
    train_scale: Annotated[
        int, typer.Option(min=1, help="So many times the train questions of the bundled set.")
    ] = 1,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many questions per split, spread evenly.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Small attempts per question.")] = 16,
    escalations: Annotated[int, typer.Option(help="Large attempts per question.")] = 2,
    reviser: Annotated[Path | None, typer.Option(help="Adapter of the small model.")] = None,
    verifier: Annotated[Path | None, typer.Option(help="Adapter of the small model.")] = None,
    revised_samples: Annotated[
        int, typer.Option(help="Samples that are revised, each up to four times in a row.")
    ] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest attempt.")] = 192,
    temperature: Annotated[
        float, typer.Option(min=0, help="Of the sampling; 0 takes the likeliest tokens.")
    ] = TEMPERATURE,
    segment_controller: Annotated[
        Path | None, typer.Option(help="Samples are written under it, segment by segment.")
    ] = None,
    segment_price: Annotated[float, typer.Option(help="Price that it is told.")] = 1e-3,
    granularity: Annotated[
        str, typer.Option(help="attempts, or segments: trees of what could follow each segment.")
    ] = "attempts",
    trees: Annotated[int, typer.Option(min=1, help="Of segments, per question.")] = 1,
    draws: Annotated[
        str, typer.Option(help="Of each segment, by the number of places redone before it.")
    ] = "3,2,1",
    lines: Annotated[bool, typer.Option(help="End segments at line breaks.")] = True,
    segment_tokens: Annotated[int, typer.Option(min=1, help="Longest segment.")] = 32,
    text: Annotated[bool, typer.Option(help="Keep what segments say.")] = False,
    shard_questions: Annotated[
        int, typer.Option(help="Questions recorded together; what a kill can cost.")
    ] = 128,
    parameters: Annotated[
        list[str] | None, typer.Option(help="MODEL=COUNT of models on servers; repeatable.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option(help="Requests to servers at the same time, of each worker.")
    ] = 64,
    device_map: Annotated[
        str | None, typer.Option(help="auto spreads the models' layers over all GPUs.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Of weights: auto as stored, bfloat16, float32.")
    ] = "auto",
    compiled: Annotated[
        bool, typer.Option(help="torch.compile; needs a C++ compiler, and a while.")
    ] = False,
    ray: Ray = None,
    workers: Workers = None,
    worker_cpus: WorkerCpus = 1.0,
    worker_gpus: WorkerGpus = 0.0,
    seed: Seed = 0,
) -> None:
    """Record attempts, or segments, of a model pair as a trace set; run again to resume."""
    from controller.granularity import ATTEMPTS, SEGMENTS
    from controller.segments.types import Segmentation
    from envs.question_files import bundled_questions, read_questions
    from training.record import RecordConfig
    from training.record_models import record_models
    from training.segments.record_models import record_trees
    from training.segments.trees import TreeConfig
    from training.sources import find_source

    if questions and train_scale > 1:
        raise ConfigError(
            f"train_scale: expected 1 with a file of questions, found {train_scale}; only bundled "
            "tasks can be drawn anew"
        )
    by_split = read_questions(questions) if questions else bundled_questions(train_scale)
    if limit is not None:
        by_split = {
            split: members[:: max(1, len(members) // limit)][:limit]
            for split, members in by_split.items()
        }
    total = sum(len(members) for members in by_split.values())
    if granularity == SEGMENTS.name:
        with progress_bar("recording", total) as update:
            record_trees(
                by_split,
                (small, large),
                out,
                TreeConfig(
                    attempts=trees,
                    draws=_whole_numbers("draws", draws),
                    keep_text=text,
                    shard_questions=shard_questions,
                ),
                Segmentation(lines=lines, max_tokens=segment_tokens),
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=seed,
                progress=lambda done: update(done, "recording"),
            )
        console.print(f"{out}: {total} questions")
        return
    if granularity != ATTEMPTS.name:
        raise ConfigError(f"granularity: expected attempts or segments, found {granularity!r}")
    with progress_bar("recording", total) as update:
        record_models(
            by_split,
            find_source(
                (small, large),
                adapters={
                    name: path
                    for name, path in ((REVISER, reviser), (VERIFIER, verifier))
                    if path is not None
                },
                parameters=_numbers("parameters", parameters or []),
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=seed,
                concurrency=concurrency,
                device_map=device_map or ("auto" if ray and worker_gpus else None),
                dtype=dtype,
                compiled=compiled,
                inside=(segment_controller, segment_price) if segment_controller else None,
            ),
            out,
            RecordConfig(
                samples=samples,
                escalations=escalations,
                revised_samples=revised_samples,
                shard_questions=shard_questions,
            ),
            cluster=_cluster(ray, workers, worker_cpus, worker_gpus),
            progress=update,
        )
    console.print(f"{out}: {total} questions")


@app.command()
def verify(
    traces: Annotated[Path, typer.Argument(help="Trace set with the attempts' texts.")],
    verifier: Annotated[Path, typer.Option(help="Adapter of the small model.")],
    out: Annotated[Path, typer.Option(help="Directory of the new trace set.")],
    small: Annotated[str, typer.Option(help="Directory or hub id.")] = "checkpoints/small",
) -> None:
    """Add a verifier's scores to a trace set that was recorded without it."""
    from envs.traces import TraceSet
    from training.scores import add_scores
    from training.threads import limit_threads

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
) -> None:
    """Make a trace set from generations that were recorded elsewhere."""
    from envs.importing import import_attempts
    from envs.served import read_references

    sizes = _numbers("parameters", parameters or [])
    known = read_references(references) if references else {}
    for missing in import_attempts(files, out, small=small, parameters=sizes, references=known):
        console.print(f"missing {missing}", highlight=False)
    console.print(f"{out}: ready for allot train --traces {out}", highlight=False)


@app.command()
def evaluate(
    controllers: Annotated[
        list[Path],
        typer.Argument(help="Checkpoints, or directories of `--seeds`; seeds are pooled."),
    ],
    traces: Annotated[Path, typer.Option(help="Trace set.")] = TRACES,
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
    from envs.traces import write_atomically
    from training.evaluate import CONTROLLER as OURS
    from training.evaluate import compare, read_others
    from training.evaluation import save_evaluation
    from training.greedy import play_greedy
    from training.lineage import controller_artifact, evaluation_artifact, traces_artifact
    from training.results import results_markdown, write_card
    from training.runs import seed_directories
    from training.summary import summarise
    from training.threads import limit_threads
    from training.track_evaluation import track_evaluation
    from training.tracking import Tracker

    limit_threads()
    paths = seed_directories(controllers)
    checkpoints = [load_any(path) for path in paths]
    if checkpoints[0].granularity.name == "segments" and traces == TRACES:
        traces = SEGMENT_TRACES
    trace_set = read_traces(traces)
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
        cluster=_cluster(ray, cpus=worker_cpus),
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
    from training.dashboard import build_workspace, save, spec

    entity, _, name = project.rpartition("/")
    workspace = build_workspace(entity, name)
    if show:
        print(json.dumps(spec(workspace), indent=1))
    else:
        console.print(save(workspace), highlight=False)


@app.command()
def explain(
    controller: Annotated[Path, typer.Argument(help="Checkpoint.")] = CONTROLLER,
    traces: Annotated[Path, typer.Option(help="Trace set.")] = TRACES,
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("policy.png"),
) -> None:
    """Draw what a controller does, when, and at which price."""
    from controller.checkpoint import load_checkpoint
    from envs.table import TraceTable
    from envs.traces import TraceSet
    from training.explain import explain as draw
    from training.threads import limit_threads

    limit_threads()
    checkpoint = load_checkpoint(controller)
    names = [model.name for model in checkpoint.models]
    draw(checkpoint, TraceTable.build(TraceSet.read(traces), ["test"], names), out)
    console.print(f"{out}: drawn from the test split")


@app.command()
def answer(
    questions: Annotated[list[str] | None, typer.Argument(help="Questions.")] = None,
    price: Annotated[
        float | None, typer.Option(help="Accuracy per small-model token; default: mid-range.")
    ] = None,
    controller: Annotated[Path, typer.Option(help="Checkpoint.")] = CONTROLLER,
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
        Path, typer.Option(help="Checkpoint that does.")
    ] = SEGMENT_CONTROLLER,
    segment_price: Annotated[
        float | None,
        typer.Option(help="Decide about whole attempts, each written under it at this price."),
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Answer questions with live models, showing each decision."""
    from transformers.utils.logging import disable_progress_bar

    from controller.checkpoint import load_any
    from controller.loop import Controller
    from controller.types import Question
    from training.show import new_questions, outcome_json, print_outcome
    from training.threads import limit_threads

    asked = [
        Question(question_id=f"asked/{i}", text=text) for i, text in enumerate(questions or [])
    ] + new_questions(examples, seed)
    if not asked:
        raise ConfigError('questions: expected at least one, as in allot answer "3 * 4 ="')
    disable_progress_bar()
    checkpoint = load_any(segment_controller if segments else controller)
    if segment_price is not None:
        under = str(segment_controller.resolve()), segment_price
        checkpoint = replace(checkpoint, segment_controller=under)
    loaded = Controller.load(checkpoint, mean_cost=mean_cost, accuracy=accuracy)
    limit_threads(max(model.parameters or 0 for model in loaded.backend.models))
    for question in asked:
        outcome = loaded.answer(question, price=price, round_price=round_price, budget=budget)
        if as_json:
            print(json.dumps(outcome_json(question, outcome)))
        else:
            print_outcome(console, question, outcome)


def _cluster(
    ray: str | None, workers: int | None = None, cpus: float = 1.0, gpus: float = 0.0
) -> Cluster | None:
    if ray is None:
        return None
    return Cluster(address=ray, workers=workers, cpus=cpus, gpus=gpus)


def _whole_numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise ConfigError(
            f"{option}: expected whole numbers separated by commas, found {text!r}"
        ) from None


def _numbers(option: str, entries: list[str]) -> dict[str, float]:
    numbers = {}
    for entry in entries:
        name, _, number = entry.rpartition("=")
        try:
            numbers[name] = float(number)
        except ValueError:
            raise ConfigError(f"{option}: expected MODEL=NUMBER, found {entry!r}") from None
    return numbers


def _print_summary(summary: dict[str, Any], out: Path) -> None:
    from training.runs import print_seeds
    from training.summary import behind
    from training.track_evaluation import PICTURES

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

    Args:
        program: command line that runs.
    """
    warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
    try:
        program()
    except AllotError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            print("interrupted; run the same command again to resume", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
