"""Where a recording's backend comes from: a description that is small enough to be sent around.

A worker on another machine builds its backend of the same description as this process would.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from controller.backends.base import TEMPERATURE, Backend
from controller.checkpoint import HUB_SCHEME
from controller.errors import ConfigError
from controller.types import ModelSpec

if TYPE_CHECKING:
    from controller.backends.local_model import LocalModel

_URLS = ("http://", "https://")
_KEY_VARIABLE = "ALLOT_UPSTREAM_KEY_{rung}"


class Source(Protocol):
    """Describes a backend."""

    def build(self) -> Backend:
        """The backend itself, with its models in memory."""
        ...

    def notes(self, models: Sequence[ModelSpec], out: Path) -> dict[str, Any]:
        """What `trace.json` says about it, seen from the directory of the trace set."""
        ...


@dataclass(frozen=True, kw_only=True)
class LocalModels:
    """Models that transformers loads.

    Attributes:
        paths: directories or hub ids, the small model first.
        adapters: directories of the small model's reviser and verifier, by name.
        max_new_tokens: longest attempt.
        temperature: of the sampling.
        seed: of the sampling.
        device_map: where their layers go; see `load_model`.
        dtype: of their weights, as torch names it.
        compiled: have torch.compile make kernels for them.
        inside: a controller under which samples are written segment by segment, and the price
            that it is told; None for plain samples.
    """

    paths: tuple[str, ...]
    adapters: Mapping[str, Path] = field(default_factory=dict)
    max_new_tokens: int = 192
    temperature: float = TEMPERATURE
    seed: int = 0
    device_map: str | None = None
    dtype: str = "auto"
    compiled: bool = False
    inside: tuple[Path, float] | None = None

    def load(self) -> list[LocalModel]:
        """The models in memory, the small one first."""
        from controller.backends.adapters import load_adapters
        from controller.backends.local_model import load_model
        from training.threads import limit_threads

        models = [
            load_model(
                path,
                rung,
                dtype=self.dtype,
                device_map=self.device_map,
                compiled=self.compiled,
            )
            for rung, path in enumerate(self.paths)
        ]
        if self.adapters:
            models[0] = load_adapters(models[0], self.adapters)
        limit_threads(max(model.parameters for model in models))
        return models

    def build(self) -> Backend:
        """Load the models."""
        from controller.backends.transformers import TransformersBackend

        models = self.load()
        whole = TransformersBackend(
            models,
            seed=self.seed,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
        )
        if self.inside is None:
            return whole
        from controller.checkpoint import load_segment_checkpoint
        from controller.loading import written_under

        path, price = self.inside
        return written_under(load_segment_checkpoint(path), whole, price)

    def notes(self, models: Sequence[ModelSpec], out: Path) -> dict[str, Any]:
        """Paths, decoding and licence."""
        paths = {
            spec.name: _seen_from(out, Path(path)) if Path(path).exists() else HUB_SCHEME + path
            for spec, path in zip(models, self.paths, strict=True)
        }
        paths |= {name: _seen_from(out, path) for name, path in self.adapters.items()}
        decoding: dict[str, Any] = {
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
        }
        if self.dtype != "auto":
            decoding["dtype"] = self.dtype
        if self.inside is not None:
            controller, price = self.inside
            decoding["segments"] = {"controller": _seen_from(out, controller), "price": price}
        return {
            "model_paths": paths,
            "decoding": decoding,
            "licence": "Apache-2.0",
        }


@dataclass(frozen=True, kw_only=True)
class ServedModels:
    """Models behind OpenAI-compatible servers.

    Attributes:
        models: URL#MODEL per rung, the small one first.
        parameters: by model name, for the ledger.
        max_new_tokens: longest attempt.
        temperature: of the sampling.
        seed: of the sampling, for servers that take one.
        concurrency: requests at the same time.
        api_keys: per rung.
    """

    models: tuple[str, ...]
    parameters: Mapping[str, float] = field(default_factory=dict)
    max_new_tokens: int = 192
    temperature: float = TEMPERATURE
    seed: int = 0
    concurrency: int = 64
    api_keys: tuple[str, ...] = field(default=(), repr=False)

    def build(self) -> Backend:
        """Connect to nothing yet."""
        try:
            from controller.backends.endpoint import Endpoint
            from training.served_backend import ServedBackend
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"record: expected the packages that talk to servers, found no {error.name}; "
                "pip install 'allot[serve]'"
            ) from None

        endpoints = []
        for rung, source in enumerate(self.models):
            url, _, name = source.partition("#")
            endpoints.append(
                Endpoint(
                    base_url=url,
                    model=name,
                    api_key=self.api_keys[rung] if self.api_keys else "none",
                    parameters=self.parameters.get(name),
                    max_new_tokens=self.max_new_tokens,
                    body={"temperature": self.temperature},
                    seed=self.seed,
                    max_retries=10,
                    max_connections=self.concurrency,
                )
            )
        return ServedBackend(endpoints, self.concurrency)

    def notes(self, models: Sequence[ModelSpec], out: Path) -> dict[str, Any]:
        """Servers and decoding."""
        return {
            "servers": list(self.models),
            "decoding": {
                "temperature": self.temperature,
                "max_new_tokens": self.max_new_tokens,
                "seed": self.seed,
            },
        }


def find_source(
    models: Sequence[str],
    *,
    adapters: Mapping[str, Path] | None = None,
    parameters: Mapping[str, float] | None = None,
    max_new_tokens: int = 192,
    temperature: float = TEMPERATURE,
    seed: int = 0,
    concurrency: int = 64,
    device_map: str | None = None,
    dtype: str = "auto",
    compiled: bool = False,
    inside: tuple[Path, float] | None = None,
) -> Source:
    """A source of models named as on the command line.

    Args:
        models: directories or hub ids, or else URL#MODEL, the small one first.
        adapters: directories of the small model's reviser and verifier, by name.
        parameters: of models behind servers, by name.
        max_new_tokens: longest attempt.
        temperature: of the sampling; 0 takes the likeliest token each time.
        seed: of the sampling.
        concurrency: requests to servers at the same time.
        device_map: where layers of local models go; see `load_model`.
        dtype: of their weights.
        compiled: have torch.compile make kernels for them.
        inside: see `LocalModels`.

    Raises:
        ConfigError: directories and servers are mixed, a server has no model's name, or there
            are adapters or a controller of segments for a server's model.
    """
    served = [model.startswith(_URLS) for model in models]
    if not any(served):
        # Workers do not run in this directory.
        paths = tuple(str(Path(m).resolve()) if Path(m).is_dir() else m for m in models)
        return LocalModels(
            paths=paths,
            adapters={name: path.resolve() for name, path in (adapters or {}).items()},
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            device_map=device_map,
            dtype=dtype,
            compiled=compiled,
            inside=None if inside is None else (inside[0].resolve(), inside[1]),
        )
    if not all(served) or any("#" not in model for model in models) or adapters or inside:
        raise ConfigError(
            "models: expected directories and hub ids, or else URL#MODEL for every rung with "
            f"neither adapters nor a controller of segments, found {list(models)}"
        )
    if concurrency < 1:
        raise ConfigError(f"concurrency: expected at least 1, found {concurrency}")
    return ServedModels(
        models=tuple(models),
        parameters=parameters or {},
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        concurrency=concurrency,
        api_keys=tuple(
            os.environ.get(_KEY_VARIABLE.format(rung=rung), "none") for rung in range(len(models))
        ),
    )


def _seen_from(out: Path, path: Path) -> str:
    return os.path.relpath(path.resolve(), out.resolve())
