"""What one sees of a recording: a line while models write, and a row per model at its end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.live import Live
from rich.table import Table

from controller.process.types import CUT
from training.record.parts import Rows

Watch = Callable[[Mapping[str, Rows]], None]
"""Is shown rows as they are recorded, by the tables' names."""

_QUIET_S = 60.0
"""Longest time between two plain lines."""


class RecordingView:
    """Counts attempts and says how far a recording is.

    Args:
        console: for plain lines; None where a live line is drawn.
    """

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self._total = self._before = self._done = self._tokens = self._read = self._cut = 0
        self._started = self._printed = time.monotonic()

    def begin(self, total: int, left: int) -> Watch:
        """Of attempts that are wanted some are missing; returns what is called with new rows."""
        self._total, self._before = total, total - left
        self._started = time.monotonic()
        self._print()
        return self._see

    def _see(self, rows: Mapping[str, Rows]) -> None:
        for row in rows.get("attempts", ()):
            self._done += row["parent_id"] is None
            self._tokens += row["completion_tokens"]
            self._read += row["parent_id"] is None and row["answer"] is not None
            self._cut += row["parent_id"] is None and row["finish_reason"] == CUT
        if time.monotonic() - self._printed >= _QUIET_S:
            self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        if self._console is not None:
            self._console.print(str(self), highlight=False, markup=False, soft_wrap=True)

    def __rich__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        done = self._before + self._done
        text = f"recording: {done:,} of {self._total:,} attempts"
        if not self._total or not self._done:
            return text
        seconds = time.monotonic() - self._started
        left = timedelta(seconds=round((self._total - done) * seconds / self._done))
        return (
            f"{text} ({done / self._total:.0%}), {self._tokens / seconds:,.0f} tokens/s, "
            f"{self._read / self._done:.0%} read, {self._cut / self._done:.0%} cut, {left} left"
        )


@contextmanager
def recording_view(console: Console) -> Iterator[RecordingView]:
    """Shows a recording.

    Args:
        console: to draw on; gets plain lines if it is no terminal.
    """
    if not console.is_interactive or console.is_dumb_terminal:
        yield RecordingView(console)
        return
    view = RecordingView(None)
    with Live(get_renderable=lambda: str(view), console=console, refresh_per_second=2):
        yield view


_COLUMNS = (
    *("question_id", "model", "parent_id", "answer", "correct", "finish_reason", "error"),
    *("completion_tokens", "prompt_tokens", "cached_tokens"),
)


def summary(out: Path, speeds: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    """How each model did, revisions aside.

    Args:
        out: directory of the tables.
        speeds: tokens per second by model, where they were measured.

    Returns:
        By model: `attempts`; shares of them that could be `read`, were `cut`, `failed` and were
        `right`; the share of questions whose most frequent answer is right, `majority`; `tokens`
        per attempt, `tokens_per_s` and the share of the prompts that was `cached`.
    """
    rows = pq.read_table(out / "attempts.parquet", columns=list(_COLUMNS)).to_pylist()
    by_model: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["parent_id"] is None:
            by_model.setdefault(row["model"], []).append(row)
    return {
        model: {**_shares(own), "tokens_per_s": speeds.get(model)}
        for model, own in by_model.items()
    }


def _shares(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    votes: dict[str, Counter[str]] = {row["question_id"]: Counter() for row in rows}
    for row in rows:
        if row["answer"] is not None:
            votes[row["question_id"]][row["answer"]] += 1
    leaders = {(q, counts.most_common(1)[0][0]) for q, counts in votes.items() if counts}
    right = {(row["question_id"], row["answer"]) for row in rows if row["correct"]}
    prompts, n = sum(row["prompt_tokens"] for row in rows), len(rows)
    return {
        "attempts": n,
        "read": sum(row["answer"] is not None for row in rows) / n,
        "cut": sum(row["finish_reason"] == CUT for row in rows) / n,
        "failed": sum(row["error"] is not None for row in rows) / n,
        "right": sum(bool(row["correct"]) for row in rows) / n,
        "majority": len(leaders & right) / len(votes),
        "tokens": sum(row["completion_tokens"] for row in rows) / n,
        "cached": sum(row["cached_tokens"] or 0 for row in rows) / prompts if prompts else None,
    }


def summary_table(summary: Mapping[str, Mapping[str, Any]]) -> Table:
    """What was recorded, a row per model."""
    table = Table(box=None)
    names = ("model", "attempts", "read", "cut", "failed", "right", "majority", "tokens")
    for name in (*names, "tokens/s", "cached"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for model, found in summary.items():
        shares = (found[name] for name in ("read", "cut", "failed", "right", "majority"))
        table.add_row(
            model,
            f"{found['attempts']:,}",
            *(f"{share:.0%}" for share in shares),
            f"{found['tokens']:.0f}",
            "" if found["tokens_per_s"] is None else f"{found['tokens_per_s']:,.0f}",
            "" if found["cached"] is None else f"{found['cached']:.0%}",
        )
    return table
