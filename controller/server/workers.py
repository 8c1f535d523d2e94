"""Several processes that accept from one socket; those that die are replaced."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import SpawnProcess
from types import FrameType

from prometheus_client.multiprocess import mark_process_dead

from controller.errors import ConfigError
from controller.server.ops import service_log

Work = Callable[[socket.socket], None]
"""Serves what a socket accepts, until a signal says stop."""

NOT_STARTED = 2
"""Exit status of a worker that would fail again."""
_PAUSE_S = 1.0
_MULTIPROC_DIR = "PROMETHEUS_MULTIPROC_DIR"


def supervise(work: Work, listener: socket.socket, workers: int) -> None:
    """Keep so many processes at work until SIGTERM or SIGINT, which go on to them, as SIGHUP does.

    Raises:
        ConfigError: a worker cannot start.
    """
    stopping = threading.Event()
    running: list[SpawnProcess] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            stopping.set()
        for worker in running:
            with suppress(ProcessLookupError):
                os.kill(worker.pid or 0, number)

    def begin() -> None:
        worker = get_context("spawn").Process(target=_begin, args=(work, listener))
        worker.start()
        running.append(worker)

    cores = os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // workers)))
    with tempfile.TemporaryDirectory(prefix="allot-metrics-") as metrics:
        os.environ[_MULTIPROC_DIR] = metrics
        for _ in range(workers):
            begin()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, hand_on)
        failed = False
        while running:
            connection.wait([worker.sentinel for worker in running])
            for worker in [worker for worker in running if not worker.is_alive()]:
                running.remove(worker)
                mark_process_dead(worker.pid, metrics)  # type: ignore[no-untyped-call]
                if stopping.is_set():
                    continue
                fields = {"pid": worker.pid, "status": worker.exitcode}
                service_log.error("worker_died", extra={"fields": fields})
                if worker.exitcode == NOT_STARTED:
                    failed = True
                    hand_on(signal.SIGTERM, None)
                else:
                    time.sleep(_PAUSE_S)
                    begin()
        del os.environ[_MULTIPROC_DIR]
    if failed:
        raise ConfigError("workers: expected them to start, found the error above")


def _begin(work: Work, listener: socket.socket) -> None:
    # Ctrl-C reaches the parent alone, which hands it on.
    os.setpgrp()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work(listener)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
