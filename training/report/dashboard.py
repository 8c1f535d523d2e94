"""A W&B workspace over the runs that `allot train` and `allot evaluate` log."""

from __future__ import annotations

from typing import Any

import wandb
from wandb_workspaces import workspaces as ws
from wandb_workspaces.reports import v2 as wr

from controller.errors import ConfigError
from training.report.track_evaluation import PICTURES
from training.report.tracking import AXES, has_account

_STEPS, _PRICE = AXES["train"][0], AXES["evaluate"][0]

SWEPT = ("learning_rate", "entropy_coefficient", "gae_lambda", "hidden_sizes")
"""Settings that the sweep of `examples/sweep.yaml` varies."""


def build_workspace(entity: str, project: str) -> Any:
    """The workspace of a user's or team's project, not yet saved."""
    return ws.Workspace(
        name="allot",
        entity=entity,
        project=project,
        sections=[
            ws.Section(name="Training", panels=_training(), is_open=True),
            ws.Section(name="Evaluation", panels=_evaluation(), is_open=True),
            ws.Section(name="Decisions", panels=_decisions(), is_open=True),
            ws.Section(name="Sweep", panels=_sweep()),
            ws.Section(name="PPO", panels=_ppo()),
        ],
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Metric("Group"), ws.Metric("JobType")],
            pinned_columns=["summary:validation/kept_utility", "summary:seeds/mean", "config:seed"],
        ),
    )


def spec(workspace: Any) -> dict[str, Any]:
    """What saving a workspace would send to W&B, as JSON."""
    return dict(workspace._spec)


def _over_steps(title: str, *metrics: str, **settings: Any) -> wr.LinePlot:
    return wr.LinePlot(title=title, x=_STEPS, y=list(metrics), **settings)


def _over_price(title: str, **settings: Any) -> wr.LinePlot:
    return wr.LinePlot(title=title, x=_PRICE, log_x=True, max_runs_to_show=3, **settings)


def _training() -> list[Any]:
    utility = "validation/utility", "validation/best_rule"
    return [
        _over_steps("validation utility, best rule in hindsight", *utility),
        _over_steps("lead over the best rule in hindsight", "validation/lead"),
        _over_steps("actions", metric_regex="^actions/.*", plot_type="pct-area"),
        _over_steps("right answers in training", "episodic/right"),
        _over_steps("cost in training", "episodic/cost", log_y=True),
        _over_steps("steps per second", "charts/SPS"),
    ]


def _evaluation() -> list[Any]:
    return [
        wr.MediaBrowser(title="pictures", media_keys=list(PICTURES), num_columns=len(PICTURES)),
        _over_price("utility of every policy", metric_regex="^utility/.*"),
        _over_price("lead over every rule", metric_regex="^lead/.*"),
        _over_price("accuracy", y=["accuracy/controller", "accuracy/always large"]),
        _over_price("cost", y=["cost/controller", "cost/always large"], log_y=True),
        wr.WeavePanelSummaryTable(table_name="policies"),
    ]


def _decisions() -> list[Any]:
    actions = _over_price("actions by price", metric_regex="^actions/.*", plot_type="pct-area")
    return [actions, wr.WeavePanelSummaryTable(table_name="decisions")]


def _sweep() -> list[Any]:
    best = "validation/kept_utility"
    columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(name)) for name in SWEPT]
    columns.append(wr.ParallelCoordinatesPlotColumn(metric=best))
    importance = wr.ParameterImportancePlot(with_respect_to=best)
    return [wr.ParallelCoordinatesPlot(columns=columns), importance]


def _ppo() -> list[Any]:
    names = ("policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "explained_variance")
    rate = _over_steps("learning rate", "charts/learning_rate")
    return [*(_over_steps(name, f"losses/{name}") for name in names), rate]


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
