"""Controller checkpoints: safetensors + JSON, never pickle.

A checkpoint is a directory with `controller.json` (granularity, schema, decision process, models
with digests, how it was trained), `controller.safetensors` (weights) and a README.md card; once
evaluated also with `card.json`, which the card shows.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Generic, cast

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from typing_extensions import TypeVar

from controller.answers import UNNAMED, answer_kind
from controller.errors import AllotError, CheckpointError
from controller.files import write_atomically, write_json, write_text
from controller.granularity import ATTEMPTS, GRANULARITIES, SEGMENTS, Granularity, granularity_of
from controller.policy.calibration import Calibration
from controller.policy.difficulty import Difficulty
from controller.policy.floor import Floor, FlooredPolicy
from controller.policy.network import Policy, PolicyConfig, PolicyNetwork
from controller.policy.readouts import Arrays, Readout, readout_of
from controller.policy.training_range import Support
from controller.process.episodes import EpisodeConfig
from controller.process.types import ModelSpec
from controller.segments.episodes import SegmentConfig

CHECKPOINT_VERSION = 4
SETTINGS_FILE, WEIGHTS_FILE = "controller.json", "controller.safetensors"
MAX_FILE_BYTES = 64 * 2**20


HUB_SCHEME = "hf://"
"""Marks a model that lies on the Hub rather than in a directory."""


def seen_from(directory: Path, base: Path, path: str | Path) -> str:
    """A path relative to `base`, relative to a directory; what is on the Hub stays there."""
    if str(path).startswith(HUB_SCHEME):
        return str(path)
    return os.path.relpath((base / path).resolve(), directory.resolve())


C = TypeVar("C", EpisodeConfig, SegmentConfig, default=EpisodeConfig)


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Generic[C]):
    """A trained controller without its backend; `controller.hub` shares it.

    Attributes:
        models: the ladder that it was trained for.
        difficulty: read-out of the prompt; None when the policy does not read it.
        value: read-out of the worth of what an attempt has so far; likewise.
        price_range: least and greatest price that it was trained for.
        model_paths: where the ladder's models lie: relative to the checkpoint, or on the Hub
            as in `hf://user/name`.
        adapter_paths: the same for the small model's adapters, by name.
        segment_controller: the same for the controller under which SAMPLE attempts are written,
            segment by segment, and the price that it is told; None for plain attempts.
        calibration: what it costs and how often it is right by price; None if unknown.
        support: where it has been in training; None if unknown.
        floor: rules that decide where the policy was not shown to be ahead; None for none.
        answers: kind of the answers that it was trained on, see `controller.answers`.
        training: how it came about, for people; when it was `finished` is None until it is.
        path: directory that it was loaded from; None before it is saved.
    """

    policy: PolicyNetwork
    config: C
    models: tuple[ModelSpec, ...]
    price_range: tuple[float, float]
    difficulty: Difficulty | None = None
    value: Readout | None = None
    model_paths: tuple[str, ...] = ()
    adapter_paths: Mapping[str, str] = field(default_factory=dict)
    segment_controller: tuple[str, float] | None = None
    calibration: Calibration | None = None
    support: Support | None = None
    floor: Floor | None = None
    answers: str = UNNAMED
    training: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def is_finished(self) -> bool:
        """Whether its training has ended; until then the best rules decide at every price."""
        return _has_ended(self.training)

    @property
    def granularity(self) -> Granularity:
        """Its size of step."""
        return granularity_of(self.config)

    @property
    def acting(self) -> Policy:
        """Who decides: the policy, or the rules of its floor at their prices."""
        return FlooredPolicy(self.policy, self.floor) if self.floor else self.policy

    def located(self, path: str) -> str | Path:
        """A place that the checkpoint names, as a hub id or an absolute path."""
        if path.startswith(HUB_SCHEME):
            return path.removeprefix(HUB_SCHEME)
        return ((self.path or Path()) / path).resolve()

    def refuse_weights(self, expected: ModelSpec, source: str, found: str) -> None:
        """Raise CheckpointError: at `source`, weights with another digest were found."""
        raise CheckpointError(
            f"{self.path}: expected {expected.name} with digest {expected.digest}, found {found} "
            f"at {source}; train a controller for these weights or restore them"
        )

    def located_models(self) -> tuple[str | Path, ...]:
        """Where the ladder's models lie, seen from here."""
        return tuple(self.located(path) for path in self.model_paths)

    @property
    def known_calibration(self) -> Calibration:
        """The calibration. Raises CheckpointError: the checkpoint was saved without one."""
        if self.calibration is None:
            raise CheckpointError(
                f"{self.path}: expected a checkpoint with a calibration, found none; train again"
            )
        return self.calibration


AnyCheckpoint = Checkpoint[Any]
"""A controller of either granularity."""


def save_checkpoint(
    checkpoint: AnyCheckpoint, directory: Path | str, card: str | None = None
) -> None:
    """Write a checkpoint; the JSON, written last, makes it valid.

    `card` is saved as README.md; None leaves that file alone.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    weights = {f"policy/{k}": v for k, v in checkpoint.policy.state_dict().items()}
    tensors = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    plans = checkpoint.difficulty and checkpoint.difficulty.plans
    readouts = {"difficulty": checkpoint.difficulty, "plans": plans, "value": checkpoint.value}
    held = {name: readout for name, readout in readouts.items() if readout is not None}
    for name, readout in held.items():
        for key, array in readout.arrays().items():
            tensors[f"{name}/{key}"] = torch.from_numpy(np.ascontiguousarray(array))
    granularity = checkpoint.granularity
    settings = {
        "version": CHECKPOINT_VERSION,
        "granularity": granularity.name,
        "observation_version": granularity.table.version,
        "observation": list(granularity.features),
        "observation_digest": granularity.table.digest,
        "actions": checkpoint.config.actions.names,
        "policy": asdict(checkpoint.policy.config),
        "process": asdict(checkpoint.config),
        "models": [asdict(model) for model in checkpoint.models],
        "model_paths": list(checkpoint.model_paths),
        "adapter_paths": dict(checkpoint.adapter_paths),
        "segment_controller": checkpoint.segment_controller,
        "answers": checkpoint.answers,
        "price_range": list(checkpoint.price_range),
        "calibration": checkpoint.calibration and asdict(checkpoint.calibration),
        "support": checkpoint.support and asdict(checkpoint.support),
        "floor": checkpoint.floor and checkpoint.floor.to_json(),
        "difficulty_reads": checkpoint.difficulty and checkpoint.difficulty.kept_reads,
        "plan_reads": plans and plans.kept_reads,
        "readouts": [*held],
        "training": dict(checkpoint.training),
    }
    # `save_file` would make a file that nobody but its owner can read.
    write_atomically(directory / WEIGHTS_FILE, lambda to: to.write_bytes(save(tensors)))
    if card is not None:
        write_text(directory / "README.md", card + "\n")
    write_json(directory / SETTINGS_FILE, settings)


def load_checkpoint(directory: Path | str) -> Checkpoint:
    """Read a controller of whole attempts; see `load_any`."""
    return cast("Checkpoint", _of(ATTEMPTS, load_any(directory)))


def load_segment_checkpoint(directory: Path | str) -> Checkpoint[SegmentConfig]:
    """Read a controller that decides inside an attempt; see `load_any`."""
    return _of(SEGMENTS, load_any(directory))


def _of(granularity: Granularity, checkpoint: AnyCheckpoint) -> AnyCheckpoint:
    if checkpoint.granularity.name != granularity.name:
        raise CheckpointError(
            f"{checkpoint.path}: expected a controller of {granularity.unit}, found one of "
            f"{checkpoint.granularity.unit}"
        )
    return checkpoint


def load_any(directory: Path | str) -> AnyCheckpoint:
    """Read a controller of either granularity, trusting nothing in its files.

    Raises:
        CheckpointError: files are missing, too large or damaged, the version is unknown,
            shapes do not fit the settings, or weights are not finite.
    """
    directory = Path(directory)
    settings = _read_settings(directory / SETTINGS_FILE)
    try:
        kind = GRANULARITIES[settings.get("granularity", ATTEMPTS.name)]
        config = _stored(kind.process, settings["process"])
        policy = PolicyNetwork(_stored(PolicyConfig, settings["policy"]), config)
        granularity = granularity_of(config)
        floor = settings.get("floor")
        known: dict[str, Any] = {
            "config": config,
            "models": tuple(_stored(ModelSpec, model) for model in settings["models"]),
            "price_range": _stored(tuple[float, float], settings["price_range"]),
            "model_paths": tuple(str(path) for path in settings["model_paths"]),
            "adapter_paths": {str(k): str(v) for k, v in settings["adapter_paths"].items()},
            "segment_controller": _stored(
                tuple[str, float] | None, settings.get("segment_controller")
            ),
            "calibration": _stored(Calibration | None, settings["calibration"]),
            "support": _stored(Support | None, settings.get("support")),
            "floor": floor and Floor.from_json(floor, getattr(config, "arm_names", ())),
            "answers": answer_kind(str(settings.get("answers", UNNAMED))).name,
            "training": dict(settings["training"]),
        }
        reads, plan_reads = settings["difficulty_reads"], settings.get("plan_reads")
        value = "value" in settings.get("readouts", ())
        plans = getattr(config, "plans", ())
        if bool(plans) != (plan_reads is not None) or (plans and reads is None):
            raise ValueError(f"plan_reads: expected those of plans {plans}, found {plan_reads}")
    except (AllotError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{directory / SETTINGS_FILE}: expected the settings of a controller: "
            f"{' '.join((str if isinstance(error, AllotError) else repr)(error).split())}"
        ) from None
    _check_shapes(directory, settings, granularity, config, policy.config)
    if known["support"] and len(known["support"].low) != len(granularity.features):
        raise CheckpointError(
            f"{directory}: support: expected {len(granularity.features)} ranges, found "
            f"{len(known['support'].low)}"
        )
    tensors = read_tensors(directory / WEIGHTS_FILE)
    weights = {k.removeprefix("policy/"): v for k, v in tensors.items() if k.startswith("policy/")}
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{directory}: weights do not fit the settings: {error}") from None
    if reads is not None:
        difficulty = Difficulty.from_arrays(
            arrays_of(tensors, "difficulty"), config.num_rungs, directory, reads=reads
        )
        of_plans = plan_reads and Difficulty.from_arrays(
            arrays_of(tensors, "plans"), 2 * len(plans), directory, reads=plan_reads, name="plans"
        )
        known["difficulty"] = replace(difficulty, plans=of_plans)
    if value:
        known["value"] = value_readout(arrays_of(tensors, "value"), directory)
    if not _has_ended(known["training"]):
        note = f"{directory}: its training has not ended; until then hand-made rules decide"
        warnings.warn(note, stacklevel=2)
    return Checkpoint(policy=policy, **known, path=directory)


def is_finished(directory: Path) -> bool:
    """Whether a directory holds a controller whose training has ended.

    Raises:
        CheckpointError: something else is there under its name.
    """
    path = directory / SETTINGS_FILE
    return path.exists() and _has_ended(_read_settings(path).get("training", {}))


def _has_ended(training: Mapping[str, Any]) -> bool:
    return training.get("finished", "") is not None


def _check_shapes(
    directory: Path,
    settings: Mapping[str, Any],
    granularity: Granularity,
    config: Any,
    policy: PolicyConfig,
) -> None:
    if settings.get("observation") != list(granularity.features):
        raise CheckpointError(
            f"{directory}: expected the features of observation version "
            f"{granularity.table.version}, found those of version "
            f"{settings.get('observation_version')!r}; train again"
        )
    digest = granularity.table.digest
    if settings.get("observation_digest", digest) != digest:
        raise CheckpointError(
            f"{directory}: expected features in the units and scales of training, found others "
            "under the same names; register them as they were"
        )
    if list(config.actions.names) != settings.get("actions"):
        raise CheckpointError(
            f"{directory}: expected actions {list(config.actions.names)}, found "
            f"{settings.get('actions')}"
        )
    shape = len(granularity.features), len(config.actions)
    if (policy.num_features, policy.num_actions) != shape:
        raise CheckpointError(
            f"{directory}: expected a policy over {shape[0]} features and {shape[1]} actions, "
            f"found {policy}"
        )


def _stored(kind: Any, entry: Any) -> Any:
    """A value as JSON keeps it; names that a dataclass does not have are refused."""
    if is_dataclass(kind) and (unknown := entry.keys() - {field.name for field in fields(kind)}):
        raise ValueError(f"expected no {sorted(unknown)}")
    try:
        return TypeAdapter(kind).validate_python(entry)
    except ValidationError as error:
        own = error.errors()[0].get("ctx", {}).get("error")
        raise (own if isinstance(own, AllotError) else error) from None


def _read_settings(path: Path) -> dict[str, Any]:
    """Settings of a checkpoint, of a known version."""
    files = f"{SETTINGS_FILE} and {WEIGHTS_FILE}; `allot train` makes one"
    _check_file(path, f"a controller checkpoint ({files})")
    try:
        settings = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: expected JSON: {error}") from None
    found = settings.get("version") if isinstance(settings, dict) else type(settings).__name__
    if found != CHECKPOINT_VERSION:
        raise CheckpointError(
            f"{path}: expected version {CHECKPOINT_VERSION}, found {found!r}; upgrade allot or "
            "train again"
        )
    return dict(settings)


def _check_file(path: Path, expected: str) -> None:
    if not path.exists():
        raise CheckpointError(f"{path}: expected {expected}, found no such file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise CheckpointError(f"{path}: expected at most {MAX_FILE_BYTES} bytes")


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a file that is not trusted: few, small, finite float32 ones."""
    _check_file(path, "the weights of the controller")
    try:
        # A file that is mapped would go on deciding while another is copied over it.
        tensors = load(path.read_bytes())
    except SafetensorError as error:
        raise CheckpointError(f"{path}: expected a safetensors file: {error}") from None
    for name, tensor in tensors.items():
        if tensor.dim() > 2:
            raise CheckpointError(f"{path}: {name} has shape {[*tensor.shape]}, over the limit")
        if tensor.dtype != torch.float32 or not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: expected finite float32 numbers in {name}")
    return dict(tensors)


def arrays_of(tensors: Mapping[str, torch.Tensor], name: str) -> Arrays:
    """Tensors whose names begin with `name` and a slash, under the rest of their names."""
    own = {key.partition("/"): tensor.numpy() for key, tensor in tensors.items()}
    return {rest: array for (first, _, rest), array in own.items() if first == name}


def value_readout(arrays: Arrays, directory: Path) -> Readout:
    """A read-out of hidden states that tells one value.

    Raises:
        CheckpointError: arrays are missing or do not fit.
    """
    try:
        return readout_of(arrays, arrays["mean"].size, 1)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{directory}: value/*: {error}; train again") from None
