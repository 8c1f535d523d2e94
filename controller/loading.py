"""Backends of the models that a checkpoint names, checked against those that it was trained for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from controller.answers import AnswerKind, answer_kind
from controller.backends.adapters import load_adapters
from controller.backends.base import Backend, recorded_temperature
from controller.backends.local_model import LocalModel, load_model
from controller.backends.segmented import SegmentedBackend
from controller.backends.segments import SegmentWriter
from controller.backends.transformers import TransformersBackend
from controller.checkpoint import AnyCheckpoint, Checkpoint, load_segment_checkpoint
from controller.errors import CheckpointError
from controller.segments.episodes import SegmentConfig
from controller.segments.types import SegmentBackend


def load_backend(
    checkpoint: AnyCheckpoint,
    models: Sequence[str | Path] = (),
    adapters: Mapping[str, str | Path] | None = None,
) -> Backend | SegmentBackend:
    """Load the models that a checkpoint was trained for.

    Args:
        checkpoint: of either granularity.
        models: directories or hub ids, the small model first; where the checkpoint says
            when empty.
        adapters: directories of the small model's adapters, by name; likewise.

    Raises:
        CheckpointError: nothing says where they lie, or they are not those it was trained
            for.
        BackendError: a model cannot be loaded.
    """
    models = models or [checkpoint.located(path) for path in checkpoint.model_paths]
    names = [model.name for model in checkpoint.models]
    if len(models) != len(names):
        raise CheckpointError(
            f"{checkpoint.path}: expected to be told where {names} lie, found {len(models)} "
            "places; pass models=[...], or a backend"
        )
    loaded = [load_model(path, rung) for rung, path in enumerate(models)]
    _check(checkpoint, loaded)
    if isinstance(checkpoint.config, SegmentConfig):
        return segment_writer(checkpoint, loaded, 0, answer_kind(checkpoint.answers))
    if adapters is None:
        paths = checkpoint.adapter_paths.items()
        adapters = {name: checkpoint.located(path) for name, path in paths}
    if adapters:
        loaded[0] = load_adapters(loaded[0], {n: Path(p) for n, p in adapters.items()})
    if loaded[0].adapters != checkpoint.models[0].adapters:
        raise CheckpointError(
            f"{checkpoint.path}: expected adapters {checkpoint.models[0].adapters}, found "
            f"{loaded[0].adapters}; train a controller for these or restore them"
        )
    whole = TransformersBackend(
        loaded,
        temperature=recorded_temperature(checkpoint.models),
        max_new_tokens=max(checkpoint.config.max_completion_tokens),
        answers=answer_kind(checkpoint.answers),
    )
    return with_segments(checkpoint, whole)


def with_segments(checkpoint: Checkpoint, whole: TransformersBackend) -> Backend:
    """A backend whose SAMPLE attempts are written as those that a controller was trained on.

    Raises:
        CheckpointError: the segment controller is missing, or is for other models.
    """
    if checkpoint.segment_controller is None:
        return whole
    path, price = checkpoint.segment_controller
    return written_under(load_segment_checkpoint(checkpoint.located(path)), whole, price)


def written_under(
    checkpoint: Checkpoint[SegmentConfig], whole: TransformersBackend, price: float
) -> SegmentedBackend:
    """A backend whose SAMPLE attempts are written under a segment controller.

    Args:
        checkpoint: of the segment controller.
        whole: makes everything else; its small model writes the segments.
        price: accuracy per small-model token inside attempts.

    Raises:
        CheckpointError: the segment controller was trained for another model.
    """
    models = whole.local_models[:1]
    _check(checkpoint, models)
    return SegmentedBackend(
        whole,
        segment_writer(checkpoint, models, whole.seed, whole.answers),
        checkpoint.policy,
        replace(checkpoint.config, escalates=False),
        price=price,
        difficulty=checkpoint.difficulty,
    )


def segment_writer(
    checkpoint: Checkpoint[SegmentConfig],
    models: Sequence[LocalModel],
    seed: int,
    answers: AnswerKind,
) -> SegmentWriter:
    """Writes segments as those that a controller was trained on."""
    return SegmentWriter(
        models,
        seed=seed,
        temperature=recorded_temperature(checkpoint.models),
        segmentation=checkpoint.config.segmentation,
        max_new_tokens=checkpoint.config.max_tokens,
        value=checkpoint.value,
        answers=answers,
    )


def _check(checkpoint: AnyCheckpoint, models: Sequence[LocalModel]) -> None:
    for expected, found in zip(checkpoint.models, models, strict=False):
        if expected.digest and expected.digest != found.digest:
            raise CheckpointError(
                f"{checkpoint.path}: expected {expected.name} with digest {expected.digest}, found "
                f"{found.digest}; train a controller for these weights or restore them"
            )
