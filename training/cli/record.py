"""The command `allot record`."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from controller.backends.base import TEMPERATURE
from controller.backends.places import ModelPlace
from controller.backends.prompts import REVISER, VERIFIER, read_prompts
from controller.bundled import bundled
from controller.errors import ConfigError
from training.cli.options import (
    Json,
    Ray,
    Seed,
    WorkerCpus,
    WorkerGpus,
    Workers,
    cluster_of,
    numbers,
)
from training.report.view import progress_bar

_MUCH_CUT = 0.2

_PLACE = "[NAME=]PLACE: a directory, a GGUF file, a hub id or URL#MODEL of a server; repeatable."


def record(
    out: Annotated[Path, typer.Option(help="Directory of the trace set.")],
    small: Annotated[
        list[str] | None, typer.Option(help=f"{_PLACE} Default: the bundled model.")
    ] = None,
    large: Annotated[list[str] | None, typer.Option(help="The same.")] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help="JSONL, CSV or parquet with question and reference (and question_id, dataset, "
            "level, split); default: the bundled tasks."
        ),
    ] = None,
    train_scale: Annotated[
        int, typer.Option(min=1, help="So many times the train questions of the bundled set.")
    ] = 1,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many questions per split, spread evenly.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Attempts per question by a small model.")] = 16,
    escalations: Annotated[int, typer.Option(help="Attempts per question by a large one.")] = 2,
    answers: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Of answers where a question names none, see docs/answers.md; default: auto.",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="[NAME=]FILE|TEXT that models are asked with, all or one of them: {question} "
            "stands for the question; chat messages as JSON; repeatable."
        ),
    ] = None,
    finish: Annotated[
        bool,
        typer.Option(
            "--finish", help="End an unfinished recording: a set of the questions that are whole."
        ),
    ] = False,
    reviser: Annotated[Path | None, typer.Option(help="Adapter of the small model.")] = None,
    verifier: Annotated[Path | None, typer.Option(help="Adapter of the small model.")] = None,
    revised_samples: Annotated[
        int, typer.Option(help="Samples that are revised, each up to four times in a row.")
    ] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest attempt.")] = 192,
    temperature: Annotated[
        float, typer.Option(min=0, help="Of the sampling; 0 takes the likeliest tokens.")
    ] = TEMPERATURE,
    attempt_deadline: Annotated[
        float, typer.Option(help="Minutes that a server's attempt may take.")
    ] = 30.0,
    concurrency: Annotated[
        int | None,
        typer.Option(
            help="Requests to each server at the same time; default: as many as it says that it "
            "has room for, else 8."
        ),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option(help="NAME=COUNT of models on servers that do not tell; repeatable."),
    ] = None,
    segment_controller: Annotated[
        Path | None, typer.Option(help="Samples are written under it, segment by segment.")
    ] = None,
    segment_price: Annotated[float, typer.Option(help="Price that it is told.")] = 1e-3,
    granularity: Annotated[
        Literal["attempts", "segments"],
        typer.Option(help="segments: trees of all that may follow each segment of an attempt."),
    ] = "attempts",
    trees: Annotated[int, typer.Option(min=1, help="Of segments, per question.")] = 1,
    draws: Annotated[
        str, typer.Option(help="Of each segment, by the number of places redone before it.")
    ] = "3,2,1",
    lines: Annotated[bool, typer.Option(help="End segments at line breaks.")] = True,
    segment_tokens: Annotated[int, typer.Option(min=1, help="Longest segment.")] = 32,
    text: Annotated[bool, typer.Option(help="Keep the text of segments.")] = False,
    shard_questions: Annotated[
        int | None,
        typer.Option(
            help="Questions that local models answer side by side; what a kill can cost. Default: "
            "128, or 8 where a model has more than 16 million parameters."
        ),
    ] = None,
    device_map: Annotated[
        str | None, typer.Option(help="auto spreads the models' layers over all GPUs.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Of weights: auto as stored, bfloat16, float32.")
    ] = "auto",
    compiled: Annotated[
        bool, typer.Option(help="torch.compile; needs a C++ compiler, and a while.")
    ] = False,
    licence: Annotated[
        str | None, typer.Option(help="Of the recorded texts; noted in trace.json.")
    ] = None,
    ray: Ray = None,
    workers: Workers = None,
    worker_cpus: WorkerCpus = 1.0,
    worker_gpus: WorkerGpus = 0.0,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Record attempts of models as a trace set; run again to resume or extend it."""
    if finish:
        from training.record.recording import finish as finish_recording

        finish_recording(out)
        _report(out, as_json)
        return
    from training.record.recording import RecordConfig
    from training.record.sources import find_source

    smalls, larges = (
        small or [str(bundled("small"))],
        large or ([] if small else [str(bundled("large"))]),
    )
    config = RecordConfig(
        samples=samples,
        escalations=escalations,
        smalls=len(smalls),
        revised_samples=revised_samples,
        shard_questions=shard_questions,
    )
    adapters = {REVISER: reviser, VERIFIER: verifier}
    places = [ModelPlace.parse(model) for model in (*smalls, *larges)]
    source = find_source(
        places,
        prompts=read_prompts(prompt or [], [place.name for place in places]),
        adapters={name: path for name, path in adapters.items() if path is not None},
        parameters=numbers("parameters", parameters or []),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        concurrency=concurrency,
        deadline_s=60 * attempt_deadline,
        device_map=device_map or ("auto" if ray and worker_gpus else None),
        dtype=dtype,
        compiled=compiled,
        inside=(segment_controller, segment_price) if segment_controller else None,
    )
    asked = _questions(questions, answers, train_scale, limit)
    if granularity == "segments":
        from controller.segments.types import Segmentation
        from training.segments.record import TreeConfig, record_trees

        tree_config = TreeConfig(attempts=trees, draws=_draws(draws), keep_text=text)
        segmentation = Segmentation(lines=lines, max_tokens=segment_tokens)
        total = sum(map(len, asked.values()))
        with progress_bar("recording", total) as update:
            record_trees(asked, source, out, tree_config, segmentation, update)
        Console().print(f"{out}: {total} questions", highlight=False)
        return

    from training.record.progress import recording_view
    from training.record.record_models import record_models

    with recording_view(Console(stderr=True)) as view:
        record_models(
            asked,
            source,
            out,
            config,
            cluster=cluster_of(ray, workers, worker_cpus, worker_gpus),
            notes={"licence": licence} if licence else {},
            progress=view.begin,
        )
    _report(out, as_json)


def _draws(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise ConfigError(
            f"draws: expected whole numbers separated by commas, found {text!r}"
        ) from None


def _questions(
    file: Path | None, answers: str | None, train_scale: int, limit: int | None
) -> dict[str, Any]:
    """Questions by split."""
    from controller.answers import UNSTATED, load_kind
    from envs.questions.files import bundled_questions, read_questions
    from training.record.plans import spread

    if file and train_scale > 1:
        raise ConfigError(
            f"train_scale: expected 1 with a file of questions, found {train_scale}; only bundled "
            "tasks can be drawn anew"
        )
    if answers and not file:
        raise ConfigError(f"answers: expected a file of questions with it, found {answers!r} alone")
    kind = load_kind(answers or UNSTATED).name
    by_split = read_questions(file, kind) if file else bundled_questions(train_scale)
    if limit is None:
        return by_split
    kept = {
        split: {q.question_id for q, _ in spread((q, split) for q in members)[:limit]}
        for split, members in by_split.items()
    }
    return {
        split: [q for q in members if q.question_id in kept[split]]
        for split, members in by_split.items()
    }


def _report(out: Path, as_json: bool) -> None:
    """Say what was recorded, and what may be wrong with it."""
    from envs.questions.answer_kinds import unread_warnings
    from envs.traces.format import TraceSet
    from training.record.progress import summary_table

    traces = TraceSet.read(out)
    manifest, summary = traces.manifest, traces.manifest["summary"]
    if as_json:
        keys = ("questions", "splits", "unfinished", "summary")
        print(json.dumps({key: manifest[key] for key in keys if key in manifest}, indent=1))
    else:
        console = Console()
        console.print(summary_table(summary))
        left = f" ({manifest['unfinished']} more are not whole)" if "unfinished" in manifest else ""
        console.print(f"{out}: {manifest['questions']} questions{left}", highlight=False)
    for message in unread_warnings(traces, list(summary)):
        warnings.warn(message, stacklevel=2)
    for model, found in summary.items():
        if found["cut"] > _MUCH_CUT:
            warnings.warn(
                f"{model}: {found['cut']:.0%} of its attempts were cut at their longest; allow "
                "longer ones (--max-new-tokens) in another directory, or ask for shorter ones "
                "(--prompt)",
                stacklevel=2,
            )
