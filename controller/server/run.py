"""From settings to a service that listens, takes up new checkpoints, and goes down in order."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
import math
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from opentelemetry import trace
from prometheus_client.multiprocess import mark_process_dead

from controller.answers import load_kind
from controller.backends.base import Backend
from controller.checkpoint import Checkpoint, load_checkpoint
from controller.errors import AllotError, ConfigError
from controller.loading import (
    KEY_VARIABLE,
    LadderBuilder,
    check_asked_alike,
    deployed_process,
    model_places,
)
from controller.policy.deciders import PolicyDecider
from controller.policy.pricing import Pricing
from controller.process.types import ModelSpec
from controller.server.app import Service
from controller.server.config import ServeConfig, VariantPlace
from controller.server.engine import Engine, Served
from controller.server.keys import Keys
from controller.server.logs import EpisodeLog, configure, tell
from controller.server.ops import Metrics, episode_fields
from controller.server.shared import Shared, Store
from controller.server.variants import Variant, Variants

Work = Callable[[socket.socket], None]
"""Serves what a socket accepts, until a signal says stop."""

Tell = Callable[[str], None]
"""Told the address that takes requests."""

NOT_STARTED = 2
"""Exit status of a worker that would fail again."""
_RESTART_AFTER_S, _RETRIED_AFTER_S, _PREPARE_EVERY_S, _FAREWELL_S = 1.0, 10.0, 5.0, 2.0
_FILES_PER_QUESTION, _OTHER_FILES = 2, 512
"""A client and a model at a time; libraries, logs, connections that are kept."""
_ENDING = (signal.SIGTERM, signal.SIGINT)
_MULTIPROC_DIR = "PROMETHEUS_MULTIPROC_DIR"


def build_service(config: ServeConfig) -> Service:
    """A service, ready to be listened with.

    Raises:
        ConfigError: settings that contradict one another.
        CheckpointError: a checkpoint that cannot be read.
        BackendError: a local model that cannot be loaded.
    """
    metrics = Metrics()
    checkpoint = _load(config.checkpoint, config)
    store = Store(config.shared, fails_open=config.shared_fails_open) if config.shared else None
    shared = Shared(config.workers, store)
    backend = build_backend(config, checkpoint, metrics, shared)

    log = EpisodeLog(metrics.log_lost.inc)

    def on_served(served: Served) -> None:
        metrics.served(served)
        fields = episode_fields(served, texts=config.log_texts)
        log.write(fields)

    engine = Engine(
        build_variants(config, checkpoint, backend, metrics, shared),
        backend,
        limits=config.limits,
        shared=shared,
        on_served=on_served,
        on_stray=lambda variant, feature: metrics.strays.labels(variant, feature).inc(),
    )
    keys = Keys.read(config.keys) if config.keys else Keys()
    return Service(engine, keys=keys, metrics=metrics, playground=config.has_playground)


def _load(path: Path, config: ServeConfig) -> Checkpoint:
    checkpoint = load_checkpoint(path)
    if config.answers is None:
        return checkpoint
    return replace(checkpoint, answers=load_kind(config.answers).name)


def build_variants(
    config: ServeConfig, began: Checkpoint, backend: Backend, metrics: Metrics, shared: Shared
) -> Variants:
    """All variants, read from disk now, for models that are asked as the checkpoint `began` wants.

    Raises:
        CheckpointError: one that cannot be read.
        ConfigError: one that wants models asked in another way, or more or fewer of them.
    """
    main = 1.0 - sum(variant.share for variant in config.variants)
    places = [VariantPlace(name="main", path=config.checkpoint, share=main), *config.variants]
    variants = []
    for place in places:
        checkpoint = _load(place.path, config)
        process = deployed_process(checkpoint, backend)
        check_asked_alike(checkpoint, began)
        if config.guard is not None and checkpoint.support is None:
            tell("no_guard", logging.WARNING, checkpoint=str(place.path))
        decider = PolicyDecider(
            checkpoint.policy, exploration=config.exploration, floor=checkpoint.floor
        )
        tally = shared.tally(f"{place.name} {decider.digest} {config.mean_cost}")
        variants.append(
            Variant(
                name=place.name,
                checkpoint=checkpoint,
                process=process,
                decider=decider,
                pricing=Pricing(checkpoint, config.standing, tally),
                share=place.share,
                always=config.always,
                fallback=config.guard,
            )
        )
    metrics.deciding((variant.name, variant.digest) for variant in variants)
    return Variants(variants)


class Reloader:
    """Reads checkpoints and keys anew, and keeps the old ones if the new ones are not good.

    Requests that are being answered finish with the variants that they began with.
    """

    def __init__(self, config: ServeConfig, service: Service) -> None:
        self._config, self._service = config, service
        self._wanted = asyncio.Event()
        self._seen = self._contents()

    def _contents(self) -> dict[str, str]:
        """Digests of what is on disk, by what a change of it makes new."""
        paths = [self._config.checkpoint, *(v.path for v in self._config.variants)]
        files = [file for path in paths for file in sorted(Path(path).glob("controller.*"))]
        keys = [self._config.keys] if self._config.keys else []
        return {"policies": _digest(files), "keys": _digest(keys)}

    def wake(self) -> None:
        """Look now, and read all of it whether it has changed or not."""
        self._wanted.set()

    async def watch(self, every_s: float) -> None:
        """Read what has changed, time and again; if `every_s` is 0, only when woken."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(every_s or None):
                    await self._wanted.wait()
            woken, found = self._wanted.is_set(), await asyncio.to_thread(self._contents)
            self._wanted.clear()
            for what, read in (("policies", self._read_policies), ("keys", self._read_keys)):
                if woken or found[what] != self._seen[what]:
                    await asyncio.to_thread(self._reload, what, read)
            self._seen = found

    def _reload(self, what: str, read: Callable[[], Mapping[str, Any]]) -> None:
        metrics = self._service.metrics
        try:
            fields = read()
        except Exception as error:  # whatever lies there, the service goes on
            metrics.reloads.labels("refused").inc()
            known = isinstance(error, AllotError)
            why = str(error) if known else f"{type(error).__name__}: {error}"
            tell("reload_refused", logging.ERROR, what=what, why=why)
            self._service.engine.refused[what] = f"reload of {what} refused: {why}"
            return
        self._service.engine.refused.pop(what, None)
        metrics.reloads.labels("done").inc()
        tell("reloaded", what=what, **fields)

    def _read_policies(self) -> Mapping[str, Any]:
        engine = self._service.engine
        engine.variants = build_variants(
            self._config,
            engine.variants.all[0].checkpoint,
            engine.backend,
            self._service.metrics,
            engine.shared,
        )
        return {"policies": {variant.name: variant.digest for variant in engine.variants.all}}

    def _read_keys(self) -> Mapping[str, Any]:
        if self._config.keys:
            self._service.keys.become(Keys.read(self._config.keys))
        return {"callers": self._service.keys.callers}


def _digest(files: Sequence[Path]) -> str:
    """Of contents; of what cannot be read, why."""
    found = hashlib.sha256()
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            content = str(error).encode()
        found.update(f"{file}\0{len(content)}\0".encode() + content)
    return found.hexdigest()


def build_backend(
    config: ServeConfig, checkpoint: Checkpoint, metrics: Metrics, shared: Shared
) -> Backend:
    """The ladder of models."""
    models = config.models.all or checkpoint.located_models()
    if not models:
        raise ConfigError(
            f"models: expected --small and --large, since {checkpoint.path} names none"
        )

    def other_weights(trained: ModelSpec, source: str, found: str) -> None:
        tell("other_weights", logging.WARNING, model=source, expected=trained.digest, found=found)

    places = model_places(models, checkpoint)
    keys = [KEY_VARIABLE.format(rung=i) for i, place in enumerate(places) if place and place.url]
    for name in sorted(os.environ.keys() - keys):
        if name.startswith(KEY_VARIABLE.partition("_{")[0]):
            tell("key_of_no_server", logging.WARNING, found=name, expected=keys)
    builder = LadderBuilder(
        checkpoint=checkpoint,
        other_weights=other_weights,
        upstream=config.upstream,
        max_connections=max(1, 4 * config.limits.max_in_flight // config.workers),
        prompts=config.prompt,
        max_new_tokens=config.max_new_tokens,
        observe=metrics.tried,
        breaker=shared.breaker,
    )
    return builder.build(places)


class _Server(uvicorn.Server):
    """Says that it is not ready before it stops taking requests."""

    def __init__(self, service: Service, config: ServeConfig, on_listening: Tell) -> None:
        super().__init__(http_server(service, config.shutdown_s))
        self._service, self._drain_s, self._on_listening = service, config.drain_s, on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.startup`; tells where it listens."""
        await super().startup(sockets)
        if sockets and not self.should_exit:
            host, port = sockets[0].getsockname()[:2]
            models = [model.name for model in self._service.engine.backend.models]
            tell("listening", host=host, port=port, models=models)
            self._on_listening(_address(sockets[0]))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.shutdown`; those that it cuts off are told before the loop ends."""
        await super().shutdown(sockets)
        if self.server_state.tasks and not self.force_exit:
            await asyncio.wait(self.server_state.tasks, timeout=_FAREWELL_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `uvicorn.Server.handle_exit`; a second signal does not wait."""
        waits, self._service.draining = not self._service.draining and self._drain_s, True
        if not waits:
            super().handle_exit(sig, frame)
            return
        tell("draining", seconds=self._drain_s)
        loop = asyncio.get_running_loop()
        # Not by the signal again: of two Ctrl-C uvicorn takes the second one for haste.
        loop.call_later(self._drain_s, setattr, self, "should_exit", True)


def run_service(config: ServeConfig, on_listening: Tell = lambda url: None) -> None:
    """Serve until a signal says stop; `on_listening` is told the address that takes requests.

    Raises:
        ConfigError: the port cannot be had, or the log cannot be written.
    """
    configure(config.log)
    allow_files(_FILES_PER_QUESTION * config.limits.max_in_flight + _OTHER_FILES)
    service = build_service(config) if config.workers == 1 else None
    with _listen(config.host, config.port) as listener:
        if service is not None:
            _work(config, service, listener, on_listening)
        else:
            on_listening(_address(listener))
            supervise(partial(_work_beside, config), listener, config.workers)
    tell("stopped")


def allow_files(wanted: int) -> None:
    """Raise this process's limit of open files to so many, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        tell("few_files", logging.WARNING, limit=most, wanted=wanted)


def _work_beside(config: ServeConfig, listener: socket.socket) -> None:
    """One of several workers."""
    configure(config.log)
    try:
        service = build_service(config)
    except AllotError as error:
        tell("not_started", logging.ERROR, why=str(error))
        sys.exit(NOT_STARTED)
    _work(config, service, listener, lambda url: None)


def supervise(work: Work, listener: socket.socket, workers: int) -> None:
    """Keep so many processes at work until SIGTERM or SIGINT, which go on to them, as SIGHUP does.

    Those that die are replaced.

    Raises:
        ConfigError: a worker cannot start.
    """
    stopping = threading.Event()
    running: list[SpawnProcess] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            stopping.set()
            listener.close()  # Who comes from now on is refused, and does not wait for an end.
        for worker in running:
            with suppress(ProcessLookupError):
                os.kill(worker.pid or 0, number)

    def begin() -> None:
        worker = get_context("spawn").Process(target=_begin, args=(work, listener))
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, *_ENDING})
        worker.start()  # it inherits the mask, and takes signals once it knows what to do
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        running.append(worker)
        if stopping.is_set():
            worker.terminate()

    resource_tracker.ensure_running()  # which lets signals through where it begins
    cores = os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // workers)))
    with tempfile.TemporaryDirectory(prefix="allot-metrics-") as metrics:
        os.environ[_MULTIPROC_DIR] = metrics
        for _ in range(workers):
            begin()
        for number in (*_ENDING, signal.SIGHUP):
            signal.signal(number, hand_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        failed, first = False, set(running)
        while running:
            connection.wait([worker.sentinel for worker in running])
            for worker in [worker for worker in running if not worker.is_alive()]:
                running.remove(worker)
                mark_process_dead(worker.pid, metrics)  # type: ignore[no-untyped-call]
                if stopping.is_set():
                    continue
                tell("worker_died", logging.ERROR, pid=worker.pid, status=worker.exitcode)
                started = worker.exitcode != NOT_STARTED
                if not started and worker in first:
                    failed = True
                    hand_on(signal.SIGTERM, None)
                # What one in the place of another cannot read may be mended, and the others serve.
                elif not stopping.wait(_RESTART_AFTER_S if started else _RETRIED_AFTER_S):
                    begin()
        del os.environ[_MULTIPROC_DIR]
    if failed:
        raise ConfigError("workers: expected them to start, found the error above")


def _begin(work: Work, listener: socket.socket) -> None:
    # Ctrl-C reaches the parent alone, which hands it on.
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # While it is built nothing is lost by an end.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work(listener)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _work(
    config: ServeConfig, service: Service, listener: socket.socket, on_listening: Tell
) -> None:
    """Serve what a socket accepts until a signal says stop."""
    if config.telemetry:
        _send_spans()
    server = _Server(service, config, on_listening)
    reloader = Reloader(config, service)
    # What has been built so far stays: collecting it over and over would cost milliseconds.
    gc.collect()
    gc.freeze()

    async def until_stopped() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.wake)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        for number in _ENDING:
            # uvicorn raises the signal again once all is done; ending was all that it asked for.
            signal.signal(number, lambda number, frame: None)
        watching = asyncio.create_task(reloader.watch(config.watch_s))
        preparing = asyncio.create_task(_prepare(service.engine))
        try:
            await server.serve(sockets=[listener])
        finally:
            watching.cancel()
            preparing.cancel()

    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(until_stopped())


def http_server(service: Service, shutdown_s: float, **settings: Any) -> uvicorn.Config:
    """How HTTP is spoken."""
    return uvicorn.Config(
        service.app(),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(shutdown_s),
        timeout_keep_alive=30,
        # httptools drops the body of a request that asks for another protocol.
        http="h11",
        **settings,
    )


async def _prepare(engine: Engine) -> None:
    """Compare the models with what the policy was trained for, once all of them answer."""
    while await engine.backend.check():
        await asyncio.sleep(_PREPARE_EVERY_S)
    engine.differences = await engine.backend.prepare()
    for difference in engine.differences:
        tell("differs_from_training", logging.WARNING, what=difference)


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"host, port: expected this machine's address and a free port: {error}"
        ) from None


def _send_spans() -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "allot"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
