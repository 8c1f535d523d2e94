"""The commands `allot segments ...`: control inside one attempt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from controller.backends.base import TEMPERATURE
from controller.errors import ConfigError
from controller.types import Question
from training.tables import command_line, lead_table

app = typer.Typer(help="Control inside one attempt, segment by segment.", no_args_is_help=True)
console = Console()

TRACES = Path("checkpoints/segments/traces")
CONTROLLER = Path("checkpoints/segments/controller")

Traces = Annotated[Path, typer.Option(help="Segment traces.")]


@app.command()
def record(
    out: Annotated[Path, typer.Option(help="Directory of the segment traces.")],
    small: Annotated[str, typer.Option(help="Directory or hub id.")] = "checkpoints/small",
    large: Annotated[str, typer.Option(help="Directory or hub id.")] = "checkpoints/large",
    questions: Annotated[
        Path | None, typer.Option(help="As in `allot record`; default: the bundled tasks.")
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(help="SPLIT=COUNT: at most so many questions, spread evenly; repeatable."),
    ] = None,
    attempts: Annotated[int, typer.Option(min=1, help="Trees per question.")] = 1,
    draws: Annotated[
        str, typer.Option(help="Draws of a segment, by places redone before it.")
    ] = "3,2,1",
    lines: Annotated[bool, typer.Option(help="End segments at line breaks.")] = True,
    segment_tokens: Annotated[int, typer.Option(min=1, help="Longest segment.")] = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest attempt.")] = 192,
    temperature: Annotated[float, typer.Option(min=0, help="Of the sampling.")] = TEMPERATURE,
    text: Annotated[bool, typer.Option(help="Record what segments say.")] = False,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = 0,
) -> None:
    """Record trees of segments: whatever a decision could lead to; run again to resume."""
    from controller.segments.types import Segmentation
    from envs.question_files import bundled_questions, read_questions
    from training.segments.record_models import record_trees
    from training.segments.trees import TreeConfig

    by_split = read_questions(questions) if questions else bundled_questions()
    limits = _counts("limit", limit or [])
    by_split = {
        split: _spread(members, limits.get(split, len(members)))
        for split, members in by_split.items()
    }
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("recording", total=sum(len(m) for m in by_split.values()))
        record_trees(
            by_split,
            (small, large),
            out,
            TreeConfig(attempts=attempts, draws=_numbers("draws", draws), keep_text=text),
            Segmentation(lines=lines, max_tokens=segment_tokens),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            progress=lambda done: progress.update(task, completed=done),
        )
    console.print(f"{out}: ready for allot segments train --traces {out}", highlight=False)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Directory of the controller.")],
    traces: Traces = TRACES,
    steps: Annotated[int, typer.Option(min=1, help="Environment steps.")] = 4_000_000,
    num_envs: Annotated[int, typer.Option(min=1, help="Episodes side by side.")] = 2048,
    probes: Annotated[bool, typer.Option(help="Force an answer after each segment.")] = False,
    escalate: Annotated[bool, typer.Option(help="Let the large model take over.")] = True,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = 0,
) -> None:
    """Train a controller by PPO on segment traces; run again to resume."""
    from envs.segments.traces import SegmentTraces
    from training.config import PPOConfig
    from training.interrupt import asked_to_stop
    from training.segments.train import PPO_SETTINGS, SegmentTraining, prepare_trees
    from training.threads import limit_threads

    limit_threads()
    config = PPOConfig(total_steps=steps, num_envs=num_envs, seed=seed, **PPO_SETTINGS)
    prepared = prepare_trees(SegmentTraces.read(traces), probes=probes, escalates=escalate)
    training = SegmentTraining(prepared, config, out)
    with Progress(console=Console(stderr=True)) as progress, asked_to_stop() as stop:
        task = progress.add_task("training", total=config.total_steps)
        training.run(lambda done, _: progress.update(task, completed=done), stop)
    console.print(f"{out}: utility on the validation split {training.utility:.4f}")


@app.command()
def evaluate(
    controllers: Annotated[list[Path], typer.Argument(help="Checkpoints; seeds are pooled.")],
    traces: Traces = TRACES,
    attempt_controller: Annotated[
        list[Path] | None,
        typer.Option(help="Controllers of whole attempts to compare with; seeds are pooled."),
    ] = None,
    attempt_traces: Annotated[
        Path, typer.Option(help="Their traces of the same test questions.")
    ] = Path("checkpoints/traces"),
    both_controller: Annotated[
        list[Path] | None,
        typer.Option(help="The same, of attempts written under a segment controller."),
    ] = None,
    both_traces: Annotated[Path, typer.Option(help="Their traces.")] = Path("runs/both/traces"),
    greedy: Annotated[
        bool, typer.Option("--greedy", help="Add attempts at temperature 0, by the live models.")
    ] = False,
    num_prices: Annotated[int, typer.Option(min=1, help="Evenly on a log scale.")] = 12,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory for the picture and evaluation/, which `allot report` reads; "
            "default: the first one given."
        ),
    ] = None,
    results: Annotated[Path | None, typer.Option(help="Markdown file for the results.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare controllers inside attempts with tuned rules and with whole attempts."""
    from controller.segments.checkpoint import load_segment_checkpoint
    from envs.segments.recorded import read_trees
    from envs.segments.table import SegmentTable
    from envs.segments.traces import SegmentTraces
    from training.segments.evaluate import ATTEMPTS, BOTH, compare_segments, read_whole
    from training.segments.greedy import play_greedy
    from training.segments.results import save_results, save_segment_evaluation
    from training.segments.summary import summarise_segments
    from training.threads import limit_threads

    limit_threads()
    trees = SegmentTraces.read(traces)
    whole = {
        name: read_whole(paths, recorded)
        for name, paths, recorded in (
            (ATTEMPTS, attempt_controller, attempt_traces),
            (BOTH, both_controller, both_traces),
        )
        if paths
    }
    loaded, test = (
        [load_segment_checkpoint(path) for path in controllers],
        read_trees(trees, ["test"]),
    )
    comparison = compare_segments(
        loaded,
        SegmentTable.build(trees, ["train", "validation"]),
        test.table,
        whole=whole,
        fixed=play_greedy(trees, test.questions, loaded[0].config.cost) if greedy else None,
        num_prices=num_prices,
    )
    summary = summarise_segments(comparison)
    out = out or controllers[0]
    about = {
        "controllers": [str(path) for path in controllers],
        "traces": trees.path.name,
        "traces_digest": trees.manifest.get("digest"),
        "models": [model.name for model in trees.models],
        "repeats": test.table.num_attempts,
    }
    save_segment_evaluation(out, about, summary, comparison, loaded[0], test)
    save_results(summary, out, results, command_line())
    if as_json:
        print(json.dumps(summary, indent=1))
    else:
        console.print(
            lead_table(summary, "segment controller", "best other"),
            f"\n{out}/evaluation/, {out}/frontier.png",
            highlight=False,
        )


def _spread(questions: Sequence[Question], limit: int) -> list[Question]:
    """At most so many of them, evenly spaced."""
    count = min(limit, len(questions))
    return [questions[i * len(questions) // count] for i in range(count)]


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise ConfigError(
            f"{option}: expected whole numbers separated by commas, found {text!r}"
        ) from None


def _counts(option: str, entries: list[str]) -> dict[str, int]:
    counts = {}
    for entry in entries:
        name, _, number = entry.partition("=")
        if not number.isdigit() or not int(number):
            raise ConfigError(f"{option}: expected SPLIT=COUNT, found {entry!r}")
        counts[name] = int(number)
    return counts
