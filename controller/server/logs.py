"""Logs: one JSON object per line, without secrets."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from errno import ENOSPC
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from traceback import extract_tb
from typing import Any

from opentelemetry import trace

from controller.errors import ConfigError

_episodes = logging.getLogger("allot.episodes")


def tell(
    event: str, level: int = logging.INFO, *, error: Exception | None = None, **fields: Any
) -> None:
    """Log what happens to the service."""
    log = logging.getLogger("allot.service")
    log.log(level, event, exc_info=error, extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: its message is the event, its `fields` are added."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            entry["trace_id"] = trace.format_trace_id(context.trace_id)
        if record.exc_info and record.exc_info[0] is not None:
            # Messages of exceptions may quote requests; where it happened is enough.
            entry["exception"] = record.exc_info[0].__name__
            frames = extract_tb(record.exc_info[2], limit=-8)
            entry["where"] = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames]
        return json.dumps(entry, separators=(",", ":"), default=str)


class _WholeLines(WatchedFileHandler):
    """Writes each line at once, so that those of several processes do not mix.

    Raises OSError where it cannot.
    """

    _torn = False

    def _open(self) -> TextIOWrapper:
        path = Path(self.baseFilename)
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab", buffering=0)  # noqa: SIM115 - the handler closes it
        return TextIOWrapper(file, encoding="utf-8", write_through=True)

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        self.reopenIfNeeded()
        self.stream = self.stream or self._open()
        # What comes after a line that a full disk cut short begins on one of its own.
        line = ("\n" * self._torn + self.format(record) + self.terminator).encode()
        written = os.write(self.stream.fileno(), line)
        self._torn = 0 < written < len(line)
        if written < len(line):
            raise OSError(ENOSPC, os.strerror(ENOSPC))


class EpisodeLog:
    """Logs every question, with decisions, propensities and attempts.

    What cannot be written is lost, and no question fails by it: `on_lost` is called each time, and
    standard error told at first, and once lines are written again.
    """

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost, self._lost = on_lost, 0

    def write(self, fields: Mapping[str, Any]) -> None:
        """Log what a question came to."""
        try:
            _episodes.info("episode", extra={"fields": fields})
        except OSError as error:
            self._on_lost()
            self._lost += 1
            if self._lost == 1:
                tell("log_lost", logging.ERROR, why=str(error))
        else:
            if self._lost:
                tell("log_goes_on", lost=self._lost)
            self._lost = 0


def configure(episodes: Path | None) -> None:
    """Log to standard error, and episodes to a file if one is given.

    The file may be moved away at any time; a new one is then begun.

    Raises:
        ConfigError: it cannot be written.
    """
    stderr = logging.StreamHandler()
    stderr.setFormatter(JsonFormatter())
    for name, level in (("allot", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.handlers, logger.propagate = [stderr], False
    if episodes is not None:
        try:
            file = _WholeLines(episodes)
        except OSError as error:
            raise ConfigError(f"log: expected a file that can be written: {error}") from None
        file.setFormatter(JsonFormatter())
        _episodes.handlers, _episodes.propagate = [file], False
