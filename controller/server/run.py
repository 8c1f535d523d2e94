"""Listening, signals, and the way down."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from types import FrameType

import uvicorn
from opentelemetry import trace

from controller.errors import ConfigError
from controller.server.app import Service
from controller.server.build import Reloader, build_service
from controller.server.config import ServeConfig
from controller.server.engine import Engine
from controller.server.logs import JsonFormatter, configure, service_log

_PREPARE_EVERY_S = 5.0


class _Server(uvicorn.Server):
    """Says that it is not ready before it stops taking requests."""

    def __init__(self, config: uvicorn.Config, service: Service, drain_s: float) -> None:
        super().__init__(config)
        self._service, self._drain_s = service, drain_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.startup`; tells where it listens."""
        await super().startup(sockets)
        if sockets and not self.should_exit:
            host, port = sockets[0].getsockname()[:2]
            models = [model.name for model in self._service.engine.backend.models]
            fields = {"host": host, "port": port, "models": models}
            service_log.info("listening", extra={"fields": fields})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `uvicorn.Server.handle_exit`; a second signal does not wait."""
        if self._service.draining or not self._drain_s:
            self._service.draining = True
            super().handle_exit(sig, frame)
            return
        self._service.draining = True
        service_log.info("draining", extra={"fields": {"seconds": self._drain_s}})
        loop = asyncio.get_running_loop()
        loop.call_later(self._drain_s, lambda: uvicorn.Server.handle_exit(self, sig, frame))


def serve(config: ServeConfig) -> None:
    """Serve until a signal says stop.

    Raises:
        ConfigError: the port cannot be had.
    """
    configure(config.log)
    if config.telemetry:
        _send_spans()
    service = build_service(config)
    listener = _listen(config.host, config.port)
    server = _Server(
        uvicorn.Config(
            service.app(),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(config.shutdown_s),
            timeout_keep_alive=30,
        ),
        service,
        config.drain_s,
    )
    _log_uvicorn()
    reloader = Reloader(config, service)
    # What has been built so far stays: collecting it over and over would cost milliseconds.
    gc.collect()
    gc.freeze()
    with listener, asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(_serve(server, service.engine, reloader, listener, config.watch_s))
    service_log.info("stopped")


async def _serve(
    server: uvicorn.Server,
    engine: Engine,
    reloader: Reloader,
    listener: socket.socket,
    watch_s: float,
) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.reload)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once all is done; ending was all that it asked for.
        signal.signal(number, lambda number, frame: None)
    watching = asyncio.create_task(_watch(reloader, watch_s))
    preparing = asyncio.create_task(_prepare(engine))
    try:
        await server.serve(sockets=[listener])
    finally:
        watching.cancel()
        preparing.cancel()


async def _prepare(engine: Engine) -> None:
    """Compare the models with what the policy was trained for, once all of them answer."""
    while await engine.backend.check():
        await asyncio.sleep(_PREPARE_EVERY_S)
    engine.differences = await engine.backend.prepare()
    for difference in engine.differences:
        service_log.warning("differs_from_training", extra={"fields": {"what": difference}})


async def _watch(reloader: Reloader, every_s: float) -> None:
    while every_s:
        await asyncio.sleep(every_s)
        reloader.reload_if_changed()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"port: expected a free one, found {host}:{port} taken: {error}"
        ) from None
    return listener


def _log_uvicorn() -> None:
    logger = logging.getLogger("uvicorn")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.WARNING)


def _send_spans() -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "allot"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
