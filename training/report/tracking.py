"""W&B tracking: online with an account, offline without, never needed.

Artifacts tell where things come from: traces -> controller -> evaluation.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from controller.checkpoint import SETTINGS_FILE, WEIGHTS_FILE, AnyCheckpoint
from controller.errors import ConfigError
from envs.granularity import AnyTraces
from training.learn.settings import WandbMode

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


def evaluation_artifact(decisions: Path, traces: AnyTraces) -> Artifact:
    """A saved evaluation: its parquet file, and the figures beside it."""
    files = [decisions, decisions.with_name("evaluation.json")]
    return Artifact(name=f"evaluation-{traces.path.name}", kind="evaluation", files=files)


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

    def uses(self, artifact: Artifact) -> None:
        """Log an artifact as what went into the run."""
        self.makes(artifact, used=True)

    def makes(self, artifact: Artifact, *, used: bool = False) -> None:
        """Log an artifact as what came out of the run, or went into it."""
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
