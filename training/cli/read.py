"""The command `allot read`: tries a kind of answers on texts, without a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from controller.errors import ConfigError
from training.cli.options import Json

if TYPE_CHECKING:
    from controller.answers import AnswerKind

_SHOWN = 60


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
