"""Results on the terminal."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from rich.console import Console
from rich.table import Table


def command_line(program: str = "allot") -> str:
    """The command that is running, as one would type it.

    Args:
        program: how one calls it.
    """
    return shlex.join([*program.split(), *sys.argv[1:]])


def print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows of names and shares as a table."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{v:.1%}" if isinstance(v, float) else str(v) for v in row.values()))
    Console().print(table)


def lead_table(summary: dict[str, Any], controller: str, others: str) -> Table:
    """How a controller does by price, and the policy that it leads least.

    Args:
        summary: of a comparison.
        controller: its name there.
        others: heading of those that it is compared with.
    """
    from training.compare.summary import closest_rule

    table = Table("price", "accuracy", "cost", "utility", others, "lead", "95%", box=None)
    for i, row in enumerate(summary["policies"][controller]):
        name, lead = closest_rule(summary, i)
        low, high = lead["interval"]
        table.add_row(
            f"{row['price']:.1e}",
            f"{row['accuracy']:.1%}",
            f"{row['cost']:.0f}",
            f"{row['utility']:.3f}",
            name,
            f"{lead['lead']:+.3f}",
            f"{low:+.3f} to {high:+.3f}",
        )
    return table
