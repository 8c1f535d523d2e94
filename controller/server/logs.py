"""Logs: one JSON object per line, without secrets."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from traceback import extract_tb
from typing import Any

from opentelemetry import trace

from controller.errors import ConfigError

episode_log = logging.getLogger("allot.episodes")
"""Every question, with decisions, propensities and attempts."""


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
    """Writes each line at once, so that those of several processes do not mix."""

    def _open(self) -> TextIOWrapper:
        file = open(self.baseFilename, "ab", buffering=0)  # noqa: SIM115 - the handler closes it
        return TextIOWrapper(file, encoding="utf-8", write_through=True)


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
            episodes.parent.mkdir(parents=True, exist_ok=True)
            file = _WholeLines(episodes)
        except OSError as error:
            raise ConfigError(f"log: expected a file that can be written: {error}") from None
        file.setFormatter(JsonFormatter())
        episode_log.handlers, episode_log.propagate = [file], False
