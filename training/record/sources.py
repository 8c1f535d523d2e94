"""Where a recording's models come from: a description that is small enough to be sent around.

A worker on another machine builds its recorder of the same description as this process would.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

from controller.backends.base import TEMPERATURE, Backend
from controller.backends.ladder import Ladder
from controller.backends.openai.backend import OpenAIBackend
from controller.backends.openai.endpoint import Endpoint
from controller.backends.openai.resilience import CircuitBreaker
from controller.backends.places import ModelPlace, as_place, check_names
from controller.backends.prompts import Message
from controller.checkpoint import HUB_SCHEME, load_segment_checkpoint
from controller.errors import ConfigError
from controller.process.menu import family_of
from controller.process.types import ModelSpec, Question
from envs.questions.grader import KindGrader
from training.record.cluster import Cluster
from training.record.plans import RecordConfig
from training.record.progress import Watch
from training.record.ray_recorder import RayRecorder
from training.record.recorders import LocalRecorder, ServedModel, ServedRecorder, ServerQueue
from training.record.recording import Recorder, Recording

if TYPE_CHECKING:
    from controller.backends.local.model import LocalModel

_KEY_VARIABLE = "ALLOT_UPSTREAM_KEY_{rung}"

_TIMEOUT_S = 5.0

CONCURRENCY = 8
"""Requests to a server at the same time, where it does not tell how many it has room for."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """Models that transformers loads, models behind OpenAI-compatible servers, or both.

    Attributes:
        places: where they are, the small ones first.
        adapters: directories of the first model's reviser and verifier, by name.
        parameters: of models behind servers, by name.
        prompts: chats that models are asked with, by name; see `ModelSpec.prompt`.
        max_new_tokens: longest attempt.
        temperature: of the sampling; 0 takes the likeliest token each time.
        seed: of the sampling, also for servers that take one.
        concurrency: requests to one server at the same time; None for as many as it says that it
            has room for.
        deadline_s: longest time that a server's attempt may take.
        device_map: where layers of local models go; see `load_model`.
        dtype: of their weights, as torch names it.
        compiled: have torch.compile make kernels for them.
        inside: a controller under which local samples are written segment by segment, and the
            price that it is told; None for plain samples.
        keys: of the servers, by rung.

    Raises:
        ConfigError: two models of one name, or adapters or a controller for a server's model.
    """

    places: tuple[ModelPlace, ...]
    adapters: Mapping[str, Path] = field(default_factory=dict)
    parameters: Mapping[str, float] = field(default_factory=dict)
    prompts: Mapping[str, tuple[Message, ...]] = field(default_factory=dict)
    max_new_tokens: int = 192
    temperature: float = TEMPERATURE
    seed: int = 0
    concurrency: int | None = None
    deadline_s: float = 1800.0
    device_map: str | None = None
    dtype: str = "auto"
    compiled: bool = False
    inside: tuple[Path, float] | None = None
    keys: Mapping[int, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        names = [place.name for place in check_names(self.places)]
        for setting, given in (("parameters", self.parameters), ("prompt", self.prompts)):
            for stranger in set(given) - set(names):
                raise ConfigError(
                    f"{setting}: expected one of the models {', '.join(names)}, found {stranger!r}"
                )
        if (self.adapters or self.inside) and self.places[0].is_server:
            raise ConfigError(
                "models: expected a small model in this process for adapters or a controller of "
                f"segments, found {self.places[0].text}"
            )
        if any("@" in (place.url or "") for place in self.places):
            raise ConfigError(
                "models: expected servers without a name and password in their address, which "
                f"would be recorded; say a key in {_KEY_VARIABLE.format(rung='0, 1, ...')}"
            )
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigError(f"concurrency: expected at least 1, found {self.concurrency}")
        if self.deadline_s <= 0:
            raise ConfigError(f"attempt_deadline: expected more than 0, found {self.deadline_s}")

    @property
    def local(self) -> tuple[ModelPlace, ...]:
        """Models of this process."""
        return tuple(place for place in self.places if place.is_local)

    def load(self) -> list[LocalModel]:
        """Local models in memory, as a ladder of their own."""
        from controller.backends.local.adapters import load_adapters
        from controller.backends.local.model import load_model
        from training.learn.threads import limit_threads

        how = {"dtype": self.dtype, "device_map": self.device_map, "compiled": self.compiled}
        loaded: dict[str, LocalModel] = {}
        models: list[LocalModel] = []
        for rung, place in enumerate(self.local):
            if place.source not in loaded:
                loaded[place.source] = load_model(place, rung, **how)  # type: ignore[arg-type]
            prompt = place.prompt or self.prompts.get(place.name, ())
            models.append(replace(loaded[place.source], name=place.name, rung=rung, prompt=prompt))
        if self.adapters:
            models[0] = load_adapters(models[0], self.adapters)
        limit_threads(max(model.parameters for model in models))
        return models

    def _temperature(self, place: ModelPlace) -> float:
        return float(place.body.get("temperature", self.temperature))

    def backend(self) -> Backend:
        """Load the local models."""
        from controller.backends.local.backend import LocalBackend
        from controller.backends.local.segmented import written_under

        small, *larges = (
            LocalBackend(
                model,
                seed=self.seed,
                temperature=self._temperature(place),
                max_new_tokens=self.max_new_tokens,
            )
            for place, model in zip(self.local, self.load(), strict=True)
        )
        if self.inside is None:
            return Ladder([small, *larges], at_once=False)
        path, price = self.inside
        inside = written_under(load_segment_checkpoint(path), small, price)
        return Ladder([inside, *larges], at_once=False)

    def recorder(self, config: RecordConfig) -> Recorder:
        """Load what is local, and ask the servers about the rest."""
        grader = KindGrader()
        rungs = [rung for rung, place in enumerate(self.places) if place.is_local]
        local = LocalRecorder(self.backend(), grader, config, rungs) if rungs else None
        urls = dict.fromkeys(place.url for place in self.places if place.url)
        if local is not None and not urls:
            return local
        return ServedRecorder(local, [self._queue(url) for url in urls], grader, config)

    def _queue(self, url: str) -> ServerQueue:
        """Asks the models behind one server."""
        rungs = [rung for rung, place in enumerate(self.places) if place.url == url]
        parameters, slots = _about_server(url, self.keys.get(rungs[0], "none"))
        concurrency = self.concurrency or slots or CONCURRENCY
        return ServerQueue(
            [self._served(rung, concurrency, parameters) for rung in rungs], concurrency
        )

    def _served(self, rung: int, concurrency: int, parameters: Mapping[str, float]) -> ServedModel:
        place = self.places[rung]
        endpoint = Endpoint(
            base_url=place.url or "",
            model=place.model or "",
            name=place.name,
            api_key=self.keys.get(rung, "none"),
            parameters=self.parameters.get(place.name, parameters.get(place.model or "")),
            max_new_tokens=self.max_new_tokens,
            body={"temperature": self.temperature, **place.body},
            seed=self.seed,
            max_retries=0,
            max_connections=concurrency,
            connect_timeout_s=10.0,
            attempt_deadline_s=self.deadline_s,
            prompt=place.prompt or self.prompts.get(place.name, ()),
            streams=True,
        )
        spec = ModelSpec(
            name=place.name,
            rung=rung,
            parameters=endpoint.parameters,
            max_new_tokens=self.max_new_tokens,
            temperature=self._temperature(place),
            prompt=endpoint.prompt,
        )

        def connect() -> Backend:
            """Leaves it to its user when to give up on a server."""
            return OpenAIBackend(endpoint, breaker=CircuitBreaker(failures=2**31))

        return ServedModel(spec=spec, rung=rung, connect=connect)

    def notes(self, out: Path) -> dict[str, Any]:
        """Places and decoding, as `trace.json` in the directory `out` says them."""
        paths = {
            place.name: _seen_from(out, place.path) if place.path else HUB_SCHEME + place.source
            for place in self.local
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
        servers = {p.name: f"{p.url}#{p.model}" for p in self.places if p.url}
        families = {
            p.name: p.family or family_of(p.model or Path(p.source).stem) for p in self.places
        }
        return {
            "model_paths": paths,
            "servers": servers,
            "families": families,
            "bodies": {p.name: dict(p.body) for p in self.places if p.body},
            "decoding": decoding,
        }


def _about_server(url: str, key: str) -> tuple[dict[str, float], int | None]:
    """What a server at URL/v1 tells, if it does.

    Returns:
        Parameters by model, and the requests that it works on at the same time.
    """
    listed = _get(f"{url}/models", key).get("data")
    counts = {
        str(entry.get("id")): (entry.get("meta") or {}).get("n_params")
        for entry in (listed if isinstance(listed, list) else [])
    }
    slots = _get(f"{url.removesuffix('/v1')}/props", key).get("total_slots")
    return (
        {name: float(n) for name, n in counts.items() if isinstance(n, int | float) and n > 0},
        slots if isinstance(slots, int) and slots > 0 else None,
    )


def _get(url: str, key: str) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {key}"}
    try:
        reply = httpx2.get(url, headers=headers, timeout=_TIMEOUT_S, trust_env=False)
        found = reply.raise_for_status().json()
    except (httpx2.HTTPError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def find_source(models: Sequence[str | Path | ModelPlace], **settings: Any) -> Models:
    """A source of models named as on the command line, with settings of `Models`.

    Raises:
        ConfigError: no such place, or settings that do not go together.
    """
    inside = settings.pop("inside", None)
    adapters = settings.pop("adapters", None) or {}
    places = tuple(as_place(model) for model in models)
    keys = {rung: os.environ.get(_KEY_VARIABLE.format(rung=rung)) for rung in range(len(places))}
    # Workers do not run in this directory.
    return Models(
        places=places,
        adapters={name: path.resolve() for name, path in adapters.items()},
        inside=None if inside is None else (inside[0].resolve(), inside[1]),
        keys={rung: key for rung, key in keys.items() if key},
        **settings,
    )


def record_models(
    questions: Mapping[str, Sequence[Question]],
    source: Models,
    out: Path,
    config: RecordConfig,
    cluster: Cluster | None = None,
    notes: Mapping[str, Any] | None = None,
    progress: Callable[[Recording], Watch] | None = None,
) -> None:
    """Record attempts of language models, on this machine or on a cluster.

    `notes` are added to `trace.json`; `progress` is shown a recording that is about to begin.
    """
    with ExitStack() as stack:
        recorder = (
            source.recorder(config)
            if cluster is None
            else stack.enter_context(RayRecorder(source, config, cluster))
        )
        Recording(questions, recorder, out, source.notes(out) | dict(notes or {})).run(progress)


def _seen_from(out: Path, path: Path) -> str:
    return os.path.relpath(path.resolve(), out.resolve())
