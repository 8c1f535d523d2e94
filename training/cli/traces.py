"""Commands about what was written: `allot import`, `verify`, `models evaluate` and `read`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from controller.bundled import bundled
from controller.errors import ConfigError
from training.cli.flags import argument, flag, with_flags
from training.cli.options import Json, Traces, numbers, pairs
from training.report.view import progress_bar

if TYPE_CHECKING:
    from controller.answers import AnswerKind

console = Console()
_SHOWN = 60


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
    """Add a verifier's scores to a trace set that was recorded without it."""
    from envs.traces.format import TraceSet
    from training.adapters.verifier import add_scores
    from training.learn.threads import limit_threads

    limit_threads()
    trace_set = TraceSet.read(traces)
    with progress_bar("verifying", trace_set.num_attempts) as update:
        num_scored = add_scores(trace_set, small, verifier, out, update)
    console.print(f"{out}: {num_scored} attempts scored")


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
    from training.learn.config import list_prices
    from training.report.show import print_rows

    prices = list_prices(pairs("dollars", dollars or []))
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
        references: for logs without: question and reference, by question_id or question.
        answers: of answers, see docs/answers.md; default: auto, and what a harness has read.
        filters: of lm-evaluation-harness: whose answers count; repeatable.
        metrics: tells what is right, by 0 and 1; repeatable.
        columns: THEIRS=OURS, a column by its name here; repeatable.
        constants: COLUMN=VALUE, where a log does not tell; repeatable.
        as_json: print JSON instead of tables.
    """

    files: tuple[Path, ...] = argument()
    out: Path
    small: str | None = None
    parameters: tuple[str, ...] = ()
    references: Path | None = None
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
    from envs.traces.served import read_references
    from training.report.show import print_rows

    options = ImportOptions(
        filters=given.filters,
        metrics=given.metrics,
        columns=pairs("map", given.columns),
        constants=pairs("set", given.constants),
        references=read_references(given.references) if given.references else {},
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
        from controller.answers import is_right

        found["right"] = is_right(kind, answer, str(row["reference"]))
    return found


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table("the text ends", "answer", "how", "right", box=None)
    for row in rows:
        text = " ".join(row["text"].split())[-_SHOWN:]
        cells = [text, row["answer"] or "", row["how"] or "not read"]
        table.add_row(*cells, ("yes" if row["right"] else "no") if "right" in row else "")
    Console().print(table, markup=False)
    print(f"read {sum(row['answer'] is not None for row in rows)} of {len(rows)}")
