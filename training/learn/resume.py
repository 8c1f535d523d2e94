"""What a training goes on from: the state and curve in its directory, or another controller.

The state is safetensors and JSON, replaced atomically; the curve holds the metrics of every update,
one JSON object a line. What models make of many attempts is kept a part at a time.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from controller.checkpoint import AnyCheckpoint
from controller.errors import ConfigError
from controller.files import write_atomically, write_json, write_text
from controller.granularity import Process, granularity_of
from controller.policy.network import ActionScorer, PolicyNetwork
from controller.segments.episodes import SegmentConfig

CURVE = "metrics.jsonl"
"""File of a run's `training/` directory."""

_EXTRA = "extra/"

_AT_ONCE = 128
"""Rows that are made between two reports of progress: what an interruption may cost."""


def work_directory(out: Path, *of: object) -> Path:
    """Where work into `out` keeps what it goes on from; another place if it is `of` others."""
    return out / "training" / hashlib.sha256(repr(of).encode()).hexdigest()[:16]


def made_in_parts(
    count: int, work: Path, make: Callable[[slice], Tensor], progress: Callable[[int], None]
) -> Tensor:
    """What `make` makes of so many rows, (count, ...), a part at a time, each kept in `work`.

    `progress` hears how many there are.
    """
    parts = []
    work.mkdir(parents=True, exist_ok=True)
    for begin in range(0, count, _AT_ONCE):
        end, file = min(begin + _AT_ONCE, count), work / f"{begin}.safetensors"
        if not file.exists():
            made = {"rows": make(slice(begin, end))}
            write_atomically(file, partial(save_file, made))
        parts.append(load_file(file)["rows"])
        progress(end)
    return torch.cat(parts)


def save_state(
    directory: Path,
    model: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    progress: Mapping[str, Any],
    extra: Mapping[str, Tensor] | None = None,
) -> None:
    """Write weights, optimisers, progress and tensors; the JSON, written last, makes it valid."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {f"model/{name}": p.detach().clone() for name, p in model.named_parameters()}
    for i, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                tensors[f"optimizer/{i}/{index}/{name}"] = torch.as_tensor(value).clone()
    tensors |= {_EXTRA + name: tensor.clone() for name, tensor in (extra or {}).items()}
    manifest = directory / "state.json"
    current = json.loads(manifest.read_text())["tensors"] if manifest.exists() else None
    file_name = next(
        f"state-{i}.safetensors" for i in (0, 1) if current != f"state-{i}.safetensors"
    )
    write_atomically(directory / file_name, lambda to: to.write_bytes(save(tensors)))
    write_json(manifest, {"tensors": file_name, "progress": progress})


def has_state(directory: Path) -> bool:
    """Whether there is something to resume from."""
    return (directory / "state.json").exists()


def load_state(
    directory: Path, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Restore model and optimisers in place; return progress and extra tensors."""
    manifest = json.loads((directory / "state.json").read_text())
    tensors = load_file(directory / manifest["tensors"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model/{name}"])
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimizer/{i}/"):
                index, name = key.split("/")[2:]
                state.setdefault(int(index), {})[name] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    extra = {k.removeprefix(_EXTRA): v for k, v in tensors.items() if k.startswith(_EXTRA)}
    return manifest["progress"], extra


class Curve:
    """Appends to `path`; lines beyond the update that a training resumes from are dropped.

    Attributes:
        reached: steps up to which a training that was killed has told of updates, lost or not.
    """

    def __init__(self, path: Path, steps: int) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        told = read_curve(path)
        self.reached = max((line["global_step"] for line in told), default=0) if steps else 0
        kept = [line for line in told if line["global_step"] <= steps]
        text = "".join(_line(entry) for entry in kept)
        write_text(path, text)

    def add(self, steps: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of one update."""
        with self._path.open("a") as file:
            file.write(_line({"global_step": steps, **metrics}))


def read_curve(path: Path) -> list[dict[str, float]]:
    """Metrics per update, by name; empty without a file.

    The last line is left out if a killed training wrote only a part of it.
    """
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def _line(entry: Mapping[str, float]) -> str:
    finite = {name: value for name, value in entry.items() if math.isfinite(value)}
    return json.dumps(finite, allow_nan=False) + "\n"


def start_from(policy: PolicyNetwork, process: Process, source: AnyCheckpoint) -> str:
    """Give a policy the weights of another controller; its arms are matched by name.

    Returns one line on which arms were matched.

    A shared network scores a new arm as those of which the same is seen. A flat one knows nothing
    of it: its weights are 0.

    Raises:
        ConfigError: the networks differ, or they have no arm in common.
    """
    own, theirs = granularity_of(process), source.granularity
    named, network = ("network", "hidden_sizes", "ignored_features"), policy.config.network
    same = [(n, getattr(source.policy.config, n), getattr(policy.config, n)) for n in named]
    if network != "flat":
        added = ("own_actions", "own_features")
        same += [(n, getattr(source.config, n, ()), getattr(process, n, ())) for n in added]
    if network not in ("flat", "shared"):
        same += [("actions", source.config.actions.names, process.actions.names)]
        same += [("features", theirs.features, own.features)]
    for name, expected, found in (("decisions", theirs.unit, own.unit), *same):
        if expected != found:
            raise ConfigError(f"{name}: expected {expected} as of {source.path}, found {found}")
    arms, known = (getattr(p, "arm_names", ()) for p in (process, source.config))
    matched = [arm for arm in arms if arm in known]
    if arms and not matched:
        raise ConfigError(
            f"start: expected some of the arms of {source.path}, {', '.join(known)}; found "
            f"{', '.join(arms)}"
        )
    weights = dict(source.policy.state_dict())
    asked = _asked(process), _asked(source.config)
    if isinstance(policy.actor, ActionScorer):
        weights["actor.apart"] = _taken(weights["actor.apart"], *asked)
    elif network == "flat":
        for name in ("actor.0.weight", "critic.0.weight"):
            weights[name] = _taken(weights[name].T, own.features, theirs.features).T
        for part in ("weight", "bias"):
            name = f"actor.{len(policy.actor) - 1}.{part}"
            weights[name] = _taken(weights[name], *asked)
    policy.load_state_dict(weights)
    new = [arm for arm in arms if arm not in known]
    return f"starts from {source.path}: knows {', '.join(matched)}; new: {', '.join(new) or 'none'}"


def _taken(weights: Tensor, own: Sequence[Hashable], theirs: Sequence[Hashable]) -> Tensor:
    """Weights, (theirs, ...), of what both have, 0 elsewhere, (own, ...)."""
    places = {name: place for place, name in enumerate(theirs)}
    both = [(row, places[name]) for row, name in enumerate(own) if name in places]
    taken = torch.zeros(len(own), *weights.shape[1:])
    rows, sources = torch.tensor(both).T
    taken[rows] = weights[sources]
    return taken


def _asked(process: Process) -> list[Hashable]:
    """Kind, width and arm of each action, also where a pair's leave the arm unsaid."""
    if isinstance(process, SegmentConfig):
        return list(process.actions)
    return [
        (action.kind, action.width, process.arm_names[process.rung_of(action.kind, action.arm)])
        for action in process.actions
    ]
