"""Where a recording's models come from: a description that is small enough to be sent around.

A worker on another machine builds its recorder of the same description as this process would.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

from controller.backends.base import Backend
from controller.backends.ladder import Ladder
from controller.backends.openai.backend import OpenAIBackend
from controller.backends.openai.endpoint import Endpoint
from controller.backends.openai.resilience import CircuitBreaker
from controller.backends.places import ModelPlace, as_place, check_names, tell_downloads
from controller.backends.prompts import Message
from controller.checkpoint import HUB_SCHEME, load_segment_checkpoint, seen_from
from controller.errors import ConfigError
from controller.loading import KEY_VARIABLE
from controller.process.menu import family_of
from controller.process.types import ModelSpec, Question
from envs.questions.grader import KindGrader
from training.record.cluster import Cluster, RayRecorder
from training.record.plans import check_begun
from training.record.progress import Watch
from training.record.recorders import (
    LocalRecorder,
    Recorder,
    ServedModel,
    ServedRecorder,
    ServerQueue,
)
from training.record.recording import Recording, planned_manifest
from training.record.settings import Decoding, RecordConfig

if TYPE_CHECKING:
    from controller.backends.local.model import LocalModel

_TIMEOUT_S = 5.0

_OF_SERVED_MODELS = ("concurrency", "attempt_deadline")
_OF_LOCAL_MODELS = ("dtype", "device_map", "compiled")

CONCURRENCY = 8
"""Requests to a server at the same time, where it does not tell how many it has room for."""


@dataclass(frozen=True, kw_only=True)
class Models(Decoding):
    """Models that transformers loads, models behind OpenAI-compatible servers, or both.

    Attributes:
        places: where they are, the small ones first.
        adapters: directories of the first model's reviser and verifier, by name.
        parameters: of models behind servers, by name.
        prompts: chats that models are asked with, by name; see `ModelSpec.prompt`.
        inside: a controller under which local samples are written segment by segment, and the
            price that it is told; None for plain samples.
        keys: of the servers, by rung.
    """

    places: tuple[ModelPlace, ...]
    adapters: Mapping[str, Path] = field(default_factory=dict)
    parameters: Mapping[str, float] = field(default_factory=dict)
    prompts: Mapping[str, tuple[Message, ...]] = field(default_factory=dict)
    inside: tuple[Path, float] | None = None
    keys: Mapping[int, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [place.name for place in check_names(self.places)]
        served = [place.name for place in self.places if place.is_server]
        for setting, given, known in (
            ("parameters", self.parameters, served),  # those of others are counted
            ("prompt", self.prompts, names),
        ):
            for stranger in set(given) - set(known):
                whose = "models behind servers" if known is served else "models"
                names_of = ", ".join(known) or "(none)"
                raise ConfigError(
                    f"{setting}: expected one of the {whose} {names_of}, found {stranger!r}"
                )
        for name, concerns, whose in (
            *((name, bool(served), "behind servers") for name in _OF_SERVED_MODELS),
            *((name, bool(self.local), "in this process") for name in _OF_LOCAL_MODELS),
        ):
            said = getattr(self, name)
            if said != getattr(Decoding, name) and not concerns:
                raise ConfigError(
                    f"{name}: expected models {whose} with it, found {said!r} and none of these"
                )
        if (self.adapters or self.inside) and self.places[0].is_server:
            raise ConfigError(
                "models: expected a small model in this process for adapters or a controller of "
                f"segments, found {self.places[0].text}"
            )
        if any("@" in (place.url or "") for place in self.places):
            raise ConfigError(
                "models: expected servers without a name and password in their address, which "
                f"would be recorded; say a key in {KEY_VARIABLE.format(rung='0, 1, ...')}"
            )

    @property
    def local(self) -> tuple[ModelPlace, ...]:
        """Models of this process."""
        return tuple(place for place in self.places if not place.is_server)

    def load(self) -> list[LocalModel]:
        """Local models in memory, as a ladder of their own."""
        from controller.backends.local.adapters import load_adapters
        from controller.backends.local.model import load_model
        from training.learn.threads import limit_threads

        how = {"dtype": self.dtype, "device_map": self.device_map, "compiled": self.compiled}
        tell_downloads(self.local)
        loaded: dict[str, LocalModel] = {}
        models: list[LocalModel] = []
        for rung, place in enumerate(self.local):
            if place.source not in loaded:
                loaded[place.source] = load_model(place, rung, **how)  # type: ignore[arg-type]
            prompt = place.prompt or self.prompts.get(place.name, ())
            model = replace(loaded[place.source], name=place.name, rung=rung, prompt=prompt)
            models.append(model.at_depth(place.body.get("num_loops")))
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
                verifies=place.verifies,
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
        rungs = [rung for rung, place in enumerate(self.places) if not place.is_server]
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
        spec = ModelSpec(
            name=place.name,
            rung=rung,
            parameters=self.parameters.get(place.name, parameters.get(place.model or "")),
            max_new_tokens=self.max_new_tokens,
            temperature=self._temperature(place),
            prompt=place.prompt or self.prompts.get(place.name, ()),
        )
        endpoint = Endpoint(
            base_url=place.url or "",
            model=place.model or "",
            spec=spec,
            api_key=self.keys.get(rung, "none"),
            body={"temperature": self.temperature, **place.body},
            seed=self.seed,
            max_retries=0,
            max_connections=concurrency,
            connect_timeout_s=10.0,
            attempt_deadline_s=60 * self.attempt_deadline,
            streams=True,
        )

        def connect() -> Backend:
            """Leaves it to its user when to give up on a server."""
            return OpenAIBackend(endpoint, breaker=CircuitBreaker(failures=2**31))

        return ServedModel(spec=spec, connect=connect)

    def notes(self, out: Path) -> dict[str, Any]:
        """Places and decoding, as `trace.json` in the directory `out` says them."""
        models: dict[str, Any] = {}
        entry: dict[str, Any]
        for p in self.places:
            family = p.family or family_of(p.model or Path(p.source).stem)
            entry = models[p.name] = {"family": family}
            if p.url:
                entry["server"] = f"{p.url}#{p.model}"
            else:
                entry["path"] = seen_from(out, Path(), p.path) if p.path else HUB_SCHEME + p.source
            if p.body:
                entry["body"] = dict(p.body)
                entry |= {name: p.body[name] for name in ("temperature",) if name in p.body}
        names = ("temperature", "max_new_tokens", "seed")
        decoding = {name: getattr(self, name) for name in names}
        if self.dtype != "auto":
            decoding["dtype"] = self.dtype
        if self.inside is not None:
            controller, price = self.inside
            decoding["segments"] = {
                "controller": seen_from(out, Path(), controller),
                "price": price,
            }
        adapters = {name: seen_from(out, Path(), path) for name, path in self.adapters.items()}
        return {"models": models, "adapters": adapters, "decoding": decoding}


def _about_server(url: str, key: str) -> tuple[dict[str, float], int | None]:
    """Parameters by model that a server at URL/v1 tells, and how many requests it works on."""
    listed = _get(f"{url}/models", key).get("data")
    counts = {
        str(entry.get("id")): entry["meta"].get("n_params")
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("meta"), dict)
    }
    slots = _get(f"{url.removesuffix('/v1')}/props", key).get("total_slots")
    return (
        {name: float(n) for name, n in counts.items() if isinstance(n, int | float) and n > 0},
        slots if isinstance(slots, int) and slots > 0 else None,
    )


def _get(url: str, key: str) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {key.strip()}"}
    try:
        reply = httpx2.get(url, headers=headers, timeout=_TIMEOUT_S, trust_env=False)
        found = reply.raise_for_status().json()
    except (httpx2.HTTPError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def find_source(models: Sequence[str | Path | ModelPlace], **settings: Any) -> Models:
    """Models named as on the command line, with settings of `Models`; raises ConfigError."""
    inside = settings.pop("inside", None)
    adapters = settings.pop("adapters", None) or {}
    places = tuple(as_place(model) for model in models)
    keys = {rung: os.environ.get(KEY_VARIABLE.format(rung=rung)) for rung in range(len(places))}
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
    told = source.notes(out) | dict(notes or {})
    names = [ModelSpec(name=place.name, rung=rung) for rung, place in enumerate(source.places)]
    check_begun(out, planned_manifest(config, names, told))
    on: Any = cluster and RayRecorder(source.recorder, config, cluster)
    with on or nullcontext(source.recorder(config)) as recorder:
        Recording(questions, recorder, out, told).run(progress)
