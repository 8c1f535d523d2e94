"""Checkpoints of controllers inside an attempt: safetensors + JSON, never pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controller.answers import UNNAMED, AnswerKind, answer_kind
from controller.checkpoint import (
    load_policy,
    load_readout,
    model_spec,
    policy_tensors,
    process_values,
    read_settings,
    read_tensors,
    readout_tensors,
    with_tuples,
    write_files,
)
from controller.difficulty import Difficulty
from controller.errors import AllotError, CheckpointError
from controller.policy import PolicyConfig, PolicyNetwork
from controller.segments.episodes import SegmentConfig
from controller.segments.loop import SegmentController
from controller.segments.observation import (
    NUM_SEGMENT_FEATURES,
    SEGMENT_OBSERVATION_NAMES,
    SEGMENT_OBSERVATION_VERSION,
)
from controller.segments.rules import ObservingPolicy
from controller.segments.types import SegmentAction, Segmentation, SegmentBackend
from controller.types import ModelSpec

if TYPE_CHECKING:
    from controller.backends.local_model import LocalModel
    from controller.backends.segmented import SegmentedBackend
    from controller.backends.segments import SegmentWriter
    from controller.backends.transformers import TransformersBackend

SEGMENT_CHECKPOINT_VERSION = 2
SETTINGS_FILE, WEIGHTS_FILE = "segments.json", "segments.safetensors"


@dataclass(frozen=True, kw_only=True)
class SegmentCheckpoint:
    """A trained controller inside an attempt, without its backend.

    Attributes:
        policy: the network.
        config: the decision process.
        segmentation: where segments end.
        models: small and large model that it was trained for.
        price_range: least and greatest price that it was trained for.
        difficulty: read-out of the prompt; None when the policy does not read it.
        value: read-out of a prefix's worth; likewise.
        model_paths: where the models lie, relative to the checkpoint.
        training: how it came about, for people.
        path: directory that it was loaded from; None before it is saved.
    """

    policy: PolicyNetwork
    config: SegmentConfig
    segmentation: Segmentation
    models: tuple[ModelSpec, ...]
    price_range: tuple[float, float]
    difficulty: Difficulty | None = None
    value: Difficulty | None = None
    model_paths: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def controller(self, backend: SegmentBackend | None = None) -> SegmentController:
        """A controller at the middle of the price range.

        Args:
            backend: writes segments; None loads the models that the checkpoint names.

        Raises:
            CheckpointError: nothing says where they lie, or they are not those it was trained
                for.
        """
        low, high = self.price_range
        backend = backend or self.load_backend()
        middle = (low * high) ** 0.5
        return SegmentController(self.policy, self.config, backend, self.difficulty, middle)

    def inside(self, whole: TransformersBackend, price: float) -> SegmentedBackend:
        """A backend whose SAMPLE attempts are written under this controller.

        Args:
            whole: makes everything else; its small model writes the segments.
            price: accuracy per small-model token inside attempts.

        Raises:
            CheckpointError: this controller was trained for other models.
        """
        from controller.backends.segmented import SegmentedBackend

        models = whole.local_models[:1]
        self._check(models)
        return SegmentedBackend(
            whole,
            self._writer(models, whole.seed, whole.answers),
            ObservingPolicy(self.policy.choose),
            replace(self.config, escalates=False),
            price=price,
            difficulty=self.difficulty,
        )

    def load_backend(self, models: Sequence[str | Path] = ()) -> SegmentBackend:
        """Load the models that the checkpoint was trained for.

        Args:
            models: where they lie, the small one first; where the checkpoint says when empty.

        Raises:
            CheckpointError: nothing says where they lie, or they are not those.
        """
        from controller.backends.transformers import load_model

        models = models or [(self.path or Path()) / path for path in self.model_paths]
        if len(models) != len(self.models):
            raise CheckpointError(
                f"{self.path}: expected to be told where {[m.name for m in self.models]} lie, "
                f"found {len(models)} places; pass models=[...], or a backend"
            )
        loaded = [load_model(path, rung) for rung, path in enumerate(models)]
        self._check(loaded)
        return self._writer(loaded, 0, answer_kind(UNNAMED))

    def _check(self, models: Sequence[LocalModel]) -> None:
        for expected, found in zip(self.models, models, strict=False):
            if expected.digest != found.digest:
                raise CheckpointError(
                    f"{self.path}: expected {expected.name} with digest {expected.digest}, found "
                    f"{found.digest}; train a controller for these weights or restore them"
                )

    def _writer(
        self, models: Sequence[LocalModel], seed: int, answers: AnswerKind
    ) -> SegmentWriter:
        from controller.backends.base import recorded_temperature
        from controller.backends.segments import SegmentWriter

        return SegmentWriter(
            models,
            seed=seed,
            temperature=recorded_temperature(self.models),
            segmentation=self.segmentation,
            max_new_tokens=self.config.max_tokens,
            value=self.value,
            answers=answers,
        )


def save_segment_checkpoint(checkpoint: SegmentCheckpoint, directory: Path | str) -> None:
    """Write a checkpoint; the JSON, written last, makes it valid."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = policy_tensors(checkpoint.policy)
    for name in ("difficulty", "value"):
        readout = getattr(checkpoint, name)
        if readout is not None:
            tensors |= readout_tensors(name, readout)
    settings = {
        "version": SEGMENT_CHECKPOINT_VERSION,
        "observation_version": SEGMENT_OBSERVATION_VERSION,
        "observation": list(SEGMENT_OBSERVATION_NAMES),
        "actions": [str(action) for action in SegmentAction],
        "policy": asdict(checkpoint.policy.config),
        "process": asdict(checkpoint.config),
        "segmentation": asdict(checkpoint.segmentation),
        "models": [asdict(model) for model in checkpoint.models],
        "model_paths": list(checkpoint.model_paths),
        "price_range": list(checkpoint.price_range),
        "difficulty_reads": checkpoint.difficulty.reads if checkpoint.difficulty else None,
        "readouts": [n for n in ("difficulty", "value") if getattr(checkpoint, n) is not None],
        "training": dict(checkpoint.training),
    }
    write_files(directory / WEIGHTS_FILE, tensors, {SETTINGS_FILE: json.dumps(settings, indent=1)})


def load_segment_checkpoint(directory: Path | str) -> SegmentCheckpoint:
    """Read a checkpoint, trusting nothing in it.

    Raises:
        CheckpointError: files are missing, too large or damaged, the version is unknown,
            shapes do not fit the settings, or weights are not finite.
    """
    directory = Path(directory)
    settings = read_settings(
        directory / SETTINGS_FILE,
        f"a controller inside attempts ({SETTINGS_FILE} and {WEIGHTS_FILE}; `allot segments "
        "train` makes one)",
        SEGMENT_CHECKPOINT_VERSION,
        SEGMENT_OBSERVATION_NAMES,
        SEGMENT_OBSERVATION_VERSION,
    )
    try:
        config = SegmentConfig(**process_values(settings["process"]))
        policy = PolicyNetwork(PolicyConfig(**with_tuples(settings["policy"])))
        low, high = settings["price_range"]
        rest: dict[str, Any] = {
            "config": config,
            "segmentation": Segmentation(**settings["segmentation"]),
            "models": tuple(model_spec(model) for model in settings["models"]),
            "price_range": (float(low), float(high)),
            "model_paths": tuple(str(path) for path in settings["model_paths"]),
            "training": dict(settings["training"]),
        }
        readouts, reads = set(settings["readouts"]), settings["difficulty_reads"]
    except (AllotError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{directory / SETTINGS_FILE}: expected the settings of a controller: {error!r}"
        ) from None
    found = policy.config.num_features, policy.config.num_actions
    if found != (NUM_SEGMENT_FEATURES, len(SegmentAction)):
        raise CheckpointError(
            f"{directory}: expected a policy over {NUM_SEGMENT_FEATURES} features and "
            f"{len(SegmentAction)} actions, found {found[0]} and {found[1]}"
        )
    tensors = read_tensors(directory / WEIGHTS_FILE)
    load_policy(policy, tensors, directory)
    if "difficulty" in readouts:
        rungs = len(config.cost.weights)
        rest["difficulty"] = load_readout(tensors, "difficulty", rungs, directory, reads=reads)
    if "value" in readouts:
        rest["value"] = load_readout(tensors, "value", 1, directory)
    return SegmentCheckpoint(policy=policy, **rest, path=directory)
