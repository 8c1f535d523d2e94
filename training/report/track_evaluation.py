"""An evaluation in W&B: figures by price, tables, pictures and where it all comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from training.report.plots import plot_actions, plot_frontier, plot_utility
from training.report.tracking import MAX_TABLE_ROWS, Tracker

PICTURES = ("frontier", "utility", "actions")

POLICY_COLUMNS = (
    "policy",
    "price",
    "setting",
    *(
        f"{quantity}{end}"
        for quantity in ("accuracy", "cost", "utility", "lead")
        for end in ("", "_low", "_high")
    ),
)
"""`lead` is the controller's utility less the policy's."""

DECISION_COLUMNS = (
    "question_id",
    "question",
    "dataset",
    "difficulty",
    "price",
    "actions",
    "answer",
    "reference",
    "correct",
    "cost",
    "mean_correct",
    "mean_cost",
)
"""`difficulty` is the level; means are over all episodes that were played."""


def track_evaluation(tracker: Tracker, summary: dict[str, Any], decisions: Path, out: Path) -> None:
    """Draw and log an evaluation.

    Args:
        tracker: of a run of type "evaluate".
        summary: from `training.compare.summary.summarise`.
        decisions: parquet file of `training.compare.evaluation`.
        out: directory of the pictures.
    """
    episodes = read_episodes(decisions)
    shares = action_shares(episodes, action_names(decisions))
    plot_frontier(summary, out / "frontier.png")
    plot_utility(summary, out / "utility.png")
    plot_actions(shares, out / "actions.png")
    for picture in PICTURES:
        tracker.image(picture, out / f"{picture}.png")
    for i, price in enumerate(summary["prices"]):
        actions = {f"actions/{name}": share for name, share in shares[price].items()}
        tracker.log({"price": price, **_figures(summary, i), **actions})
    tracker.table("policies", POLICY_COLUMNS, policy_rows(summary))
    tracker.table("decisions", DECISION_COLUMNS, decision_rows(episodes, summary["prices"]))
    headline = {f"headline/{kind}": e["ratio"] for kind, e in summary["headline"].items()}
    tracker.summary({**headline, **_seed_figures(summary["seeds"])})


def _figures(summary: dict[str, Any], i: int) -> dict[str, float]:
    """Everything at price number i that is drawn against the price."""
    everyone = {**summary["policies"], **summary["oracles"]}
    return {
        **{
            f"{quantity}/{name}": rows[i][quantity]
            for quantity in ("accuracy", "cost", "utility")
            for name, rows in everyone.items()
        },
        **{f"lead/{name}": rows[i]["lead"] for name, rows in summary["lead"].items()},
    }


def _seed_figures(seeds: dict[str, Any]) -> dict[str, float]:
    return {
        f"seeds/{name}{end}": value
        for name in ("mean", "iqm")
        if name in seeds
        for end, value in zip(
            ("", "_low", "_high"), (seeds[name]["value"], *seeds[name]["interval"]), strict=True
        )
    }


def policy_rows(summary: dict[str, Any]) -> Iterator[list[Any]]:
    """A row of `POLICY_COLUMNS` per policy, oracles included, and price."""
    for name, rows in {**summary["policies"], **summary["oracles"]}.items():
        leads = summary["lead"].get(name, [None] * len(rows))
        for row, lead in zip(rows, leads, strict=True):
            figures = [
                value
                for quantity in ("accuracy", "cost", "utility")
                for value in (row[quantity], *row[f"{quantity}_interval"])
            ]
            figures += [lead["lead"], *lead["interval"]] if lead else [None] * 3
            yield [name, row["price"], row.get("setting"), *figures]


def read_episodes(decisions: Path) -> list[dict[str, Any]]:
    """Rows of a decisions file, with the names of the actions in place of the decisions."""
    columns = [name for name in DECISION_COLUMNS if name not in ("difficulty", "actions")]
    columns += ["level", "decisions.list.element.action"]
    rows: list[dict[str, Any]] = pq.ParquetFile(decisions).read(columns).to_pylist()
    for row in rows:
        row["actions"] = [decision["action"] for decision in row.pop("decisions")]
    return rows


def action_names(decisions: Path) -> list[str]:
    """What the controller of a decisions file chooses from."""
    decision = pq.read_schema(decisions).field("decisions").type.value_type
    return [action.name for action in decision.field("probabilities").type]


def action_shares(
    episodes: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[float, dict[str, float]]:
    """By price and name of action, its share in all decisions."""
    counts: dict[float, Counter[str]] = {}
    for episode in episodes:
        counts.setdefault(episode["price"], Counter()).update(episode["actions"])
    return {
        price: {name: count[name] / count.total() for name in names}
        for price, count in counts.items()
    }


def decision_rows(
    episodes: Sequence[Mapping[str, Any]], prices: Sequence[float]
) -> Iterator[list[Any]]:
    """A row of `DECISION_COLUMNS` per question and price.

    W&B limits the length of tables: where that demands it, prices are left out evenly.
    """
    most = max(1, MAX_TABLE_ROWS // max(1, len(episodes) // len(prices)))
    places = np.linspace(0, len(prices) - 1, min(most, len(prices))).round().astype(int)
    shown = {prices[i] for i in places}
    for episode in episodes:
        if episode["price"] in shown:
            row = {
                **episode,
                "difficulty": episode["level"],
                "actions": " ".join(episode["actions"]),
            }
            yield [row[name] for name in DECISION_COLUMNS]
