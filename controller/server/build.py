"""From settings to a service: models, arms, and their renewal while it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from controller.answers import AnswerKind, answer_kind
from controller.backends.asynchronous import AsyncBackend, Ladder
from controller.backends.endpoint import Endpoint
from controller.backends.openai import OpenAIBackend
from controller.checkpoint import Checkpoint, load_checkpoint
from controller.deciders import PolicyDecider
from controller.errors import AllotError, ConfigError
from controller.loading import with_segments
from controller.prompts import Message, read_prompts
from controller.server.app import Service
from controller.server.arms import Arm, Arms, deployed_process
from controller.server.config import ServeConfig
from controller.server.engine import Engine
from controller.server.equivalence import ByKind, Embedding, Equivalence
from controller.server.keys import Keys
from controller.server.logs import episode_fields, episode_log, service_log
from controller.server.metrics import Metrics
from controller.server.terms import Served
from controller.types import ModelSpec

KEY_VARIABLE = "ALLOT_UPSTREAM_KEY_{rung}"
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


def build_arms(config: ServeConfig, backend: AsyncBackend, metrics: Metrics) -> Arms:
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
                decider=PolicyDecider(checkpoint.policy, exploration=config.exploration),
                share=share,
                price=config.price,
                pace=None if config.mean_cost is None else checkpoint.pace(config.mean_cost),
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


def build_backend(config: ServeConfig, checkpoint: Checkpoint, metrics: Metrics) -> AsyncBackend:
    """The ladder of models."""
    models = config.models or _named_models(checkpoint)
    if len(models) != checkpoint.config.num_rungs:
        raise ConfigError(
            f"models: expected {checkpoint.config.num_rungs}, as {config.controller} was trained "
            f"for {[m.name for m in checkpoint.models]}, found {list(models)}"
        )
    names = [source.partition("#")[2] or trained.name
             for source, trained in zip(models, checkpoint.models, strict=True)]  # fmt: skip
    prompts = read_prompts(config.prompts, names)
    rungs = [
        _endpoint(source, rung, config, checkpoint, metrics, prompts.get(names[rung]))
        if source.startswith(("http://", "https://"))
        else _local(source, rung, config, checkpoint)
        for rung, source in enumerate(models)
    ]
    return Ladder(rungs)


def _named_models(checkpoint: Checkpoint) -> tuple[str, ...]:
    if not checkpoint.model_paths or checkpoint.path is None:
        raise ConfigError(
            f"models: expected --small and --large, since {checkpoint.path} names none"
        )
    return tuple(str((checkpoint.path / path).resolve()) for path in checkpoint.model_paths)


def _longest(rung: int, config: ServeConfig, checkpoint: Checkpoint) -> int:
    return config.max_new_tokens or checkpoint.config.max_completion_tokens[rung]


def _decoding(trained: ModelSpec) -> dict[str, Any]:
    """Fields of a request that make a server sample as it did for the traces, if that is known."""
    return {} if trained.temperature is None else {"temperature": trained.temperature}


def _endpoint(
    source: str,
    rung: int,
    config: ServeConfig,
    checkpoint: Checkpoint,
    metrics: Metrics,
    prompt: tuple[Message, ...] | None,
) -> AsyncBackend:
    url, _, name = source.partition("#")
    trained: ModelSpec = checkpoint.models[rung]
    adapted = any(adapter.name == "reviser" for adapter in trained.adapters)
    upstream = config.upstream
    same_prompt = prompt in (None, trained.prompt)
    if not same_prompt:
        service_log.warning("other_prompt", extra={"fields": {"model": name or trained.name}})
    return OpenAIBackend(
        Endpoint(
            base_url=url,
            model=name or trained.name,
            api_key=os.environ.get(KEY_VARIABLE.format(rung=rung), "none"),
            reviser=upstream.reviser if rung == 0 else None,
            # A policy that learned with a reviser's adapter must not revise without it.
            revises=rung == 0 and (upstream.reviser is not None or not adapted),
            parameters=trained.parameters,
            max_new_tokens=_longest(rung, config, checkpoint),
            asks_n=upstream.asks_n,
            streams=upstream.streams,
            body={**_decoding(trained), **upstream.body},
            wants_logprobs=checkpoint.config.reads_logprobs,
            prompt=trained.prompt if prompt is None else prompt,
            prompt_length=trained.prompt_length if same_prompt else None,
            tokenize=_tokenizer(checkpoint, rung),
            trained_as=trained.name,
            attempt_deadline_s=upstream.attempt_deadline_s,
            max_retries=upstream.max_retries,
            max_connections=4 * config.limits.max_in_flight,
        ),
        answers=answer_kind(checkpoint.answers),
        observe=metrics.tried,
    )


def _tokenizer(checkpoint: Checkpoint, rung: int) -> Callable[[Sequence[Message]], int] | None:
    """Counts chats by the tokenizer of the model that the checkpoint names, if it lies here."""
    paths = checkpoint.model_paths
    directory = (checkpoint.path or Path()) / paths[rung] if paths else Path()
    if not (directory / "tokenizer_config.json").exists():
        return None
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory.resolve(), local_files_only=True)
    if not tokenizer.chat_template:
        return None

    def count(chat: Sequence[Message]) -> int:
        ids = tokenizer.apply_chat_template(
            list(chat), add_generation_prompt=True, return_dict=False
        )
        return len(ids)

    return count


def _local(source: str, rung: int, config: ServeConfig, checkpoint: Checkpoint) -> AsyncBackend:
    from controller.backends.adapters import load_adapters
    from controller.backends.base import recorded_temperature
    from controller.backends.threaded import ThreadedBackend
    from controller.backends.transformers import TransformersBackend, load_model

    loaded = load_model(Path(source) if Path(source).is_dir() else source, 0)
    trained = checkpoint.models[rung]
    if trained.digest and loaded.digest != trained.digest:
        fields = {"model": source, "expected": trained.digest, "found": loaded.digest}
        service_log.warning("other_weights", extra={"fields": fields})
    if rung == 0 and checkpoint.adapter_paths and loaded.digest == trained.digest:
        root = checkpoint.path or Path()
        paths = {name: (root / p).resolve() for name, p in checkpoint.adapter_paths.items()}
        loaded = load_adapters(loaded, paths)
    adapted = {adapter.name for adapter in trained.adapters} <= {a.name for a in loaded.adapters}
    backend = TransformersBackend(
        [loaded],
        temperature=recorded_temperature(checkpoint.models),
        max_new_tokens=_longest(rung, config, checkpoint),
        answers=answer_kind(checkpoint.answers),
    )
    segmented = with_segments(checkpoint, backend) if rung == 0 else backend
    return ThreadedBackend(segmented, reads_prompts=rung == 0, revises=rung == 0 and adapted)


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
