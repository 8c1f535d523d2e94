"""Recipes of the bundled adapters: what they learn from, and their training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from controller.prompts import REVISER
from envs.traces import TraceSet
from training.adapter_data import record_attempts
from training.record import RecordConfig
from training.reviser import train_reviser
from training.verifier import VerifierTraining

Progress = Callable[[float, str], None]

REVISER_QUESTIONS = (1200, 2200, 2500, 2500, 0)
VERIFIER_QUESTIONS = (400, 500, 500, 500, 250)
"""Questions per task, by level; the verifier learns from the reviser's as well."""
REVISER_SAMPLES, VERIFIER_SAMPLES = 4, 16
"""Attempts at each of them."""


def train_adapter(name: str, models: Path, out: Path, progress: Progress) -> dict[str, Any]:
    """Record what an adapter learns from, unless that is there already, and train it.

    Args:
        name: reviser or verifier.
        models: directory that holds `small`.
        out: directory of the adapter; attempts go to its `attempts`, what resuming
            needs to its `training`.
        progress: called with the share that is done and a description.

    Returns:
        What is known of the result.
    """
    small = models / "small"

    def recorded(directory: Path, sizes: tuple[int, ...], samples: int, seed: int) -> TraceSet:
        config = RecordConfig(samples=samples, escalations=0)
        return record_attempts(small, directory, sizes, config, seed=seed)

    progress(0.0, "recording attempts to learn from")
    own = recorded(models / REVISER / "attempts", REVISER_QUESTIONS, REVISER_SAMPLES, 1)
    if name == REVISER:
        progress(0.0, "training the reviser")
        train_reviser(small, own, out)
        return {"adapter": str(out)}
    mixed = recorded(out / "attempts", VERIFIER_QUESTIONS, VERIFIER_SAMPLES, 0)
    training = VerifierTraining(small, [mixed, own], out)
    measured = training.run(lambda done, loss: progress(done, f"verifier, loss {loss:.3f}"))
    return {"adapter": str(out), **measured}
