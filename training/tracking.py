"""W&B tracking: online with an account, offline without, never needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from training.settings import WandbMode


class Tracker:
    """One W&B run; does nothing in mode "disabled".

    Args:
        directory: that W&B writes to.
        job_type: "train" or "evaluate".
        config: settings of the run.
        mode: "auto" is online if WANDB_API_KEY is set and offline otherwise.
        group: runs of one trace set share a group.
    """

    def __init__(
        self,
        directory: Path,
        job_type: str,
        config: Mapping[str, Any],
        *,
        mode: WandbMode = "auto",
        group: str | None = None,
    ) -> None:
        self._run: Any = None
        if mode == "auto":
            mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
        if mode == "disabled":
            return
        import wandb

        directory.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project="allot",
            dir=directory,
            job_type=job_type,
            group=group,
            config=dict(config),
            mode=mode,
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("global_step")
        self._run.define_metric("*", step_metric="global_step")

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Log metrics at a number of environment steps."""
        if self._run is not None:
            self._run.log({**metrics, "global_step": step})

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set the run's closing figures."""
        if self._run is not None:
            self._run.summary.update(dict(values))

    def image(self, name: str, path: Path) -> None:
        """Log a picture."""
        if self._run is not None:
            import wandb

            self._run.log({name: wandb.Image(str(path))})

    def artifact(self, name: str, kind: str, directory: Path, pattern: str = "*") -> None:
        """Log the files of a directory as an artifact."""
        if self._run is not None:
            import wandb

            artifact = wandb.Artifact(name, type=kind)
            for path in sorted(directory.glob(pattern)):
                if path.is_file():
                    artifact.add_file(str(path))
            self._run.log_artifact(artifact)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if error is None else 1)
