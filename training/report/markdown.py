"""A comparison as Markdown, for docs/RESULTS.md, and in the model card of what was compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from math import isnan
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from controller.card import (
    ComputeRatio,
    Figures,
    Measured,
    PricePoint,
    file_digest,
    held_out,
    markdown_table,
    write_figures,
)
from controller.checkpoint import WEIGHTS_FILE, load_any
from controller.files import write_text
from controller.hub import card_of
from controller.process.cost import TOKENS
from training.compare.evaluation import Evaluation
from training.compare.results import Ratio, Results, Seeds


def results_markdown(
    results: Results, command: str, num_seeds: int, models: Sequence[str] = ()
) -> str:
    """Everything that a comparison of so many seeds says, and the command that repeats it."""
    environment = Environment(
        loader=PackageLoader("training.report", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "cell": lambda text: text.replace("|", "\\|"),
        "compute": _compute,
        "change": "{:+.1%}".format,
        "percent": "{:.1%}".format,
        "whole": "{:.0%}".format,
    }
    return environment.get_template("results.md.jinja").render(
        r=results,
        asked=held_out(results.num_questions, results.num_distinct),
        command=command,
        num_seeds=num_seeds,
        models=models,
        columns=[
            f"{p:.0e}" if results.currency == TOKENS else results.price_text(p)
            for p in results.prices
        ],
        segmented="segments" in results.tally,
        table=markdown_table,
        headline=headline_rows(results),
        prices=price_rows(results),
        chosen=chosen_rows(results),
        steps=step_rows(results),
        seeds=seed_rows(results.seeds),
    )


def _span(interval: tuple[float, float], form: str) -> str:
    return " to ".join(format(end, form) for end in interval)


def _compute(entry: Ratio) -> str:
    if isnan(entry.ratio):
        return "not reached"
    return f"{entry.ratio:.0%} ({_span(entry.interval, '.0%')})"


def headline_rows(results: Results) -> Iterator[tuple[str, ...]]:
    """By kind of rule the compute used, its interval and the accuracies that it is a mean over."""
    for kind, entry in results.headline.items():
        accuracies = ", ".join(f"{a:.1%}" for a in entry.accuracies)
        used = (f"{entry.ratio:.0%}", _span(entry.interval, ".0%"))
        yield kind, *(("not reached", "") if isnan(entry.ratio) else used), accuracies


def price_rows(results: Results) -> Iterator[tuple[str, ...]]:
    """By price accuracy, cost and utility of the controller, and the rule that it leads least."""
    for i, p in enumerate(results.controller):
        name, lead = results.closest_rule(i)
        told = (
            results.price_text(p.price),
            f"{p.accuracy:.1%}",
            results.cost_text(p.cost),
            f"{p.utility:.3f}",
            name,
        )
        yield *told, f"{lead.lead:+.3f}", _span(lead.interval, "+.3f")


def chosen_rows(results: Results) -> Iterator[tuple[str, ...]]:
    """By price the rule that was best where rules are tuned, and the controller's lead over it."""
    for i, name in enumerate(results.chosen):
        lead, theirs = results.lead[name][i], results.policies[name][i]
        told = results.price_text(results.prices[i]), name, f"{theirs.utility:.3f}"
        yield *told, f"{lead.lead:+.3f}", _span(lead.interval, "+.3f")


def step_rows(results: Results) -> Iterator[tuple[str, ...]]:
    """From the best fixed plan to the controller."""
    for step in results.steps:
        told = step.name, ", ".join(step.policies), f"{step.utility:.4f}"
        yield *told, f"{step.gain:+.4f}", _span(step.interval, "+.4f")


def frontier_rows(results: Results, most: int) -> Iterator[tuple[str, ...]]:
    """At so many prices from the least to the greatest the controller, the best rule, the lead."""
    for i in sorted({round(i) for i in np.linspace(0, len(results.prices) - 1, most)}):
        name, lead = results.closest_rule(i)
        ours, theirs = (
            (f"{p.accuracy:.1%}", results.cost_text(p.cost))
            for p in (results.controller[i], results.policies[name][i])
        )
        yield results.price_text(results.prices[i]), *ours, name, *theirs, f"{lead.lead:+.3f}"


def seed_rows(seeds: Seeds) -> Iterator[tuple[str, ...]]:
    """Mean and interquartile mean over seeds and prices, with both intervals."""
    titles = {"mean": "mean", "iqm": "interquartile mean"}
    for name, figure in seeds.statistics.items():
        intervals = (_span(interval, ".4f") for interval in (figure.interval, figure.stratified))
        yield titles[name], f"{figure.value:.4f}", *intervals


def write_card(evaluation: Evaluation) -> None:
    """Put a comparison beside the first of its checkpoints and into its model card."""
    about, results = evaluation.about, evaluation.results
    directory, *_ = controllers = [Path(path) for path in about.controllers]
    write_figures(
        Figures(
            traces=about.traces,
            traces_digest=about.traces_digest,
            questions=results.num_questions,
            distinct=results.num_distinct,
            repeats=about.repeats,
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
    write_text(directory / "README.md", card + "\n")


def _point(results: Results, i: int) -> PricePoint:
    point, (rule, lead) = results.controller[i], results.closest_rule(i)
    return PricePoint(
        **{field.name: getattr(point, field.name) for field in fields(Measured)},
        rule=rule,
        lead=lead.lead,
        lead_interval=lead.interval,
    )
