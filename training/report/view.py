"""What one sees while a controller trains: a live view, or a plain log without a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table

View = Callable[[int, Mapping[str, float]], None]

ACTION = "actions/"
"""Prefix of the metrics that hold the share of each action."""

_QUIET_S = 60.0
"""Longest time between two lines of a plain log."""


@contextmanager
def progress_bar(description: str, total: float) -> Iterator[Callable[..., None]]:
    """Shows how much is done; call what is yielded with that and, if it changes, a description."""
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total)
        yield lambda completed, text=description: progress.update(
            task, completed=completed, description=text
        )


@contextmanager
def training_view(console: Console, label: str, done: int, total: int) -> Iterator[View]:
    """Shows a training; call what is yielded with the steps so far and the newest metrics.

    A console that is no terminal gets plain lines. `done` steps of `total` were made before.
    """
    if not console.is_interactive or console.is_dumb_terminal:
        yield _Log(console, label, done, total).update
        return
    board = _Board(console, label, done, total)
    with Live(get_renderable=board.render, console=console, refresh_per_second=4):
        yield board.update


def _verdict(metrics: Mapping[str, float]) -> str:
    if "validation/utility" not in metrics:
        return f"episodes {metrics.get('episodic/utility', 0):.3f}"
    return (
        f"validation {metrics['validation/utility']:.3f}, best rule in hindsight "
        f"{metrics['validation/best_rule']:.3f} ({metrics['validation/lead']:+.3f})"
    )


def _shares(metrics: Mapping[str, float]) -> dict[str, float]:
    return {k.removeprefix(ACTION): v for k, v in metrics.items() if k.startswith(ACTION)}


class _Board:
    """Keeps the newest metrics and draws them."""

    def __init__(self, console: Console, label: str, done: int, total: int) -> None:
        self._metrics: dict[str, float] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.completed:,.0f} of {task.total:,.0f}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
        )
        self._task = self._progress.add_task(label, completed=done, total=total, rate="")

    def update(self, steps: int, metrics: Mapping[str, float]) -> None:
        self._metrics |= metrics
        rate = f"{metrics['charts/SPS']:,.0f} steps/s"
        self._progress.update(self._task, completed=steps, rate=rate)

    def render(self) -> Group:
        shares = Table.grid(padding=(0, 1))
        for name, share in _shares(self._metrics).items():
            bar = ProgressBar(total=1.0, completed=share, width=30)
            shares.add_row(name, bar, f"{share:4.0%}")
        lines = Table.grid(padding=(0, 2))
        if self._metrics:
            lines.add_row("utility", _verdict(self._metrics))
            lines.add_row("actions", shares)
        return Group(self._progress, Padding(lines, (0, 0, 0, 2)))


class _Log:
    """Prints a line per look at the validation split, and at least one a minute."""

    def __init__(self, console: Console, label: str, done: int, total: int) -> None:
        self._console, self._label = console, label
        self._first, self._total = done, total
        self._started = self._printed = time.monotonic()

    def update(self, steps: int, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        if "validation/utility" not in metrics and now - self._printed < _QUIET_S:
            return
        self._printed = now
        rate = (steps - self._first) / (now - self._started)
        left = timedelta(seconds=round((self._total - steps) / rate))
        shares = " ".join(f"{name} {share:.0%}" for name, share in _shares(metrics).items())
        self._console.print(
            f"{self._label}: {steps:,} of {self._total:,} steps ({steps / self._total:.0%}), "
            f"{rate:,.0f} steps/s, {left} left; utility: {_verdict(metrics)}; {shares}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
