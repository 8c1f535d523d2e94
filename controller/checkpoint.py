"""Controller checkpoints: safetensors + JSON, never pickle.

A checkpoint is a directory with `controller.json` (schema, decision process, models with
digests, how it was trained), `controller.safetensors` (weights) and a README.md card; once
evaluated also with `card.json`, which the card shows.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from controller.answers import UNNAMED, answer_kind
from controller.cost import CostModel
from controller.difficulty import Difficulty, Reads
from controller.episodes import EpisodeConfig
from controller.errors import AllotError, CheckpointError, ConfigError
from controller.hub import HUB_SCHEME, MAX_FILE_BYTES, SETTINGS_FILE, WEIGHTS_FILE, HubMixin
from controller.observation import OBSERVATION_NAMES, OBSERVATION_VERSION
from controller.policy import PolicyConfig, PolicyNetwork
from controller.support import Support
from controller.targets import Calibration, Pace
from controller.types import AdapterSpec, ModelSpec

if TYPE_CHECKING:
    from controller.backends.base import Backend
    from controller.backends.transformers import TransformersBackend

CHECKPOINT_VERSION = 4
MAX_TENSOR_ELEMENTS = 2**24


@dataclass(frozen=True, kw_only=True)
class Checkpoint(HubMixin):
    """A trained controller without its backend.

    `save_pretrained`, `from_pretrained` and `push_to_hub` share it through the Hub.

    Attributes:
        policy: the network.
        config: the decision process.
        models: the ladder that it was trained for.
        difficulty: read-out of the prompt; None when the policy does not read it.
        price_range: least and greatest price that it was trained for.
        model_paths: where the ladder's models lie: relative to the checkpoint, or on the Hub
            as in `hf://user/name`.
        adapter_paths: the same for the small model's adapters, by name.
        inside: the same for the controller under which SAMPLE attempts are written, segment by
            segment, and the price that it is told; None for plain attempts.
        calibration: what it costs and how often it is right by price; None if unknown.
        support: where it has been in training; None if unknown.
        answers: kind of the answers that it was trained on, see `controller.answers`.
        training: how it came about, for people.
        path: directory that it was loaded from; None before it is saved.
    """

    policy: PolicyNetwork
    config: EpisodeConfig
    models: tuple[ModelSpec, ...]
    price_range: tuple[float, float]
    difficulty: Difficulty | None = None
    model_paths: tuple[str, ...] = ()
    adapter_paths: Mapping[str, str] = field(default_factory=dict)
    inside: tuple[str, float] | None = None
    calibration: Calibration | None = None
    support: Support | None = None
    answers: str = UNNAMED
    training: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def price_for(
        self,
        mean_cost: float | None = None,
        accuracy: float | None = None,
        confidence: float = 0.9,
    ) -> float:
        """Price that brings a mean cost or an accuracy; mid-range without either.

        Raises:
            ConfigError: both at once, or one that is out of reach.
            CheckpointError: the checkpoint was saved without a calibration.
        """
        if mean_cost is None and accuracy is None:
            low, high = self.price_range
            return math.sqrt(low * high)
        calibration = self._known_calibration()
        if accuracy is None:
            assert mean_cost is not None
            return calibration.price_for_cost(mean_cost)
        if mean_cost is not None:
            raise ConfigError("mean_cost, accuracy: expected one of them, found both")
        return calibration.price_for_accuracy(accuracy, confidence)

    def pace(self, mean_cost: float) -> Pace:
        """Keeps a mean cost over a stream of questions.

        Raises:
            ConfigError: one that is out of reach.
            CheckpointError: the checkpoint was saved without a calibration.
        """
        return Pace(self._known_calibration(), mean_cost)

    def _known_calibration(self) -> Calibration:
        if self.calibration is None:
            raise CheckpointError(
                f"{self.path}: expected a checkpoint with a calibration, found none; train again"
            )
        return self.calibration

    def load_backend(
        self,
        models: Sequence[str | Path] = (),
        adapters: Mapping[str, str | Path] | None = None,
    ) -> Backend:
        """Load the models that the checkpoint was trained for.

        Args:
            models: directories or hub ids, the small model first; where the checkpoint says
                when empty.
            adapters: directories of the small model's adapters, by name; likewise.

        Raises:
            CheckpointError: nothing says where they lie, or they are not those it was trained
                for.
            BackendError: a model cannot be loaded.
        """
        models = models or [self._located(path) for path in self.model_paths]
        names = [model.name for model in self.models]
        if len(models) != len(names):
            raise CheckpointError(
                f"{self.path}: expected to be told where {names} lie, found {len(models)} places; "
                "pass models=[...], or a backend"
            )
        if adapters is None:
            adapters = {name: self._located(path) for name, path in self.adapter_paths.items()}
        from controller.backends.adapters import load_adapters
        from controller.backends.base import recorded_temperature
        from controller.backends.transformers import TransformersBackend, load_model

        loaded = [load_model(path, rung) for rung, path in enumerate(models)]
        for expected, found in zip(self.models, loaded, strict=True):
            if expected.digest and expected.digest != found.digest:
                raise CheckpointError(
                    f"{self.path}: expected {expected.name} with digest {expected.digest}, found "
                    f"{found.digest}; train a controller for these weights or restore them"
                )
        if adapters:
            loaded[0] = load_adapters(loaded[0], {n: Path(p) for n, p in adapters.items()})
        if loaded[0].adapters != self.models[0].adapters:
            raise CheckpointError(
                f"{self.path}: expected adapters {self.models[0].adapters}, found "
                f"{loaded[0].adapters}; train a controller for these or restore them"
            )
        whole = TransformersBackend(
            loaded,
            temperature=recorded_temperature(self.models),
            max_new_tokens=max(self.config.max_completion_tokens),
            answers=answer_kind(self.answers),
        )
        return self.segmented(whole)

    def segmented(self, whole: TransformersBackend) -> Backend:
        """A backend whose SAMPLE attempts are written as those that it was trained on.

        Raises:
            CheckpointError: there is no such controller inside, or it is for other models.
        """
        if self.inside is None:
            return whole
        from controller.segments.checkpoint import load_segment_checkpoint

        path, price = self.inside
        return load_segment_checkpoint(self._located(path)).inside(whole, price)

    def _located(self, path: str) -> str | Path:
        if path.startswith(HUB_SCHEME):
            return path.removeprefix(HUB_SCHEME)
        return ((self.path or Path()) / path).resolve()


def save_checkpoint(checkpoint: Checkpoint, directory: Path | str, card: str | None = None) -> None:
    """Write a checkpoint; the JSON, written last, makes it valid.

    Args:
        checkpoint: to save.
        directory: created if missing.
        card: Markdown for people, saved as README.md; None leaves that file alone.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = policy_tensors(checkpoint.policy)
    if checkpoint.difficulty is not None:
        tensors |= readout_tensors("difficulty", checkpoint.difficulty)
    settings = {
        "version": CHECKPOINT_VERSION,
        "observation_version": OBSERVATION_VERSION,
        "observation": list(OBSERVATION_NAMES),
        "actions": checkpoint.config.actions.names,
        "policy": asdict(checkpoint.policy.config),
        "process": asdict(checkpoint.config),
        "models": [asdict(model) for model in checkpoint.models],
        "model_paths": list(checkpoint.model_paths),
        "adapter_paths": dict(checkpoint.adapter_paths),
        "inside": checkpoint.inside,
        "answers": checkpoint.answers,
        "price_range": list(checkpoint.price_range),
        "calibration": checkpoint.calibration and checkpoint.calibration.to_json(),
        "support": checkpoint.support and checkpoint.support.to_json(),
        "difficulty_reads": checkpoint.difficulty and checkpoint.difficulty.reads,
        "training": dict(checkpoint.training),
    }
    write_files(
        directory / WEIGHTS_FILE,
        tensors,
        {"README.md": card, SETTINGS_FILE: json.dumps(settings, indent=1)},
    )


def policy_tensors(policy: PolicyNetwork) -> dict[str, torch.Tensor]:
    """Weights by the names under which a checkpoint keeps them."""
    return {f"policy/{k}": v.detach().contiguous() for k, v in policy.state_dict().items()}


def readout_tensors(name: str, readout: Difficulty) -> dict[str, torch.Tensor]:
    """A read-out's arrays likewise."""
    return {
        f"{name}/{key}": torch.from_numpy(np.ascontiguousarray(array))
        for key, array in readout.arrays().items()
    }


def write_files(
    weights: Path, tensors: Mapping[str, torch.Tensor], texts: Mapping[str, str | None]
) -> None:
    """Write tensors, then texts beside them in the order given, each file atomically."""
    temporary = weights.with_name(weights.name + ".tmp")
    save_file(dict(tensors), temporary)
    os.replace(temporary, weights)
    for name, text in texts.items():
        if text is None:
            continue
        temporary = weights.with_name(name + ".tmp")
        temporary.write_text(text + "\n")
        os.replace(temporary, weights.with_name(name))


def load_checkpoint(directory: Path | str) -> Checkpoint:
    """Read a checkpoint, trusting nothing in it.

    Raises:
        CheckpointError: files are missing, too large or damaged, the version is unknown,
            shapes do not fit the settings, or weights are not finite.
    """
    directory = Path(directory)
    settings = read_settings(
        directory / SETTINGS_FILE,
        "a controller checkpoint (controller.json and controller.safetensors; `allot train` "
        "makes one)",
        CHECKPOINT_VERSION,
        OBSERVATION_NAMES,
        OBSERVATION_VERSION,
    )
    try:
        policy = PolicyNetwork(PolicyConfig(**with_tuples(settings["policy"])))
        config = EpisodeConfig(**process_values(settings["process"]))
        models = tuple(model_spec(model) for model in settings["models"])
        low, high = settings["price_range"]
        model_paths = tuple(str(path) for path in settings["model_paths"])
        adapter_paths = {str(k): str(v) for k, v in settings["adapter_paths"].items()}
        inside = _inside(settings.get("inside"))
        answers = answer_kind(str(settings.get("answers", UNNAMED))).name
        calibration = settings["calibration"] and Calibration.from_json(settings["calibration"])
        support = Support.from_json(settings["support"]) if settings.get("support") else None
        reads, training = settings["difficulty_reads"], dict(settings["training"])
    except (AllotError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{directory / SETTINGS_FILE}: expected the settings of a controller: {error!r}"
        ) from None
    if list(config.actions.names) != settings["actions"]:
        raise CheckpointError(
            f"{directory}: expected actions {list(config.actions.names)}, found "
            f"{settings['actions']}"
        )
    if policy.config.num_features != len(OBSERVATION_NAMES) or policy.config.num_actions != len(
        config.actions
    ):
        raise CheckpointError(
            f"{directory}: expected a policy over {len(OBSERVATION_NAMES)} features and "
            f"{len(config.actions)} actions, found {policy.config}"
        )
    tensors = read_tensors(directory / WEIGHTS_FILE)
    load_policy(policy, tensors, directory)
    return Checkpoint(
        policy=policy,
        config=config,
        models=models,
        price_range=(float(low), float(high)),
        difficulty=None
        if reads is None
        else load_readout(tensors, "difficulty", config.num_rungs, directory, reads=reads),
        model_paths=model_paths,
        adapter_paths=adapter_paths,
        inside=inside,
        calibration=calibration,
        support=support,
        answers=answers,
        training=training,
        path=directory,
    )


def _inside(entry: Any) -> tuple[str, float] | None:
    if entry is None:
        return None
    path, price = entry
    return str(path), float(price)


def process_values(process: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a decision process as JSON holds them, its ledger among them."""
    return {**with_tuples(process), "cost": CostModel(**with_tuples(process["cost"]))}


def with_tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a frozen config as JSON keeps them: lists become tuples again."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in entry.items()}


def model_spec(entry: Mapping[str, Any]) -> ModelSpec:
    """A model as JSON keeps it."""
    adapters = tuple(AdapterSpec(**adapter) for adapter in entry["adapters"])
    return ModelSpec(**{**with_tuples(entry), "adapters": adapters})


def read_settings(
    path: Path, expected: str, version: int, names: Sequence[str], names_version: int
) -> dict[str, Any]:
    """Settings of a checkpoint that is not trusted.

    Args:
        path: JSON file.
        expected: what should be there and how it is made, for messages.
        version: of the checkpoint.
        names: of the features of an observation.
        names_version: of these.

    Raises:
        CheckpointError: there is none, it is damaged, or one of the versions is another.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: expected {expected}, found no such file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise CheckpointError(f"{path}: expected at most {MAX_FILE_BYTES} bytes")
    try:
        settings = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: expected JSON: {error}") from None
    found = settings.get("version") if isinstance(settings, dict) else type(settings).__name__
    if found != version:
        raise CheckpointError(
            f"{path}: expected version {version}, found {found!r}; upgrade allot or train again"
        )
    if settings.get("observation") != list(names):
        raise CheckpointError(
            f"{path}: expected the features of observation version {names_version}, found "
            f"those of version {settings.get('observation_version')!r}; train again"
        )
    return dict(settings)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a file that is not trusted: few, small, finite float32 ones."""
    if not path.exists():
        raise CheckpointError(f"{path}: expected the weights of the controller, found no such file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise CheckpointError(f"{path}: expected at most {MAX_FILE_BYTES} bytes")
    tensors = {}
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                shape = file.get_slice(name).get_shape()
                if len(shape) > 2 or int(np.prod(shape, dtype=np.float64)) > MAX_TENSOR_ELEMENTS:
                    raise CheckpointError(f"{path}: {name} has shape {shape}, over the limit")
                tensors[name] = file.get_tensor(name)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: expected a safetensors file: {error}") from None
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: expected finite float32 numbers in {name}")
    return tensors


def load_policy(
    policy: PolicyNetwork, tensors: Mapping[str, torch.Tensor], directory: Path
) -> None:
    """Fill in a policy's weights from the tensors `policy/*`."""
    weights = {k.removeprefix("policy/"): v for k, v in tensors.items() if k.startswith("policy/")}
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{directory}: weights do not fit the settings: {error}") from None


def load_readout(
    tensors: Mapping[str, torch.Tensor],
    name: str,
    num_outputs: int,
    directory: Path,
    *,
    reads: Reads = "prompt",
) -> Difficulty:
    """A read-out, its shapes checked.

    Args:
        tensors: of a checkpoint.
        name: before the slash of its tensors' names.
        num_outputs: R.
        directory: for messages.
        reads: see `Difficulty`.

    Raises:
        CheckpointError: tensors are missing or do not fit.
    """
    arrays = {
        key.removeprefix(f"{name}/"): tensor.numpy()
        for key, tensor in tensors.items()
        if key.startswith(f"{name}/")
    }
    return Difficulty.from_arrays(arrays, num_outputs, directory, reads=reads)
