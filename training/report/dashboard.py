"""A W&B workspace over the runs that `allot train` and `allot evaluate` log."""

from __future__ import annotations

from collections.abc import Mapping
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


Captioned = Mapping[str, tuple[Any, str]]
"""By title, a panel and what to see in it."""


def build_workspace(entity: str, project: str) -> Any:
    """The workspace of a user's or team's project, not yet saved."""
    return ws.Workspace(
        name="allot",
        entity=entity,
        project=project,
        sections=[
            _section("Training", _training(), is_open=True),
            _section("Evaluation", _evaluation(), is_open=True),
            _section("Decisions", _decisions(), is_open=True),
            _section("Sweep", _sweep()),
            _section("PPO", _ppo()),
        ],
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Metric("Group"), ws.Metric("JobType")],
            pinned_columns=["summary:validation/kept_utility", "summary:seeds/mean", "config:seed"],
        ),
    )


def spec(workspace: Any) -> dict[str, Any]:
    """What saving a workspace would send to W&B, as JSON."""
    return dict(workspace._spec)


def _section(name: str, charts: Captioned, **settings: Any) -> Any:
    """Charts, and before them a panel that says of each what to see."""
    lines = (f"- **{title}**: {caption}" for title, (_, caption) in charts.items())
    panels = [wr.MarkdownPanel(markdown="\n".join(lines)), *(panel for panel, _ in charts.values())]
    for title, (panel, _) in charts.items():
        if hasattr(panel, "title"):
            panel.title = title
    return ws.Section(name=name, panels=panels, **settings)


def _over_steps(*metrics: str, **settings: Any) -> wr.LinePlot:
    return wr.LinePlot(x=_STEPS, y=list(metrics), **settings)


def _over_price(**settings: Any) -> wr.LinePlot:
    return wr.LinePlot(x=_PRICE, log_x=True, max_runs_to_show=3, **settings)


def _training() -> Captioned:
    utility = "validation/utility", "validation/best_rule"
    return {
        "utility on validation": (
            _over_steps(*utility),
            "accuracy less price x cost. It should reach the flat line, the best rule in "
            "hindsight, within the first quarter, in which rules are cloned, and pass it after.",
        ),
        "lead over the best rule": (
            _over_steps("validation/lead"),
            "the difference of these two lines; above 0 no rule does as well.",
        ),
        "actions in training": (
            _over_steps(metric_regex="^actions/.*", plot_type="pct-area"),
            "shares of all decisions. An action that vanishes early is never tried again.",
        ),
        "right answers in training": (
            _over_steps("episodic/right"),
            "of all prices together. It may fall while utility rises: compute is saved.",
        ),
        "cost in training": (
            _over_steps("episodic/cost", log_y=True),
            "mean per question, in small-model tokens; falls as needless attempts are unlearnt.",
        ),
        "steps per second": (
            _over_steps("charts/SPS"),
            "of each update; a drop means that the machine has other work.",
        ),
    }


def _evaluation() -> Captioned:
    large = "always large"
    return {
        "pictures": (
            wr.MediaBrowser(media_keys=list(PICTURES), num_columns=len(PICTURES)),
            "the frontier, how far each kind of rule is behind, and actions by price; each says "
            "below it what to see.",
        ),
        "utility by price": (
            _over_price(metric_regex="^utility/.*"),
            "the controller should be the highest line that is no oracle, at every price.",
        ),
        "lead by price": (
            _over_price(metric_regex="^lead/.*"),
            "the controller's utility less a rule's. The lowest line is the best rule there; "
            "intervals are in the table.",
        ),
        "accuracy by price": (
            _over_price(y=["accuracy/controller", f"accuracy/{large}"]),
            f"the controller reaches {large} where compute is cheap, at the left, and gives way "
            "where it is dear.",
        ),
        "cost by price": (
            _over_price(y=["cost/controller", f"cost/{large}"], log_y=True),
            f"what it saves: the gap to {large} should open from left to right.",
        ),
        "policies": (
            wr.WeavePanelSummaryTable(table_name="policies"),
            "every policy at every price, with 95% intervals. A lead is beyond doubt where "
            "all of its interval is above 0.",
        ),
    }


def _decisions() -> Captioned:
    return {
        "actions by price": (
            _over_price(metric_regex="^actions/.*", plot_type="pct-area"),
            "STOP should take over from left to right, as compute gets dearer.",
        ),
        "decisions": (
            wr.WeavePanelSummaryTable(table_name="decisions"),
            "every question: sort by cost and filter by correct to find what was paid for nothing.",
        ),
    }


def _sweep() -> Captioned:
    best = "validation/kept_utility"
    columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(name)) for name in SWEPT]
    columns.append(wr.ParallelCoordinatesPlotColumn(metric=best))
    return {
        "settings and utility": (
            wr.ParallelCoordinatesPlot(columns=columns),
            "a line is a run; good settings are where lines that end high come together.",
        ),
        "importance": (
            wr.ParameterImportancePlot(with_respect_to=best),
            "which setting tells the utility best, and in which direction.",
        ),
    }


def _ppo() -> Captioned:
    sees = {
        "policy_loss": "small, around 0; says little by itself.",
        "value_loss": "falls as returns become foreseeable.",
        "entropy": "falls slowly; a drop to 0 early means that the policy is settled too soon.",
        "approx_kl": "below 0.02 or so; above, the learning rate is too high.",
        "clipfrac": "share of samples that are clipped; below 0.2 or so.",
        "explained_variance": "rises towards 1; at 0 the value says no more than the mean.",
    }
    charts: Captioned = {
        name.replace("_", " "): (_over_steps(f"losses/{name}"), caption)
        for name, caption in sees.items()
    }
    rate = _over_steps("charts/learning_rate")
    return {**charts, "learning rate": (rate, "falls to 0 in a straight line.")}


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
