"""What one sees while models are recorded: a live line, or plain ones without a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from controller.process.types import CUT
from training.record.parts import Rows
from training.record.recording import Recording, Watch

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

    def begin(self, recording: Recording) -> Watch:
        """See what there is and what is missing; returns what is to be called with new rows."""
        left = sum(len(i) for m in recording.missing() for i in m.indices.values())
        self._total = len(recording.plan.questions) * sum(recording.plan.wanted.values())
        self._before = self._total - left
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
            *("" if v is None else f"{v:,.0f}" for v in (found["tokens_per_s"],)),
            *("" if v is None else f"{v:.0%}" for v in (found["cached"],)),
        )
    return table
