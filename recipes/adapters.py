"""Recipes of the bundled adapters: what they learn from, and their training."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controller.backends.prompts import REVISER
from envs.questions.bundled import draw_split
from envs.traces.format import TraceSet
from recipes.solutions import worked_solution
from training.adapters.reviser import train_reviser
from training.adapters.verifier import VerifierTraining
from training.record.settings import RecordConfig
from training.record.sources import find_source, record_models

Progress = Callable[[float, str], None]

REVISER_QUESTIONS = (1200, 2200, 2500, 2500, 0)
VERIFIER_QUESTIONS = (400, 500, 500, 500, 250)
"""Questions per task, by level; the verifier learns from the reviser's as well."""
REVISER_SAMPLES, VERIFIER_SAMPLES = 4, 16
"""Attempts at each of them."""

NUM_DRAWS = 60_000
"""Questions looked through per task and level."""

_VALIDATION_SHARE = 0.03


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
    progress(0.0, "recording attempts to learn from")
    own = _recorded(small, models / REVISER / "attempts", REVISER_QUESTIONS, REVISER_SAMPLES, 1)
    if name == REVISER:
        progress(0.0, "training the reviser")
        train_reviser(small, own, worked_solution, out)
        return {"adapter": str(out)}
    mixed = _recorded(small, out / "attempts", VERIFIER_QUESTIONS, VERIFIER_SAMPLES, 0)
    training = VerifierTraining(small, [mixed, own], worked_solution, out)
    measured = training.run(lambda done, loss: progress(done, f"verifier, loss {loss:.3f}"))
    return {"adapter": str(out), **measured}


def _recorded(small: Path, out: Path, sizes: tuple[int, ...], samples: int, seed: int) -> TraceSet:
    """Attempts at questions of the pool `adapters`, recorded unless they are there already.

    Args:
        small: directory of the model.
        out: directory of the trace set.
        sizes: questions per task, by level.
        samples: attempts per question.
        seed: of questions and attempts.
    """
    if not (out / "trace.json").exists():
        questions = draw_split("adapters", sizes, seed=seed, num_draws=NUM_DRAWS)
        random.Random(0).shuffle(questions)
        kept = int(len(questions) * (1 - _VALIDATION_SHARE))
        splits = {"train": questions[:kept], "validation": questions[kept:]}
        config = RecordConfig(samples=samples, escalations=0)
        record_models(splits, find_source([str(small)], seed=seed), out, config)
    return TraceSet.read(out)
