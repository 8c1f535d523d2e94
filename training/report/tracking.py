"""W&B: trainings and evaluations as runs, and a workspace over them, which dashboard.yaml tells.

Runs are online with an account, offline without, and never needed.

Artifacts tell where things come from: traces -> controller -> evaluation.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import yaml

from controller.checkpoint import SETTINGS_FILE, WEIGHTS_FILE, AnyCheckpoint
from controller.errors import ConfigError
from envs.granularity import AnyTraces
from training.compare.results import QUANTITIES, Results
from training.learn.settings import WandbMode

if TYPE_CHECKING:
    import pandas as pd

    from training.compare.evaluation import Evaluation

PROJECT = "allot"
"""Where runs go unless WANDB_PROJECT says otherwise."""

AXES = {
    "train": ("global_step", ("*",)),
    "evaluate": ("price", ("accuracy/*", "cost/*", "utility/*", "lead/*", "actions/*")),
}
"""By type of job, the metric that others are drawn against, and patterns of their names."""

MAX_TABLE_ROWS = 10_000
"""W&B cuts longer tables off."""

_AUTO_TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Files that went into a run or came out of it; the same files are one version of a `name`.

    `lasting` files stay as they are, so that W&B need not copy them first.
    """

    name: str
    kind: str
    files: Sequence[Path]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    lasting: bool = False


def traces_artifact(traces: AnyTraces) -> Artifact:
    """A trace set, by content."""
    return Artifact(
        name=f"traces-{traces.path.name}",
        kind="traces",
        files=[traces.path / "trace.json", *sorted(traces.path.glob("*.parquet"))],
        metadata={"questions": len(traces.questions), "attempts": traces.num_attempts},
        lasting=True,
    )


def controller_artifact(checkpoint: AnyCheckpoint, path: Path, traces: AnyTraces) -> Artifact:
    """A checkpoint, the same when it is trained and when it is evaluated, which fills its card."""
    files = [path / name for name in (SETTINGS_FILE, WEIGHTS_FILE)]
    told, name = dict(checkpoint.training), f"controller-{traces.path.name}"
    return Artifact(name=name, kind="controller", files=files, metadata=told)


class Tracker:
    """One W&B run, in a directory and a group; does nothing in mode "disabled".

    With `resume` it goes on with the run that a broken-off call left in `directory`; W&B makes up a
    name where None is given.

    Mode "auto" obeys WANDB_MODE if that is set; else it is online with a stored login or
    WANDB_API_KEY, and offline otherwise or if W&B does not answer, which "online" refuses. What W&B
    keeps at home stays in `directory` where there is no home that can be written to.
    """

    def __init__(
        self,
        directory: Path,
        job_type: str,
        config: Mapping[str, Any],
        *,
        mode: WandbMode = "auto",
        group: str | None = None,
        name: str | None = None,
        resume: bool = False,
    ) -> None:
        self._run: Any = None
        chosen = _chosen(mode)
        if chosen == "disabled":
            return
        # A service of W&B that runs already, of a sweep or a notebook, may be somewhere else.
        directory = directory.resolve()
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(Path.home(), os.W_OK):
            for kind in ("CACHE", "CONFIG", "DATA"):
                os.environ.setdefault(f"WANDB_{kind}_DIR", str(directory / "wandb"))
        self._run = _start(
            chosen,
            forced=mode == "online",
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=directory,
            job_type=job_type,
            group=group,
            name=name,
            config=dict(config),
            resume="auto" if resume else None,
        )
        axis, patterns = AXES[job_type]
        self._run.define_metric(axis)
        for pattern in patterns:
            self._run.define_metric(pattern, step_metric=axis)

    @property
    def offline_directory(self) -> Path | None:
        """What `wandb sync` can send later; None if there is nothing to send."""
        if self._run is None or not self._run.offline:
            return None
        return Path(self._run.dir).parent

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Log metrics, with the one that they are drawn against among them."""
        if self._run is not None:
            self._run.log(dict(metrics))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set the run's closing figures."""
        if self._run is not None:
            self._run.summary.update(dict(values))

    def image(self, name: str, path: Path, caption: str) -> None:
        """Log a picture, and what to see in it."""
        if self._run is not None:
            import wandb

            self._run.log({name: wandb.Image(str(path), caption=caption)})

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Log a table, of more than `MAX_TABLE_ROWS` rows every so many."""
        if self._run is not None:
            import wandb

            data = [list(row) for row in rows]
            data = data[:: -(-len(data) // MAX_TABLE_ROWS) or 1]
            self._run.log({name: wandb.Table(list(columns), data, allow_mixed_types=True)})

    def artifact(self, artifact: Artifact, *, used: bool = False) -> None:
        """Log an artifact as what came out of the run, or as what it `used`."""
        if self._run is None:
            return
        import wandb

        name, metadata = re.sub(r"[^\w.-]", "-", artifact.name), dict(artifact.metadata)
        entry = wandb.Artifact(name, type=artifact.kind, metadata=metadata)
        policy = "immutable" if artifact.lasting else "mutable"
        for path in artifact.files:
            entry.add_file(str(path.resolve()), path.name, policy=policy)
        # What `use_artifact` does too, but that refuses offline and waits for the upload.
        self._run._log_artifact(entry, is_user_created=True, use_after_commit=used)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if error is None else 1)


def _chosen(mode: WandbMode) -> str:
    if mode != "auto":
        return mode
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    return "online" if has_account() else "offline"


def has_account() -> bool:
    """Whether there are credentials, stored or in WANDB_API_KEY; asks neither people nor W&B."""
    import wandb

    try:
        return bool(wandb.login(prompt=False, verify=False))
    except wandb.Error as error:
        warnings.warn(f"W&B: no use of these credentials: {error}", stacklevel=2)
        return False


def _start(mode: Any, *, forced: bool, **settings: Any) -> Any:
    import wandb

    quiet = {"silent": True, "console": "off"}
    hasty = quiet if forced else {**quiet, "init_timeout": _AUTO_TIMEOUT_S}
    try:
        return wandb.init(mode=mode, settings=wandb.Settings(**hasty), **settings)
    except wandb.Error as error:
        if mode != "online":
            raise
        reason = " ".join(str(error).split())
        if forced:
            raise ConfigError(
                f"wandb: expected an answer from W&B, found: {reason}; use --wandb offline and "
                "`wandb sync` later"
            ) from None
        warnings.warn(f"W&B does not answer, logging offline: {reason}", stacklevel=3)
        wandb.teardown()  # the run that did not start still occupies its id
        return wandb.init(mode="offline", settings=wandb.Settings(**quiet), **settings)


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
        tracker.artifact(traces_artifact(traces), used=True)
        for path, checkpoint in controllers.items():
            tracker.artifact(controller_artifact(checkpoint, path, traces), used=True)
        _log(tracker, evaluation, out)
        files = [evaluation.decisions, evaluation.decisions.with_name("evaluation.json")]
        tracker.artifact(Artifact(name=f"evaluation-{group}", kind="evaluation", files=files))


def _log(tracker: Tracker, evaluation: Evaluation, out: Path) -> None:
    from training.report.plots import plot_actions, plot_frontier, plot_utility

    results = evaluation.results
    known = [name for name in DECISION_COLUMNS if name not in ("difficulty", "actions")]
    episodes = evaluation.episodes(*known, "level")
    shares = _shares_by_price(episodes, evaluation.decision_names("probabilities"))
    plot_frontier(results, out / "frontier.png")
    plot_utility(results, out / "utility.png")
    plot_actions(shares, out / "actions.png", results.currency)
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
    return cells.where(cells.notna(), None).to_numpy().tolist()


SWEPT = ("learning_rate", "entropy_coefficient", "gae_lambda", "hidden_sizes")
"""Settings that the sweep of `examples/sweep.yaml` varies."""

_BEST = "validation/kept_utility"
_OPEN = ("Training", "Evaluation", "Decisions")
"""Sections that are unfolded."""


def build_workspace(entity: str, project: str) -> Any:
    """The workspace of a user's or team's project, not yet saved."""
    from wandb_workspaces import workspaces as ws

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


def _section(name: str, told: Mapping[str, Mapping[str, Any]]) -> Any:
    """Charts, and before them a panel that says of each what to see."""
    from wandb_workspaces import workspaces as ws
    from wandb_workspaces.reports import v2 as wr

    lines = (f"- **{title}**: {entry['see']}" for title, entry in told.items())
    panels = [wr.MarkdownPanel(markdown="\n".join(lines))]
    panels += [_panel(title, entry) for title, entry in told.items()]
    return ws.Section(name=name, panels=panels, is_open=name in _OPEN)


def _panel(title: str, entry: Mapping[str, Any]) -> Any:
    """Lines over steps or prices, or the panel that an entry names."""
    from wandb_workspaces.reports import v2 as wr

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


def save_workspace(workspace: Any) -> str:
    """Save a workspace under one's account; returns its address or raises ConfigError."""
    import wandb

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
