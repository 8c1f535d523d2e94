"""A comparison inside attempts as files: an evaluation, a picture and Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from controller.card import markdown_table
from controller.segments.checkpoint import SegmentCheckpoint
from envs.segments.recorded import RecordedTrees
from envs.traces import write_atomically
from training.evaluation import Evaluation, save_evaluation
from training.plots import finish_frontier, save_figure
from training.segments.decisions import play_segment_decisions, segment_columns
from training.segments.evaluate import ATTEMPTS, BOTH, GREEDY, SEGMENTS, SegmentComparison
from training.segments.summary import segment_headline

_STYLES = {
    SEGMENTS: ("o", "black", 2.0),
    ATTEMPTS: ("s", "#ee6677", 2.0),
    BOTH: ("d", "#4477aa", 2.0),
    GREEDY[0]: ("p", "#aa3377", 0.0),
    GREEDY[1]: ("h", "#aa3377", 0.0),
    "fixed length": ("^", "#4477aa", 0.8),
    "confident stop": ("v", "#66ccee", 0.8),
    "redo unlikely segments": ("P", "#228833", 0.8),
    "SpecReason, a segment": ("X", "#ccbb44", 0.8),
    "SpecReason, to the end": ("*", "#999933", 0.8),
    "prompt-only router": ("D", "#777777", 0.8),
}


def draw_frontier(summary: dict[str, Any], path: Path) -> None:
    """Accuracy against mean cost, of controllers and tuned rules.

    Args:
        summary: from `summarise_segments`.
        path: PNG to write.
    """
    figure, axes = plt.subplots(figsize=(8, 5), dpi=140, layout="constrained")
    for name, (marker, colour, width) in _STYLES.items():
        rows = [row for row in summary["policies"].get(name, ()) if row["cost"] > 0]
        if not rows:
            continue
        rows.sort(key=lambda row: row["cost"])
        cost = [row["cost"] for row in rows]
        axes.plot(
            cost,
            [row["accuracy"] for row in rows],
            marker=marker,
            color=colour,
            lw=width,
            ms=5,
            label=name,
        )
        if name in (SEGMENTS, ATTEMPTS, BOTH):
            low, high = zip(*(row["accuracy_interval"] for row in rows), strict=True)
            axes.fill_between(cost, low, high, color=colour, alpha=0.12, lw=0)
    finish_frontier(axes, f"{summary['num_questions']} held-out questions, 95% intervals shaded")
    save_figure(figure, path)


def save_segment_evaluation(
    run: Path,
    about: dict[str, Any],
    summary: dict[str, Any],
    comparison: SegmentComparison,
    checkpoint: SegmentCheckpoint,
    recorded: RecordedTrees,
) -> Evaluation:
    """Write an evaluation into a run directory; see `save_evaluation`.

    Args:
        run: directory.
        about: what was compared on what, as JSON.
        summary: from `summarise_segments`.
        comparison: that it sums up.
        checkpoint: controller whose decisions are kept.
        recorded: questions and trees that it was played on.
    """
    return save_evaluation(
        run,
        about,
        {**summary, "headline": segment_headline(comparison)},
        columns=segment_columns(recorded.backend.keeps_text),
        played=comparison.played[SEGMENTS],
        episodes=play_segment_decisions(checkpoint, recorded, summary["prices"]),
    )


def save_results(summary: dict[str, Any], out: Path, markdown: Path | None, command: str) -> None:
    """Write a comparison as a picture and, if asked for, as Markdown.

    Args:
        summary: from `summarise_segments`.
        out: directory for frontier.png.
        markdown: file; None for none.
        command: that regenerates it.
    """
    out.mkdir(parents=True, exist_ok=True)
    draw_frontier(summary, out / "frontier.png")
    if markdown is not None:
        tables = segment_results(summary, command)
        write_atomically(markdown, lambda path: path.write_text(tables))


def segment_results(summary: dict[str, Any], command: str) -> str:
    """Everything that a comparison says, as tables.

    Args:
        summary: from `summarise_segments`.
        command: that regenerates the file.
    """
    tables = [
        f"""# Results inside attempts

{summary["num_questions"]} held-out questions, {len(summary["prices"])} prices, controllers of
{summary["num_seeds"]} seed{"s" if summary["num_seeds"] > 1 else ""} pooled. Intervals: paired
bootstrap over questions. Rules are tuned for each price on the train and validation splits.
Regenerate with

    {command}

## By price

{_by_price(summary)}""",
    ]
    if "equal_accuracy" in summary:
        tables.append(f"""## Against whole attempts

{_against_attempts(summary)}

{_equal_accuracy(summary)}

Compute relative to the attempt controller's at the same accuracy, mixtures of operating points
included; "whichever is cheaper" mixes the points of all of them.""")
    tables.append(f"""## Every policy's utility

{_utilities(summary)}""")
    return "\n\n".join(tables) + "\n"


def _by_price(summary: dict[str, Any]) -> str:
    rows = []
    for i, row in enumerate(summary["policies"][SEGMENTS]):
        rules = {n: r[i] for n, r in summary["lead"].items() if n not in (ATTEMPTS, BOTH)}
        rule, lead = min(rules.items(), key=lambda entry: entry[1]["lead"])
        rows.append(
            (
                f"{row['price']:.1e}",
                f"{row['accuracy']:.1%}",
                f"{row['cost']:.0f}",
                f"{row['utility']:.3f}",
                rule,
                _signed(lead),
                f"{row['segments']:.2f}",
                f"{row['redone']:.2f}",
                f"{row['escalations']:.2f}",
                f"{row['forced']:.2f}",
            )
        )
    return markdown_table(
        (
            "price",
            "accuracy",
            "cost",
            "utility",
            "best rule",
            "lead",
            "segments",
            "redone",
            "escalated",
            "forced",
        ),
        rows,
    )


def _signed(lead: dict[str, Any]) -> str:
    low, high = lead["interval"]
    return f"{lead['lead']:+.3f} ({low:+.3f} to {high:+.3f})"


def _against_attempts(summary: dict[str, Any]) -> str:
    whole = summary["policies"][ATTEMPTS]
    return markdown_table(
        ("price", "whole attempts: accuracy", "cost", "utility", "lead of segments"),
        (
            (
                f"{row['price']:.1e}",
                f"{row['accuracy']:.1%}",
                f"{row['cost']:.0f}",
                f"{row['utility']:.3f}",
                _signed(lead),
            )
            for row, lead in zip(whole, summary["lead"][ATTEMPTS], strict=True)
        ),
    )


def _equal_accuracy(summary: dict[str, Any]) -> str:
    rows = summary["equal_accuracy"]
    return markdown_table(
        ("accuracy", *rows[0]["compute"]),
        (
            (
                f"{row['accuracy']:.1%}",
                *(
                    "{:.0%} ({:.0%} to {:.0%})".format(entry["ratio"], *entry["interval"])
                    for entry in row["compute"].values()
                ),
            )
            for row in rows
        ),
    )


def _utilities(summary: dict[str, Any]) -> str:
    return markdown_table(
        ("policy", *(f"{price:.0e}" for price in summary["prices"])),
        (
            (name, *(f"{row['utility']:.3f}" for row in rows))
            for name, rows in summary["policies"].items()
        ),
    )
