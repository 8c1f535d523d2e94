"""Recording with local transformers models."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from controller.backends.adapters import load_adapters
from controller.backends.base import Backend
from controller.backends.transformers import TransformersBackend, load_model
from controller.hub import HUB_SCHEME
from controller.segments.checkpoint import load_segment_checkpoint
from controller.types import Question
from envs.grader import ExactGrader
from training.record import RecordConfig, Recording
from training.threads import limit_threads


def record_models(
    questions: Mapping[str, Sequence[Question]],
    model_paths: Sequence[str],
    out: Path,
    config: RecordConfig,
    *,
    max_new_tokens: int,
    seed: int,
    adapter_paths: Mapping[str, Path] | None = None,
    inside: tuple[Path, float] | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Record attempts of local models.

    Args:
        questions: by split.
        model_paths: directories or hub ids, the small model first.
        out: directory of the trace set.
        config: how much to record.
        max_new_tokens: longest attempt.
        seed: of the sampling.
        adapter_paths: directories of the small model's reviser and verifier, by name.
        inside: a controller under which samples are written segment by segment, and the price
            that it is told; None for plain samples.
        progress: called with the number of questions done.
    """
    models = [load_model(path, rung) for rung, path in enumerate(model_paths)]
    adapter_paths = adapter_paths or {}
    if adapter_paths:
        models[0] = load_adapters(models[0], adapter_paths)
    limit_threads(max(model.parameters for model in models))
    whole = TransformersBackend(models, seed=seed, max_new_tokens=max_new_tokens)
    backend: Backend = whole
    if inside is not None:
        backend = load_segment_checkpoint(inside[0]).inside(whole, inside[1])
    paths = {
        spec.name: (
            os.path.relpath(Path(path).resolve(), out.resolve())
            if Path(path).exists()
            else HUB_SCHEME + path
        )
        for spec, path in zip(backend.models, model_paths, strict=True)
    } | {
        name: os.path.relpath(path.resolve(), out.resolve()) for name, path in adapter_paths.items()
    }
    notes: dict[str, Any] = {
        "model_paths": paths,
        "decoding": {"temperature": 1.0, "max_new_tokens": max_new_tokens, "seed": seed},
        "licence": "Apache-2.0",
    }
    if inside is not None:
        segments = {"controller": os.path.relpath(inside[0], out), "price": inside[1]}
        notes["decoding"] = {**notes["decoding"], "segments": segments}
    Recording(questions, backend, ExactGrader(), out, config, notes).run(progress)
