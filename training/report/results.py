"""A comparison as Markdown, for docs/RESULTS.md, and in the model card of what was compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from controller.card import markdown_table
from controller.card_metrics import (
    ComputeRatio,
    Figures,
    PricePoint,
    weights_digest,
    write_figures,
)
from controller.checkpoint import WEIGHTS_FILE, load_any
from controller.hub import card_of
from envs.granularity import AnyTraces
from envs.traces.format import write_atomically
from training.compare.evaluate import CONTROLLER
from training.compare.summary import behind, closest_rule


def results_markdown(summary: dict[str, Any], command: str, num_seeds: int) -> str:
    """Everything that a comparison says, as tables.

    Args:
        summary: from `training.compare.summary.summarise`.
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
    segmented = "segments" in summary["tally"]
    sections = [
        f"""# Results{" inside attempts" if segmented else ""}

{summary["num_questions"]} held-out questions, {len(summary["prices"])} prices, controllers of
{num_seeds} seed{"s" if num_seeds > 1 else ""} pooled. Intervals: paired bootstrap over questions.
Rules are tuned for each price on the train and validation splits. Regenerate with

    {command}""",
        f"""## Compute at equal accuracy

{headline}

A rule's compute is the least of its family's at that accuracy, mixtures included; the ratio
is the geometric mean over the accuracies given.{"" if segmented else _SEE_ALSO}""",
        f"""## By price

{_prices(summary)}

Behind a rule beyond its interval: {behind(summary)}.""",
        _seeds(summary),
        f"## What the controller does\n\n{_actions(summary)}",
        f"## What was asked for and what was kept\n\n{_promises(summary)}"
        if summary["promises"]
        else "",
        *(_against(summary, other) for other in summary["others"]),
        _equal_accuracy(summary) if summary["others"] else "",
        f"## Every policy's utility\n\n{_utilities(summary)}",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


_SEE_ALSO = """
`allot evaluate` compares with other controllers, decisions inside attempts among them, and with
greedy attempts; of the bundled models, docs/segments-results.md and docs/segments-frontier.png."""


def _against(summary: dict[str, Any], other: str) -> str:
    table = markdown_table(
        ("price", f"{other}: accuracy", "cost", "utility", "lead over it", "95% interval"),
        (
            (
                f"{row['price']:.1e}",
                f"{row['accuracy']:.1%}",
                f"{row['cost']:.0f}",
                f"{row['utility']:.3f}",
                f"{lead['lead']:+.3f}",
                "{:+.3f} to {:+.3f}".format(*lead["interval"]),
            )
            for row, lead in zip(summary["policies"][other], summary["lead"][other], strict=True)
        ),
    )
    return f"## Against {other}\n\n{table}"


def _equal_accuracy(summary: dict[str, Any]) -> str:
    rows = summary["equal_accuracy"]
    table = markdown_table(
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
    return f"""{table}

Compute relative to that of {summary["others"][0]} at the same accuracy, mixtures of operating
points included; "whichever is cheaper" mixes the points of all of them."""


def _prices(summary: dict[str, Any]) -> str:
    known = bool(summary["gap_closed"])

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
            *([f"{summary['gap_closed'][i]:.0%}"] if known else []),
        )

    head = (
        "price",
        "accuracy",
        "cost",
        "utility",
        "best rule",
        "lead",
        "95% interval",
        *(["gap closed"] if known else []),
    )
    table = markdown_table(head, (row(i) for i in range(len(summary["prices"]))))
    if not known:
        return table
    return (
        f"{table}\n\nGap closed: share of the utility between the best static mixture and the "
        "informed oracle, which knows\nwhich fixed plan is best for each question."
    )


def _promises(summary: dict[str, Any]) -> str:
    costs = markdown_table(
        ("mean cost asked", "paid", "deviation", "with a fixed price"),
        (
            (
                f"{row['asked']:.0f}",
                f"{row['paid']:.0f}",
                f"{row['deviation']:+.1%}",
                f"{row['fixed']:+.1%}",
            )
            for row in summary["promises"].get("mean_cost", ())
        ),
    )
    accuracies = markdown_table(
        ("accuracy asked", "found", "price"),
        (
            (f"{row['asked']:.0%}", f"{row['found']:.1%}", f"{row['price']:.1e}")
            for row in summary["promises"].get("accuracy", ())
        ),
    )
    return f"""The first controller, each target on the test questions, streamed once. A mean cost
is kept by a price that follows what was spent; a fixed price keeps it in expectation only. An
accuracy is promised with confidence 90%; higher ones than these were refused.

{costs}

{accuracies}"""


def _seeds(summary: dict[str, Any]) -> str:
    seeds = summary["seeds"]
    if "mean" not in seeds:
        return ""
    kinds = ("interval", "stratified")
    table = markdown_table(
        ("utility over seeds and prices", "value", "95%, whole seeds", "95%, each price apart"),
        (
            (
                title,
                f"{seeds[name]['value']:.4f}",
                *("{:.4f} to {:.4f}".format(*seeds[name][kind]) for kind in kinds),
            )
            for name, title in (("mean", "mean"), ("iqm", "interquartile mean"))
        ),
    )
    return f"## Seeds\n\n{table}"


def _actions(summary: dict[str, Any]) -> str:
    names = (*summary["tally"], "serial_rounds")
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


def write_card(
    summary: dict[str, Any], controllers: Sequence[Path], traces: AnyTraces, repeats: int
) -> None:
    """Put a comparison beside the first of its checkpoints and into its model card.

    Args:
        summary: from `training.compare.summary.summarise`.
        controllers: checkpoints that were compared.
        traces: trace set that they were compared on.
        repeats: episodes per question and price.
    """
    directory = controllers[0]
    write_figures(
        Figures(
            traces=traces.path.resolve().name,
            traces_digest=traces.manifest.get("digest"),
            questions=summary["num_questions"],
            repeats=repeats,
            weights=tuple(weights_digest(path / WEIGHTS_FILE) for path in controllers),
            points=tuple(_point(summary, i) for i in range(len(summary["prices"]))),
            ratios=tuple(
                ComputeRatio(rules=kind, ratio=entry["ratio"], interval=entry["interval"])
                for kind, entry in summary["headline"].items()
            ),
        ),
        directory,
    )
    card = str(card_of(load_any(directory)))
    write_atomically(directory / "README.md", lambda path: path.write_text(card + "\n"))


def _point(summary: dict[str, Any], i: int) -> PricePoint:
    row = summary["policies"][CONTROLLER][i]
    rule, lead = closest_rule(summary, i)
    quantities = ("accuracy", "cost", "utility")
    return PricePoint(
        price=row["price"],
        **{name: row[name] for name in quantities},
        **{f"{name}_interval": row[f"{name}_interval"] for name in quantities},
        rule=rule,
        lead=lead["lead"],
        lead_interval=lead["interval"],
    )
