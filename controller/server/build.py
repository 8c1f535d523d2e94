"""From settings to a service: models, arms, and their renewal while it runs."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from controller.answers import AnswerKind, answer_kind
from controller.backends.base import Backend
from controller.backends.ladder import LadderBuilder, deployed_process, model_places
from controller.checkpoint import Checkpoint, load_checkpoint
from controller.errors import AllotError, ConfigError
from controller.policy.deciders import PolicyDecider
from controller.policy.pricing import Pricing
from controller.process.types import ModelSpec
from controller.server.app import Service
from controller.server.arms import Arm, Arms
from controller.server.config import ServeConfig
from controller.server.engine import Engine
from controller.server.equivalence import ByKind, Embedding, Equivalence
from controller.server.keys import Keys
from controller.server.logs import episode_fields, episode_log, service_log
from controller.server.metrics import Metrics
from controller.server.terms import Served

EMBEDDING_KEY_VARIABLE = "ALLOT_EMBEDDING_KEY"


def build_service(config: ServeConfig) -> Service:
    """A service, ready to be listened with.

    Raises:
        ConfigError: settings that contradict one another.
        CheckpointError: a checkpoint that cannot be read.
        BackendError: a local model that cannot be loaded.
    """
    metrics = Metrics()
    checkpoint = _load(config.controller, config)
    backend = build_backend(config, checkpoint, metrics)
    engine = Engine(
        build_arms(config, backend, metrics),
        backend,
        limits=config.limits,
        equivalence=build_equivalence(answer_kind(checkpoint.answers), config.equivalence),
        on_served=partial(_served, metrics, config.log_texts),
        on_stray=lambda arm, feature: metrics.strays.labels(arm, feature).inc(),
    )
    keys = Keys.read(config.keys) if config.keys else Keys()
    return Service(engine, keys=keys, metrics=metrics)


def _load(path: Path, config: ServeConfig) -> Checkpoint:
    checkpoint = load_checkpoint(path)
    return checkpoint if config.answers is None else replace(checkpoint, answers=config.answers)


def _served(metrics: Metrics, texts: bool, served: Served) -> None:
    metrics.served(served)
    episode_log.info("episode", extra={"fields": episode_fields(served, texts=texts)})


def build_arms(config: ServeConfig, backend: Backend, metrics: Metrics) -> Arms:
    """All arms, read from disk now."""
    main = 1.0 - sum(variant.share for variant in config.variants)
    named = [("main", config.controller, main)]
    named += [(v.name, v.path, v.share) for v in config.variants]
    arms = []
    for name, path, share in named:
        checkpoint = _load(path, config)
        if config.fallback is not None and checkpoint.support is None:
            service_log.warning("no_guard", extra={"fields": {"checkpoint": str(path)}})
        arms.append(
            Arm(
                name=name,
                checkpoint=checkpoint,
                process=deployed_process(checkpoint, backend),
                decider=PolicyDecider(
                    checkpoint.policy, exploration=config.exploration, floor=checkpoint.floor
                ),
                pricing=Pricing(checkpoint, config.standing),
                share=share,
                always=config.always,
                fallback=config.fallback,
            )
        )
    metrics.policy.clear()
    for arm in arms:
        metrics.policy.labels(arm.name, arm.digest).set(1)
    return Arms(arms)


class Reloader:
    """Reads checkpoints anew, and keeps the old ones if the new ones are not good.

    Requests that are being answered finish with the arms that they began with.

    Args:
        config: where they lie.
        service: that uses them.
    """

    def __init__(self, config: ServeConfig, service: Service) -> None:
        self._config, self._service = config, service
        self._seen = self._stamps()

    def _stamps(self) -> list[float]:
        paths = [self._config.controller, *(v.path for v in self._config.variants)]
        files = [Path(path) / "controller.json" for path in paths]
        return [file.stat().st_mtime_ns if file.exists() else 0 for file in files]

    def reload_if_changed(self) -> None:
        """Reload if a checkpoint has been written since."""
        if self._stamps() != self._seen:
            self.reload()

    def reload(self) -> None:
        """Reload now."""
        self._seen = self._stamps()
        engine, metrics = self._service.engine, self._service.metrics
        try:
            engine.arms = build_arms(self._config, engine.backend, metrics)
        except AllotError as error:
            metrics.reloads.labels("refused").inc()
            service_log.error("reload_refused", extra={"fields": {"why": str(error)}})
            return
        metrics.reloads.labels("done").inc()
        policies = {arm.name: arm.digest for arm in engine.arms.arms}
        service_log.info("reloaded", extra={"fields": {"policies": policies}})


def build_backend(config: ServeConfig, checkpoint: Checkpoint, metrics: Metrics) -> Backend:
    """The ladder of models."""
    models = config.models or checkpoint.located_models()
    if not models:
        raise ConfigError(
            f"models: expected --small and --large, since {checkpoint.path} names none"
        )
    places = model_places(models, checkpoint)
    builder = LadderBuilder(
        checkpoint=checkpoint,
        other_weights=_other_weights,
        upstream=replace(config.upstream, max_connections=4 * config.limits.max_in_flight),
        prompts=config.prompts,
        max_new_tokens=config.max_new_tokens,
        observe=metrics.tried,
    )
    return builder.build(places)


def _other_weights(trained: ModelSpec, source: str, found: str) -> None:
    fields = {"model": source, "expected": trained.digest, "found": found}
    service_log.warning("other_weights", extra={"fields": fields})


def build_equivalence(kind: AnswerKind, setting: str | None = None) -> Equivalence:
    """When two answers are the same.

    Args:
        kind: of the answers.
        setting: URL#MODEL of a server of embeddings; None for none.

    Raises:
        ConfigError: not URL#MODEL.
    """
    if setting is None:
        return ByKind(kind)
    url, _, model = setting.partition("#")
    if not url.startswith(("http://", "https://")) or not model:
        raise ConfigError(f"equivalence: expected URL#MODEL, found {setting!r}")
    api_key = os.environ.get(EMBEDDING_KEY_VARIABLE, "none")
    return Embedding(url, model, ByKind(kind), api_key=api_key)
