"""Lines of several policies in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt

from training.report.plots import STYLE, log_axis, save_figure

_COLOURS = ("#1b1c1e", "#0a8a94", "#c8453c", "#8a8d94")

Line = Sequence[float] | Sequence[tuple[float, float, float]]
"""A number at each place, or one with its interval."""


def draw_lines(out: Path, x: Sequence[float], lines: Mapping[str, Line], **axes: Any) -> None:
    """Write a PNG of lines by name, at `x`, (n,), on a logarithmic axis; `axes` are settings."""
    with matplotlib.rc_context(fname=STYLE):
        figure, drawn = plt.subplots(figsize=(5.2, 4.2))
        for (name, line), colour in zip(lines.items(), _COLOURS, strict=False):
            values, *interval = zip(
                *(p if isinstance(p, tuple) else (p,) for p in line), strict=True
            )
            drawn.plot(x, values, "o-", color=colour, label=name)
            if interval:
                low, high = interval
                drawn.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        drawn.set(**axes)
        log_axis(drawn)
        drawn.legend()
        save_figure(figure, out)
