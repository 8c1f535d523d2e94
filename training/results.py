"""A comparison as Markdown, for docs/RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from training.evaluate import CONTROLLER
from training.summary import behind, closest_rule


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a head."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def results_markdown(summary: dict[str, Any], command: str, num_seeds: int) -> str:
    """Everything that a comparison says, as tables.

    Args:
        summary: from `training.summary.summarise`.
        command: that regenerates the file.
        num_seeds: controllers that were pooled.
    """
    headline = markdown_table(
        ("at equal accuracy with", "compute used", "95% interval", "at accuracies"),
        (
            (
                name,
                f"{entry['ratio']:.0%}",
                "{:.0%} to {:.0%}".format(*entry["interval"]),
                ", ".join(f"{a:.1%}" for a in entry["accuracies"]),
            )
            for name, entry in summary["headline"].items()
        ),
    )
    return f"""# Results

{summary["num_questions"]} held-out questions, {len(summary["prices"])} prices, controllers of
{num_seeds} seed{"s" if num_seeds > 1 else ""} pooled. Intervals: paired bootstrap over questions.
Rules are tuned for each price on the train and validation splits. Regenerate with

    {command}

## Compute at equal accuracy

{headline}

A rule's compute is the least of its family's at that accuracy, mixtures included; the ratio
is the geometric mean over the accuracies given.

## By price

{_prices(summary)}

Behind a rule beyond its interval: {behind(summary)}.

## What the controller does

{_actions(summary)}

## Every policy's utility

{_utilities(summary)}
"""


def _prices(summary: dict[str, Any]) -> str:
    def row(i: int) -> Sequence[str]:
        ours = summary["policies"][CONTROLLER][i]
        name, lead = closest_rule(summary, i)
        return (
            f"{ours['price']:.1e}",
            f"{ours['accuracy']:.1%}",
            f"{ours['cost']:.0f}",
            f"{ours['utility']:.3f}",
            name,
            f"{lead['lead']:+.3f}",
            "{:+.3f} to {:+.3f}".format(*lead["interval"]),
            f"{summary['gap_closed'][i]:.0%}",
        )

    head = (
        "price",
        "accuracy",
        "cost",
        "utility",
        "best rule",
        "lead",
        "95% interval",
        "gap closed",
    )
    return (
        markdown_table(head, (row(i) for i in range(len(summary["prices"]))))
        + "\n\nGap closed: share of the utility between the best static mixture and the informed "
        "oracle, which knows\nwhich fixed plan is best for each question."
    )


def _actions(summary: dict[str, Any]) -> str:
    names = ("samples", "revisions", "escalations", "verified", "serial_rounds")
    return markdown_table(
        ("price", *(name.replace("_", " ") for name in names)),
        (
            (f"{row['price']:.1e}", *(f"{row[name]:.2f}" for name in names))
            for row in summary["policies"][CONTROLLER]
        ),
    )


def _utilities(summary: dict[str, Any]) -> str:
    everyone = {**summary["policies"], **summary["oracles"]}
    return markdown_table(
        ("policy", *(f"{price:.0e}" for price in summary["prices"])),
        ((name, *(f"{row['utility']:.3f}" for row in rows)) for name, rows in everyone.items()),
    )
