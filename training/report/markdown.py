"""A comparison as Markdown, for docs/RESULTS.md, and in the model card of what was compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from controller.card import (
    ComputeRatio,
    Figures,
    PricePoint,
    file_digest,
    held_out,
    markdown_table,
    write_figures,
)
from controller.checkpoint import WEIGHTS_FILE, load_any
from controller.hub import card_of
from envs.granularity import AnyTraces
from envs.traces.format import write_atomically
from training.compare.results import QUANTITIES, Lead, Point, Promises, Results, Seeds


def results_markdown(results: Results, command: str, num_seeds: int) -> str:
    """Everything that a comparison of so many seeds says, and the command that repeats it."""
    asked = held_out(results.num_questions, results.num_distinct)
    segmented, plural = "segments" in results.tally, "s" if num_seeds > 1 else ""
    headline = markdown_table(
        ("at equal accuracy with", "compute used", "95% interval", "at accuracies"),
        headline_rows(results),
    )
    sections = [
        f"""# Results{" inside attempts" if segmented else ""}

{asked}, {len(results.prices)} prices, controllers of
{num_seeds} seed{plural} pooled. Intervals: paired bootstrap over questions.
Rules are tuned for each price on the train and validation splits. Regenerate with

    {command}""",
        f"""## Compute at equal accuracy

{headline}

A rule's compute is the least of its family's at that accuracy, mixtures included; the ratio
is the geometric mean over the accuracies given.{"" if segmented else _SEE_ALSO}""",
        f"""## By price

{_prices(results)}

Behind a rule beyond its interval: {results.behind}.""",
        _seeds(results.seeds),
        f"## What the controller does\n\n{_actions(results)}",
        _promises(results.promises) if results.promises else "",
        *(_against(results, other) for other in results.others),
        _equal_accuracy(results) if results.others else "",
        f"## Every policy's utility\n\n{_utilities(results)}",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


_SEE_ALSO = """
`allot evaluate` compares with other controllers, decisions inside attempts among them, and with
greedy attempts; of the bundled models, docs/segments-results.md and docs/segments-frontier.png."""


def headline_rows(results: Results) -> Iterator[tuple[str, ...]]:
    """By kind of rule the compute used, its interval and the accuracies that it is a mean over."""
    for kind, entry in results.headline.items():
        yield (
            kind,
            f"{entry.ratio:.0%}",
            "{:.0%} to {:.0%}".format(*entry.interval),
            ", ".join(f"{a:.1%}" for a in entry.accuracies),
        )


def _figures(point: Point) -> tuple[str, ...]:
    return (
        f"{point.price:.1e}",
        f"{point.accuracy:.1%}",
        f"{point.cost:.0f}",
        f"{point.utility:.3f}",
    )


def _led(lead: Lead) -> tuple[str, str]:
    return f"{lead.lead:+.3f}", "{:+.3f} to {:+.3f}".format(*lead.interval)


def _against(results: Results, other: str) -> str:
    table = markdown_table(
        ("price", f"{other}: accuracy", "cost", "utility", "lead over it", "95% interval"),
        (
            (*_figures(point), *_led(lead))
            for point, lead in zip(results.policies[other], results.lead[other], strict=True)
        ),
    )
    return f"## Against {other}\n\n{table}"


def _equal_accuracy(results: Results) -> str:
    rows = results.equal_accuracy
    table = markdown_table(
        ("accuracy", *rows[0].compute),
        (
            (
                f"{row.accuracy:.1%}",
                *(
                    "{:.0%} ({:.0%} to {:.0%})".format(entry.ratio, *entry.interval)
                    for entry in row.compute.values()
                ),
            )
            for row in rows
        ),
    )
    return f"""{table}

Compute relative to that of {results.others[0]} at the same accuracy, mixtures of operating
points included; "whichever is cheaper" mixes the points of all of them."""


def price_rows(results: Results) -> Iterator[tuple[str, ...]]:
    """By price accuracy, cost and utility of the controller, and the rule that it leads least."""
    for i, point in enumerate(results.controller):
        name, lead = results.closest_rule(i)
        yield (*_figures(point), name, *_led(lead))


def _prices(results: Results) -> str:
    head = ("price", "accuracy", "cost", "utility", "best rule", "lead", "95% interval")
    if not results.gap_closed:
        return markdown_table(head, price_rows(results))
    rows = zip(price_rows(results), results.gap_closed, strict=True)
    table = markdown_table((*head, "gap closed"), ((*row, f"{gap:.0%}") for row, gap in rows))
    return (
        f"{table}\n\nGap closed: share of the utility between the best static mixture and the "
        "informed oracle, which knows\nwhich fixed plan is best for each question."
    )


def _promises(promises: Promises) -> str:
    costs = markdown_table(
        ("mean cost asked", "paid", "deviation", "with a fixed price"),
        (
            (f"{row.asked:.0f}", f"{row.paid:.0f}", f"{row.deviation:+.1%}", f"{row.fixed:+.1%}")
            for row in promises.mean_cost
        ),
    )
    accuracies = markdown_table(
        ("accuracy asked", "found", "price"),
        ((f"{row.asked:.0%}", f"{row.found:.1%}", f"{row.price:.1e}") for row in promises.accuracy),
    )
    return f"""## What was asked for and what was kept

The first controller, each target on the test questions, streamed once. A mean cost
is kept by a price that follows what was spent; a fixed price keeps it in expectation only. An
accuracy is promised with confidence 90%; higher ones than these were refused.

{costs}

{accuracies}"""


def seed_rows(seeds: Seeds) -> Iterator[tuple[str, ...]]:
    """Mean and interquartile mean over seeds and prices, with both intervals."""
    titles = {"mean": "mean", "iqm": "interquartile mean"}
    for name, figure in seeds.statistics.items():
        intervals = (figure.interval, figure.stratified)
        texts = ("{:.4f} to {:.4f}".format(*interval) for interval in intervals)
        yield titles[name], f"{figure.value:.4f}", *texts


def _seeds(seeds: Seeds) -> str:
    if seeds.mean is None:
        return ""
    head = ("utility over seeds and prices", "value", "95%, whole seeds", "95%, each price apart")
    return f"## Seeds\n\n{markdown_table(head, seed_rows(seeds))}"


def _actions(results: Results) -> str:
    names = (*results.tally, "serial_rounds")
    return markdown_table(
        ("price", *(name.replace("_", " ") for name in names)),
        (
            (
                f"{point.price:.1e}",
                *(f"{point.counts[name]:.2f}" for name in results.tally),
                f"{point.serial_rounds:.2f}",
            )
            for point in results.controller
        ),
    )


def _utilities(results: Results) -> str:
    return markdown_table(
        ("policy", *(f"{price:.0e}" for price in results.prices)),
        (
            (name, *(f"{point.utility:.3f}" for point in points))
            for name, points in results.everyone.items()
        ),
    )


def write_card(
    results: Results, controllers: Sequence[Path], traces: AnyTraces, repeats: int
) -> None:
    """Put a comparison beside the first of its checkpoints and into its model card."""
    directory = controllers[0]
    write_figures(
        Figures(
            traces=traces.path.resolve().name,
            traces_digest=traces.manifest.get("digest"),
            questions=results.num_questions,
            distinct=results.num_distinct,
            repeats=repeats,
            weights=tuple(file_digest(path / WEIGHTS_FILE) for path in controllers),
            points=tuple(_point(results, i) for i in range(len(results.prices))),
            ratios=tuple(
                ComputeRatio(rules=kind, ratio=entry.ratio, interval=entry.interval)
                for kind, entry in results.headline.items()
            ),
        ),
        directory,
    )
    card = str(card_of(load_any(directory)))
    write_atomically(directory / "README.md", lambda path: path.write_text(card + "\n"))


def _point(results: Results, i: int) -> PricePoint:
    point, (rule, lead) = results.controller[i], results.closest_rule(i)
    names = [name for quantity in QUANTITIES for name in (quantity, f"{quantity}_interval")]
    return PricePoint(
        price=point.price,
        **{name: getattr(point, name) for name in names},
        rule=rule,
        lead=lead.lead,
        lead_interval=lead.interval,
    )
