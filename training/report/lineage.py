"""What W&B is told about where a controller comes from: traces -> controller -> evaluation."""

from __future__ import annotations

from pathlib import Path

from controller.checkpoint import SETTINGS_FILE, WEIGHTS_FILE, AnyCheckpoint
from envs.granularity import AnyTraces
from training.report.tracking import Artifact


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
    """A checkpoint; one that was trained and the same one that is evaluated are one version.

    The card is left out: an evaluation fills it in.
    """
    return Artifact(
        name=f"controller-{traces.path.name}",
        kind="controller",
        files=[path / name for name in (SETTINGS_FILE, WEIGHTS_FILE)],
        metadata=dict(checkpoint.training),
    )


def evaluation_artifact(decisions: Path, traces: AnyTraces) -> Artifact:
    """A saved evaluation.

    Args:
        decisions: its parquet file; the figures lie beside it.
        traces: that it was made on.
    """
    return Artifact(
        name=f"evaluation-{traces.path.name}",
        kind="evaluation",
        files=[decisions, decisions.with_name("evaluation.json")],
    )
