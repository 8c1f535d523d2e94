"""Backends of the models that a checkpoint names, checked against those that it was trained for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from controller.answers import answer_kind
from controller.backends.ladder import LadderBuilder, model_places
from controller.checkpoint import AnyCheckpoint
from controller.errors import CheckpointError, ConfigError
from controller.segments.episodes import SegmentConfig

if TYPE_CHECKING:
    from controller.backends.base import Backend
    from controller.backends.places import ModelPlace
    from controller.segments.types import SegmentBackend


def load_backend(
    checkpoint: AnyCheckpoint,
    models: Sequence[str | Path] = (),
    adapters: Mapping[str, str | Path] | None = None,
) -> Backend | SegmentBackend:
    """Load the models that a checkpoint was trained for.

    Args:
        checkpoint: of either granularity.
        models: directories, GGUF files, hub ids or URL#MODEL of servers, in any mixture, the
            small model first; where the checkpoint says when empty.
        adapters: directories of the small model's adapters, by name; likewise.

    Raises:
        CheckpointError: nothing says where they lie, or they are not those it was trained for.
        ConfigError: other than one model per rung, one that is not there, or a server for
            decisions inside attempts.
        BackendError: a model cannot be loaded.
    """
    if not models and not checkpoint.model_paths:
        raise CheckpointError(
            f"{checkpoint.path}: expected to be told where {[m.name for m in checkpoint.models]} "
            "lie; pass models=[...], or a backend"
        )
    places = model_places(models or checkpoint.located_models(), checkpoint)
    segments = isinstance(checkpoint.config, SegmentConfig)
    if not any(place.is_server for place in places):
        return _load_all(checkpoint, places, checkpoint.located_adapters(adapters))
    if segments:
        raise ConfigError(
            f"models: expected models in this process for decisions inside attempts, found "
            f"{[place.text for place in places]}"
        )
    from controller.backends.blocking import BlockingBackend

    builder = LadderBuilder(
        checkpoint=checkpoint, other_weights=checkpoint.refuse_weights, adapters=adapters
    )
    return BlockingBackend(builder.build(places))


def _load_all(
    checkpoint: AnyCheckpoint, places: Sequence[ModelPlace], adapters: Mapping[str, Path]
) -> Backend | SegmentBackend:
    from controller.backends.base import recorded_temperature
    from controller.backends.local.adapters import load_adapters
    from controller.backends.local.backend import TransformersBackend, load_model
    from controller.backends.local.segmented import with_segments
    from controller.backends.local.segments import segment_writer

    loaded = [
        replace(load_model(place, rung), prompt=trained.prompt)
        for rung, (place, trained) in enumerate(zip(places, checkpoint.models, strict=True))
    ]
    checkpoint.check_weights(loaded)
    if isinstance(checkpoint.config, SegmentConfig):
        return segment_writer(checkpoint, loaded, 0, answer_kind(checkpoint.answers))
    if adapters:
        loaded[0] = load_adapters(loaded[0], adapters)
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
