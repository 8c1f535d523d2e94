"""A W&B workspace over the runs that `allot train` and `allot evaluate` log: dashboard.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
import yaml
from wandb_workspaces import workspaces as ws
from wandb_workspaces.reports import v2 as wr

from controller.errors import ConfigError
from training.report.track_evaluation import PICTURES
from training.report.tracking import AXES, has_account

SWEPT = ("learning_rate", "entropy_coefficient", "gae_lambda", "hidden_sizes")
"""Settings that the sweep of `examples/sweep.yaml` varies."""

_BEST = "validation/kept_utility"
_OPEN = ("Training", "Evaluation", "Decisions")
"""Sections that are unfolded."""


def build_workspace(entity: str, project: str) -> Any:
    """The workspace of a user's or team's project, not yet saved."""
    told = yaml.safe_load(Path(__file__).with_name("dashboard.yaml").read_text(encoding="utf-8"))
    return ws.Workspace(
        name="allot",
        entity=entity,
        project=project,
        sections=[_section(name, panels) for name, panels in told.items()],
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Metric("Group"), ws.Metric("JobType")],
            pinned_columns=[f"summary:{_BEST}", "summary:seeds/mean", "config:seed"],
        ),
    )


def spec(workspace: Any) -> dict[str, Any]:
    """What saving a workspace would send to W&B, as JSON."""
    return dict(workspace._spec)


def _section(name: str, told: Mapping[str, Mapping[str, Any]]) -> Any:
    """Charts, and before them a panel that says of each what to see."""
    lines = (f"- **{title}**: {entry['see']}" for title, entry in told.items())
    panels = [wr.MarkdownPanel(markdown="\n".join(lines))]
    panels += [_panel(title, entry) for title, entry in told.items()]
    return ws.Section(name=name, panels=panels, is_open=name in _OPEN)


def _panel(title: str, entry: Mapping[str, Any]) -> Any:
    """Lines over steps or prices, or the panel that an entry names."""
    settings = {name: value for name, value in entry.items() if name not in ("over", "see")}
    if "over" in entry:
        over_price = {"x": AXES["evaluate"][0], "log_x": True, "max_runs_to_show": 3}
        axis = over_price if entry["over"] == "price" else {"x": AXES["train"][0]}
        return wr.LinePlot(title=title, **axis, **settings)
    if entry["panel"] == "pictures":
        return wr.MediaBrowser(title=title, media_keys=list(PICTURES), num_columns=len(PICTURES))
    if entry["panel"] == "sweep":
        metrics = [*map(wr.Config, SWEPT), _BEST]
        columns = [wr.ParallelCoordinatesPlotColumn(metric=metric) for metric in metrics]
        return wr.ParallelCoordinatesPlot(title=title, columns=columns)
    if entry["panel"] == "importance":
        return wr.ParameterImportancePlot(with_respect_to=_BEST)
    return wr.WeavePanelSummaryTable(table_name=entry["panel"])


def save(workspace: Any) -> str:
    """Save a workspace under one's account; returns its address or raises ConfigError."""
    remedy = "log in with `wandb login`, or see what would be saved with --print"
    if not has_account():
        raise ConfigError(f"dashboard: expected a W&B account, found none; {remedy}")
    try:
        if not workspace.entity:
            workspace.entity = wandb.Api().default_entity
        return str(workspace.save().url)
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"dashboard: expected an answer from W&B: {reason}; {remedy}") from None
