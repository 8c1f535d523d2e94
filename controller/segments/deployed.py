"""Writes attempts under a segment controller, on the models of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from controller.answers import AnswerKind
from controller.backends.base import Backend, recorded_temperature
from controller.backends.local.backend import TransformersBackend
from controller.backends.local.model import LocalModel
from controller.backends.local.segmented import SegmentedBackend
from controller.backends.local.segments import SegmentWriter
from controller.checkpoint import AnyCheckpoint, Checkpoint, load_segment_checkpoint
from controller.segments.episodes import SegmentConfig


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
    check_weights(checkpoint, models)
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


def check_weights(checkpoint: AnyCheckpoint, models: Sequence[LocalModel]) -> None:
    """Compare models with those that a controller was trained for.

    Raises:
        CheckpointError: one has other weights.
    """
    for expected, found in zip(checkpoint.models, models, strict=False):
        if expected.digest and expected.digest != found.digest:
            checkpoint.refuse_weights(expected, found.name, found.digest)
