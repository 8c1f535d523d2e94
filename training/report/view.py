"""What one sees while something goes on: a bar, or a line that says how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

from rich.console import Console
from rich.live import Live
from rich.progress import Progress
from rich.text import Text

View = Callable[[int, Mapping[str, float]], None]

ACTION = "actions/"
"""Prefix of the metrics that hold the share of each action."""

plain_console = partial(Console, markup=False, emoji=False)
"""A console on which texts stand as they are: an answer [x, y] is no style there."""

_QUIET_S = 60.0
"""Longest time between two plain lines."""


@contextmanager
def progress_bar(description: str, total: float) -> Iterator[Callable[..., None]]:
    """Shows how much is done; call what is yielded with that and, if it changes, a description."""
    with Progress(console=plain_console(stderr=True)) as progress:
        task = progress.add_task(description, total=total)
        yield lambda completed, text=description: progress.update(
            task, completed=completed, description=text
        )


@contextmanager
def shown(console: Console, line: Callable[[], str]) -> Iterator[Callable[[bool], None]]:
    """Shows a line as it changes; call what is yielded when it may have, and if that matters.

    A console that is no terminal gets plain lines: those that matter, and at least one a minute.
    """
    if console.is_interactive and not console.is_dumb_terminal:
        with Live(get_renderable=lambda: Text(line()), console=console, refresh_per_second=2):
            yield lambda matters: None
        return
    printed = time.monotonic()

    def changed(matters: bool) -> None:
        nonlocal printed
        if matters or time.monotonic() - printed >= _QUIET_S:
            printed = time.monotonic()
            console.print(line(), highlight=False, soft_wrap=True)

    yield changed


def left(done: float, total: float, seconds: float) -> timedelta:
    """How long the rest takes if `done` of it took so long."""
    return timedelta(seconds=round((total - done) * seconds / done))


@contextmanager
def training_view(console: Console, label: str, done: int, total: int) -> Iterator[View]:
    """Shows a training; call what is yielded with the steps so far and the newest metrics.

    `done` steps of `total` were made before.
    """
    started, text = time.monotonic(), f"{label}: {done:,} of {total:,} steps"
    known: dict[str, float] = {}
    with shown(console, lambda: text) as changed:

        def update(steps: int, metrics: Mapping[str, float]) -> None:
            nonlocal text
            known.update(metrics)
            seconds = time.monotonic() - started
            rest = left(steps - done, total - done, seconds)
            shares = (
                f"{name.removeprefix(ACTION)} {share:.0%}"
                for name, share in known.items()
                if name.startswith(ACTION)
            )
            text = (
                f"{label}: {steps:,} of {total:,} steps ({steps / total:.0%}), "
                f"{(steps - done) / seconds:,.0f} steps/s, {rest} left; utility: "
                f"{_verdict(known)}; {' '.join(shares)}"
            )
            changed("validation/utility" in metrics)

        yield update


def _verdict(metrics: Mapping[str, float]) -> str:
    if "validation/utility" not in metrics:
        return f"episodes {metrics.get('episodic/utility', 0):.3f}"
    return (
        f"validation {metrics['validation/utility']:.3f}, best rule in hindsight "
        f"{metrics['validation/best_rule']:.3f} ({metrics['validation/lead']:+.3f})"
    )
