"""Commands about trace sets: to record or import one, and what is made of one but controllers."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from controller.backends.places import ModelPlace, read_menu
from controller.backends.prompts import REVISER, VERIFIER, read_prompts
from controller.bundled import bundled
from controller.errors import ConfigError
from controller.process.actions import Tier
from training.cli.flags import Json, RayOptions, Traces, argument, flag, numbers, pairs, with_flags
from training.record.settings import Amount, Decoding, RecordConfig
from training.report.view import plain_console, progress_bar, shown

if TYPE_CHECKING:
    from controller.answers import AnswerKind
    from training.record.cluster import Cluster
    from training.record.sources import Models

console = plain_console()
_MUCH_CUT = 0.2
_SHOWN = 60


@dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """What to record of which models, and how.

    Attributes:
        out: directory of the trace set.
        small: [NAME=]PLACE: a directory, a GGUF file, a hub id or URL#MODEL of a server;
            repeatable. Default: the bundled model.
        large: the same.
        arm: NAME=PLACE,tier=small|large, with any of ,family=NAME ,body=JSON (further fields of
            each request) ,prompt=FILE|TEXT ,revises=true ,verifies=true; repeatable.
        menu: YAML file of such arms, under `arms`.
        questions: JSONL, CSV or parquet with question and reference (and question_id, dataset,
            level, split); default: the bundled tasks.
        train_scale: so many times the train questions of the bundled set.
        limit: at most so many questions per split, spread evenly.
        amount: of attempts.
        answers: of answers where a question names none, see docs/answers.md; default: auto.
        prompt: [NAME=]FILE|TEXT that models are asked with, all or one of them: {question} stands
            for the question; chat messages as JSON; repeatable.
        finish: end an unfinished recording: a set of the questions that are whole.
        reviser: adapter of the small model.
        verifier: adapter of the small model.
        decoding: by the models.
        parameters: NAME=COUNT of models on servers that do not tell; repeatable.
        segment_controller: samples are written under it, segment by segment.
        segment_price: price that it is told.
        licence: of the recorded texts; noted in trace.json.
        cluster: that records.
        workers: on the cluster; default: as many as there is room for.
        worker_gpus: GPUs of each worker; 0.5 lets two share one.
        as_json: print JSON instead of tables.
    """

    out: Path
    small: tuple[str, ...] = ()
    large: tuple[str, ...] = ()
    arm: tuple[str, ...] = ()
    menu: Path | None = None
    questions: Path | None = None
    train_scale: int = flag(1, min=1)
    limit: int | None = flag(None, min=1)
    amount: Amount
    answers: str | None = flag(None, metavar="KIND")
    prompt: tuple[str, ...] = ()
    finish: bool = flag(False, "--finish")
    reviser: Path | None = None
    verifier: Path | None = None
    decoding: Decoding
    parameters: tuple[str, ...] = ()
    segment_controller: Path | None = None
    segment_price: float = 1e-3
    licence: str | None = None
    cluster: RayOptions
    workers: int | None = None
    worker_gpus: float = 0.0
    as_json: bool = flag(False, "--json")

    def __post_init__(self) -> None:
        if self.segment_controller is None and self.segment_price != RecordOptions.segment_price:
            raise ConfigError("segment_price: expected the --segment-controller that is told it")


@with_flags(RecordOptions)
def record(options: RecordOptions) -> None:
    """Record attempts of models as a trace set; run again to resume or extend it."""
    o = options
    if o.finish:
        from training.record.recording import finish

        finish(o.out)
        _report(o.out, o.as_json)
        return
    places = _places(o)
    source = _source(o, places)
    asked = _questions(o)
    from training.record.progress import RecordingView
    from training.record.sources import record_models

    if o.reviser and any(place.revises for place in places[1:]) and not places[0].revises:
        raise ConfigError(
            f"reviser: expected the first arm, {places[0].name}, to be one that revises, found "
            "others alone; say revises=true of it, or leave the adapter out"
        )
    smalls = sum(place.tier is Tier.SMALL for place in places)
    revisers = tuple(rung for rung, place in enumerate(places) if place.revises)
    revised = o.amount.revised_samples
    if revised == 0 and revisers:
        raise ConfigError(
            f"revised_samples: expected at least 1 with arms that revise, "
            f"{[places[rung].name for rung in revisers]}, found 0"
        )
    amount = vars(o.amount) | {
        "revised_samples": min(1, len(revisers)) if revised is None else revised
    }
    config = RecordConfig(
        **amount, smalls=smalls, revisers=revisers, verifier=the_verifier(places, o.verifier)
    )
    cluster: Cluster | None = o.cluster.cluster(o.workers, o.worker_gpus)
    notes = {"licence": o.licence} if o.licence else {}
    view = RecordingView()
    with shown(plain_console(stderr=True), lambda: str(view)) as view.changed:
        record_models(
            asked, source, o.out, config, cluster, notes, lambda r: view.begin(*r.counts())
        )
    _report(o.out, o.as_json)


def the_verifier(places: list[ModelPlace], adapter: Path | None) -> int | None:
    """Rung of the arm that verifies."""
    judges = [rung for rung, place in enumerate(places) if place.verifies]
    if len(judges) + bool(adapter) > 1:
        raise ConfigError(
            "verifies: expected one verifier, an arm or the first model's adapter, found "
            f"{[places[rung].name for rung in judges]}{f' and {adapter}' if adapter else ''}"
        )
    return next(iter(judges), None)


def _places(o: RecordOptions) -> list[ModelPlace]:
    """Arms, those of the small tier first."""
    given = o.arm or o.menu
    small = o.small or (() if given else (str(bundled("small")),))
    large = o.large or (() if given or o.small else (str(bundled("large")),))
    arms = [ModelPlace.parse(model) for model in o.arm]
    arms += read_menu(o.menu) if o.menu else ()
    for place in arms:
        if place.tier is None:
            raise ConfigError(f"arm {place.name}: expected tier=small or tier=large, found none")
    for tier, models in ((Tier.SMALL, small), (Tier.LARGE, large)):
        arms += [replace(ModelPlace.parse(model), tier=tier) for model in models]
    if not any(place.tier is Tier.SMALL for place in arms):
        raise ConfigError(
            f"arms: expected at least one of the small tier, found {[a.name for a in arms]}"
        )
    return sorted(arms, key=lambda place: place.tier is Tier.LARGE)


def _source(o: RecordOptions, places: list[ModelPlace]) -> Models:
    from training.record.sources import find_source

    adapters, decoding = {REVISER: o.reviser, VERIFIER: o.verifier}, o.decoding
    local = any(not place.is_server for place in places)
    if local and o.cluster.ray and o.worker_gpus and decoding.device_map is None:
        decoding = replace(decoding, device_map="auto")
    return find_source(
        places,
        prompts=read_prompts(o.prompt, [place.name for place in places]),
        adapters={name: path for name, path in adapters.items() if path is not None},
        parameters=numbers("parameters", o.parameters),
        inside=(o.segment_controller, o.segment_price) if o.segment_controller else None,
        **vars(decoding),
    )


def _questions(o: RecordOptions) -> dict[str, Any]:
    """Questions by split."""
    from controller.answers import UNSTATED, load_kind
    from envs.questions.files import bundled_questions, read_questions
    from training.record.plans import spread

    if o.questions and o.train_scale > 1:
        raise ConfigError(
            f"train_scale: expected 1 with a file of questions, found {o.train_scale}; only "
            "bundled tasks can be drawn anew"
        )
    if o.answers and not o.questions:
        raise ConfigError(
            f"answers: expected a file of questions with it, found {o.answers!r} alone"
        )
    kind = load_kind(o.answers or UNSTATED).name
    by_split = (
        read_questions(o.questions, kind) if o.questions else bundled_questions(o.train_scale)
    )
    for split, members in by_split.items():
        kept = {q.question_id for q, _ in spread((q, split) for q in members)[: o.limit]}
        by_split[split] = [q for q in members if q.question_id in kept]
    return by_split


def _report(out: Path, as_json: bool) -> None:
    """Say what was recorded, and what may be wrong with it."""
    from envs.traces.format import TraceSet
    from envs.traces.summary import answer_warnings
    from training.record.progress import summary_table

    traces = TraceSet.read(out)
    manifest, summary = traces.manifest, traces.manifest["summary"]
    if as_json:
        keys = ("questions", "splits", "unfinished", "summary")
        print(json.dumps({key: manifest[key] for key in keys if key in manifest}, indent=1))
    else:
        console.print(summary_table(summary))
        left = f" ({manifest['unfinished']} more are not whole)" if "unfinished" in manifest else ""
        console.print(f"{out}: {manifest['questions']} questions{left}", highlight=False)
    for message in answer_warnings(traces, list(summary)):
        warnings.warn(message, stacklevel=2)
    for model, found in summary.items():
        if found["cut"] > _MUCH_CUT:
            warnings.warn(
                f"{model}: {found['cut']:.0%} of its attempts were cut at their longest; allow "
                "longer ones (--max-new-tokens) in another directory, or ask for shorter ones "
                "(--prompt)",
                stacklevel=2,
            )


def evaluate_models(
    traces: Traces = bundled("traces"),
    split: Annotated[str, typer.Option(help="train, validation or test")] = "test",
    as_json: Json = False,
) -> None:
    """pass@1, majority and pass@k of a trace set's models, by level and task."""
    from envs.traces.format import TraceSet
    from training.compare.models import FEWEST, model_table
    from training.report.show import print_rows

    table = model_table(TraceSet.read(traces), split)
    if as_json:
        print(json.dumps(table, indent=1))
        return
    for kind, rows in table.items():
        print_rows(kind, rows)
    console.print(f"levels and tasks of fewer than {FEWEST} questions are left out")


def verify(
    traces: Annotated[Path, typer.Argument(help="Trace set with the attempts' texts.")],
    verifier: Annotated[Path, typer.Option(help="Adapter of the small model.")],
    out: Annotated[Path, typer.Option(help="Directory of the new trace set.")],
    small: Annotated[
        str, typer.Option(help="Directory or hub id.", show_default="the bundled one")
    ] = str(bundled("small")),
) -> None:
    """Add a verifier's scores to a trace set that was recorded without it; run again to resume."""
    from envs.traces.format import TraceSet
    from training.record.recording import add_scores

    with progress_bar("verifying", 1.0) as update:
        num_scored = add_scores(
            TraceSet.read(traces), small, verifier, out, lambda done, of: update(done / of)
        )
    console.print(f"{out}: {num_scored} attempts scored")


def train_adapter(
    adapter: Annotated[Literal["reviser", "verifier"], typer.Argument(help="reviser or verifier")],
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
        int,
        typer.Option(
            min=0,
            help="Attempts at a question to learn from, default 4; of a reviser so many wrong "
            "and so many right ones, default 2.",
        ),
    ] = 0,
    epochs: Annotated[int, typer.Option(min=0, help="Of LoRA weights; 0: as suit.")] = 0,
) -> None:
    """Train a reviser or a verifier from recorded attempts, and measure it; run again to resume."""
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

    if adapter == VERIFIER and lora and samples:
        raise ConfigError("samples: expected none with --lora, which learns from all attempts")
    if adapter == VERIFIER and not lora and epochs:
        raise ConfigError("epochs: expected none of a read-out; add --lora, or leave them out")
    place, recorded = ModelPlace.parse(model), TraceSet.read(traces)
    solutions, given = right_texts(recorded), {"epochs": epochs} if epochs else {}
    if adapter == REVISER:
        if samples:
            given |= {"wrong_per_question": samples, "right_per_question": samples}
        train_reviser(place, recorded, solutions, out, ReviserConfig(**given))
        found = measure_reviser(place, out, recorded)
    elif lora:
        config = VerifierConfig(**given)
        training = VerifierTraining(place, [recorded], solutions, out, config)
        with progress_bar("training a verifier", 1.0) as update:
            found = training.run(lambda done, loss: update(done, f"verifier, loss {loss:.3f}"))
    else:
        with progress_bar("reading attempts", 1.0) as update:
            found = train_readout(
                place,
                recorded,
                out,
                samples=samples or 4,
                progress=lambda done, of: update(done / of, f"read {done:,} of {of:,} attempts"),
            )
    for figure, value in found.items():
        print(f"{figure} {value:.3f}")


def cost(
    menu: Annotated[
        Path | None, typer.Argument(help="YAML file of arms; default: those of the traces.")
    ] = None,
    traces: Annotated[
        Path | None, typer.Option(help="Recorded attempts; default, without a menu: bundled.")
    ] = None,
    ladder: Annotated[
        str | None, typer.Option(help="Arms of the traces, separated by commas; default: its own.")
    ] = None,
    dollars: Annotated[
        list[str] | None,
        typer.Option(help="MODEL=PROMPT/WRITTEN, of a million tokens; repeatable."),
    ] = None,
    hardware: Annotated[
        str, typer.Option(help="That a menu's models run on, or operations/bytes per second.")
    ] = "h100",
    batch: Annotated[int, typer.Option(min=1, help="Attempts side by side there.")] = 1,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Where traces do not tell.")] = 200,
    written_tokens: Annotated[int, typer.Option(min=1, help="The same.")] = 300,
    as_json: Json = False,
) -> None:
    """Print what an attempt by each arm costs, in operations, dollars and seconds, and why."""
    from training.learn.config import said_rates
    from training.report.show import print_rows

    prices = said_rates(pairs("dollars", dollars or []))
    if menu is not None and ladder:
        raise ConfigError("ladder: expected none beside a menu, whose arms are all told")
    if menu is None and (hardware, batch, prompt_tokens, written_tokens) != ("h100", 1, 200, 300):
        raise ConfigError(
            "hardware, batch, prompt-tokens, written-tokens: expected a menu with them, since "
            "traces tell what was written"
        )
    if menu is not None:
        from controller.backends.architecture import named_hardware
        from controller.backends.places import read_menu
        from training.compare.models import Load, loads_of, menu_cost

        places, device = read_menu(menu), named_hardware(hardware)
        default = Load(prompt=prompt_tokens, written=written_tokens, batch=batch)
        loads = {place.name: default for place in places} | loads_of(traces, default)
        rows, title = menu_cost(places, loads, device, prices), f"{menu}, on {hardware}"
    else:
        from envs.traces.format import TraceSet
        from training.compare.models import cost_table

        arms, recorded = ladder.split(",") if ladder else (), traces or bundled("traces")
        rows = cost_table(TraceSet.read(recorded), arms, prices)
        title = f"{recorded}, costs in tokens of {rows[0]['arm']}"
        if unknown := sorted(prices.keys() - {row["arm"] for row in rows}):
            named = [row["arm"] for row in rows]
            raise ConfigError(f"dollars: expected arms among {named}, found {unknown[0]!r}")
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print_rows(title, rows)


@dataclass(frozen=True, kw_only=True)
class ImportFlags:
    """What to import, and how logs are to be read.

    Attributes:
        files: logs of evaluations, of allot serve, or tables: docs/traces.md.
        out: directory of the trace set.
        small: model that samples; default: most attempts.
        parameters: MODEL=COUNT, for the ledger; repeatable.
        references: files with question and reference, by question_id or question; repeatable.
        map_references: THEIRS=OURS, a column of those files by its name here; repeatable.
        answers: of answers, see docs/answers.md; default: auto, and what a harness has read.
        filters: of lm-evaluation-harness: whose answers count; repeatable.
        metrics: tells what is right, by 0 and 1; repeatable.
        columns: THEIRS=OURS, a column by its name here, or none to leave it out; repeatable.
        constants: COLUMN=VALUE, where a log does not tell; {file} is its name; repeatable.
        as_json: print JSON instead of tables.
    """

    files: tuple[Path, ...] = argument()
    out: Path
    small: str | None = None
    parameters: tuple[str, ...] = ()
    references: tuple[Path, ...] = ()
    map_references: tuple[str, ...] = ()
    answers: str | None = flag(None, metavar="KIND")
    filters: tuple[str, ...] = flag((), "--filter")
    metrics: tuple[str, ...] = flag((), "--metric")
    columns: tuple[str, ...] = flag((), "--map")
    constants: tuple[str, ...] = flag((), "--set")
    as_json: bool = flag(False, "--json")


@with_flags(ImportFlags)
def import_(given: ImportFlags) -> None:
    """Make a trace set from generations that were recorded elsewhere."""
    from controller.answers import load_kind
    from envs.traces.importing import import_attempts
    from envs.traces.logs import ImportOptions
    from envs.traces.readers import read_references
    from training.report.show import print_rows

    options = ImportOptions(
        filters=given.filters,
        metrics=given.metrics,
        columns=pairs("map", given.columns),
        constants=pairs("set", given.constants),
        references=read_references(
            *given.references, columns=pairs("map_references", given.map_references)
        ),
        answers=None if given.answers is None else load_kind(given.answers).name,
    )
    sizes, out = numbers("parameters", given.parameters), given.out
    made = import_attempts(given.files, out, small=given.small, parameters=sizes, options=options)
    if given.as_json:
        print(json.dumps(asdict(made), indent=1))
        return
    for told, sentences in (("took", made.notes), ("missing", made.missing)):
        for sentence in sentences:
            console.print(f"{told} {sentence}", highlight=False, soft_wrap=True)
    for dataset in dict.fromkeys(group.dataset for group in made.groups):
        rows = [group.shown for group in made.groups if group.dataset == dataset]
        print_rows(dataset or str(out), rows)
    console.print(f"{out}: ready for allot train --traces {out}", highlight=False)


def read(
    file: Annotated[
        str,
        typer.Argument(
            help="A text per line, or JSONL with text (and reference); - for standard input."
        ),
    ],
    kind: Annotated[
        str, typer.Option(help="Of answers, see docs/answers.md, or MODULE:FUNCTION.")
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Read the answers that texts state, and say by which rule."""
    from controller.answers import load_kind, unread_warning

    chosen = load_kind(kind)
    rows = [_read(chosen, row) for row in _texts(_lines(file))]
    if as_json:
        for row in rows:
            print(json.dumps({name: row[name] for name in row if name != "text"}))
    else:
        _print(rows)
    unread = [row["text"] for row in rows if row["answer"] is None]
    if message := unread_warning(file, len(rows), len(rows) - len(unread), unread):
        print(f"note: {message}", file=sys.stderr)


def _lines(file: str) -> list[str]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: expected a file of texts: {error}") from None
    return [line for line in text.splitlines() if line.strip()]


def _texts(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            row: dict[str, Any] | None = json.loads(line) if line.startswith("{") else None
        except json.JSONDecodeError:
            row = None
        yield row if row is not None and isinstance(row.get("text"), str) else {"text": line}


def _read(kind: AnswerKind, row: dict[str, Any]) -> dict[str, Any]:
    reading = kind.read(row["text"])
    answer, how = (None, None) if reading is None else (reading.answer, reading.how)
    found: dict[str, Any] = {"text": row["text"], "answer": answer, "how": how}
    if row.get("reference") is not None:
        from controller.answers import is_one_of, right_answers

        found["right"] = is_one_of(kind, answer, tuple(right_answers(row["reference"])))
    return found


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table("the text ends", "answer", "how", "right", box=None)
    for row in rows:
        text = " ".join(row["text"].split())[-_SHOWN:]
        cells = [text, row["answer"] or "", row["how"] or "not read"]
        table.add_row(*cells, ("yes" if row["right"] else "no") if "right" in row else "")
    console.print(table)
    print(f"read {sum(row['answer'] is not None for row in rows)} of {len(rows)}")
