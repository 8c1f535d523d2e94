"""An evaluation in W&B: figures by price, tables and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from controller.checkpoint import AnyCheckpoint
from envs.granularity import AnyTraces
from training.compare.evaluation import Evaluation
from training.compare.results import QUANTITIES, Results
from training.learn.settings import WandbMode
from training.report.plots import plot_actions, plot_frontier, plot_utility
from training.report.tracking import (
    MAX_TABLE_ROWS,
    Tracker,
    controller_artifact,
    evaluation_artifact,
    traces_artifact,
)

PICTURES = {
    "frontier": "Accuracy against compute: the controller should be above the best rules of each "
    "kind, and below, its lead with the interval above 0.",
    "utility": "How far the best rule of each kind is behind the controller at each price: all "
    "lines should be below 0.",
    "actions": "What the controller does: it stops sooner the dearer compute is, at the left.",
}
"""By name, what to see in it."""

_ENDS = ("", "_low", "_high")

POLICY_COLUMNS = (
    *("policy", "price", "setting"),
    *(f"{quantity}{end}" for quantity in (*QUANTITIES, "lead") for end in _ENDS),
)
"""`lead` is the controller's utility less the policy's."""

DECISION_COLUMNS = (
    *("question_id", "question", "dataset", "difficulty", "price", "actions", "answer"),
    *("reference", "correct", "cost", "mean_correct", "mean_cost"),
)
"""`difficulty` is the level; means are over all episodes that were played."""


def log_evaluation(
    evaluation: Evaluation,
    traces: AnyTraces,
    controllers: Mapping[Path, AnyCheckpoint],
    out: Path,
    mode: WandbMode,
) -> None:
    """Draw an evaluation of controllers, by directory, into `out`, and log it as a run of W&B."""
    config, group = asdict(evaluation.about), traces.path.name
    with Tracker(out, "evaluate", config, mode=mode, group=group, name=str(out)) as tracker:
        tracker.uses(traces_artifact(traces))
        for path, checkpoint in controllers.items():
            tracker.uses(controller_artifact(checkpoint, path, traces))
        _log(tracker, evaluation, out)
        tracker.makes(evaluation_artifact(evaluation.decisions, traces))


def _log(tracker: Tracker, evaluation: Evaluation, out: Path) -> None:
    results = evaluation.results
    known = [name for name in DECISION_COLUMNS if name not in ("difficulty", "actions")]
    episodes = evaluation.episodes(*known, "level")
    shares = _shares_by_price(episodes, evaluation.decision_names("probabilities"))
    plot_frontier(results, out / "frontier.png")
    plot_utility(results, out / "utility.png")
    plot_actions(shares, out / "actions.png")
    for picture, caption in PICTURES.items():
        tracker.image(picture, out / f"{picture}.png", caption)
    for i, price in enumerate(results.prices):
        actions = {f"actions/{name}": share for name, share in shares[price].items()}
        tracker.log({"price": price, **_figures(results, i), **actions})
    tracker.table("policies", POLICY_COLUMNS, _policy_rows(results))
    tracker.table("decisions", DECISION_COLUMNS, _decision_rows(episodes, results.prices))
    headline = {f"headline/{kind}": entry.ratio for kind, entry in results.headline.items()}
    seeds = {
        f"seeds/{name}{end}": value
        for name, figure in results.seeds.statistics.items()
        for end, value in zip(_ENDS, (figure.value, *figure.interval), strict=True)
    }
    tracker.summary({**headline, **seeds})


def _figures(results: Results, i: int) -> dict[str, float]:
    """Everything at price number i that is drawn against the price."""
    return {
        **{
            f"{quantity}/{name}": getattr(points[i], quantity)
            for quantity in QUANTITIES
            for name, points in results.everyone.items()
        },
        **{f"lead/{name}": leads[i].lead for name, leads in results.lead.items()},
    }


def _policy_rows(results: Results) -> Iterator[list[Any]]:
    """A row of `POLICY_COLUMNS` per policy, oracles included, and price."""
    for name, points in results.everyone.items():
        leads = results.lead.get(name)
        for i, point in enumerate(points):
            figures = [value for quantity in QUANTITIES for value in point.measured(quantity)]
            lead = leads[i].measured if leads else (None, None, None)
            yield [name, point.price, point.setting, *figures, *lead]


def _shares_by_price(episodes: pd.DataFrame, names: Sequence[str]) -> dict[float, dict[str, float]]:
    """By price and name of action, its share in all decisions."""
    taken = episodes.explode("actions").groupby("price")["actions"]
    shares = taken.value_counts(normalize=True).unstack(fill_value=0.0)
    return dict(shares.reindex(columns=[*names], fill_value=0.0).to_dict("index"))


def _decision_rows(episodes: pd.DataFrame, prices: Sequence[float]) -> list[list[Any]]:
    """A row of `DECISION_COLUMNS` per question and price.

    W&B limits the length of tables: where that demands it, prices are left out evenly.
    """
    most = max(1, MAX_TABLE_ROWS // max(1, len(episodes) // len(prices)))
    places = np.linspace(0, len(prices) - 1, min(most, len(prices))).round().astype(int)
    shown = episodes[episodes["price"].isin([prices[i] for i in places])]
    told = shown.assign(difficulty=shown["level"], actions=shown["actions"].str.join(" "))
    cells = told[[*DECISION_COLUMNS]].astype(object)
    rows: list[list[Any]] = cells.where(cells.notna(), None).to_numpy().tolist()
    return rows
