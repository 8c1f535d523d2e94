"""Resumable training state in safetensors and JSON, replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_EXTRA = "extra/"


def save_state(
    directory: Path,
    model: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    progress: Mapping[str, Any],
    extra: Mapping[str, Tensor] | None = None,
) -> None:
    """Write weights, optimiser state and progress; the JSON, written last, makes it valid.

    Args:
        directory: created if missing; an older state in it is replaced.
        model: its parameters are stored under their names.
        optimizers: their per-parameter tensors are stored.
        progress: whatever else resuming needs, as JSON.
        extra: further tensors, returned by `load_state` under the same names.
    """
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
    save_file(tensors, directory / file_name)
    temporary = directory / "state.json.tmp"
    temporary.write_text(json.dumps({"tensors": file_name, "progress": progress}))
    os.replace(temporary, manifest)


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
