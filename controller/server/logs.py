"""Structured logs: one JSON object per line, without secrets."""

from __future__ import annotations

import hashlib
import json
import logging
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

from opentelemetry import trace

from controller.core import Decision
from controller.server.terms import Served

LOG_VERSION = 1

service_log = logging.getLogger("allot.service")
"""What happens to the service."""
episode_log = logging.getLogger("allot.episodes")
"""Every question, with decisions, propensities and attempts."""


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
            entry["where"] = _where(record.exc_info[2])
        return json.dumps(entry, separators=(",", ":"), default=str)


def _where(traceback: Any) -> list[str]:
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{Path(code.co_filename).name}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    return frames[-8:]


def configure(episodes: Path | None) -> None:
    """Log to standard error, and episodes to a file if one is given.

    The file may be moved away at any time; a new one is then begun.
    """
    root = logging.getLogger("allot")
    root.setLevel(logging.INFO)
    root.propagate = False
    stderr = logging.StreamHandler()
    stderr.setFormatter(JsonFormatter())
    root.handlers = [stderr]
    if episodes is not None:
        episodes.parent.mkdir(parents=True, exist_ok=True)
        file = WatchedFileHandler(episodes, encoding="utf-8")
        file.setFormatter(JsonFormatter())
        episode_log.handlers = [file]
        episode_log.propagate = False


def episode_fields(served: Served, *, texts: bool) -> dict[str, Any]:
    """What the log says about a question.

    Args:
        served: what became of it.
        texts: whether question and attempts may be written down.
    """
    question = served.question
    digest = hashlib.sha256(question.text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return {
        "version": LOG_VERSION,
        "episode_id": served.episode_id,
        "question_id": question.question_id or digest,
        "question": question.text if texts else None,
        "caller": served.caller,
        "arm": served.arm.name,
        "policy": served.arm.digest,
        "models": [
            {"name": model.name, "rung": rung, "parameters": model.parameters}
            for rung, model in enumerate(served.arm.checkpoint.models)
        ],
        "price": served.terms.price,
        "round_price": served.terms.round_price,
        "budget": served.terms.budget,
        "answer": served.answer,
        "cost": served.cost,
        "degraded": list(served.degraded),
        "limited": list(served.limited),
        "guarded": served.guarded,
        "wall_s": round(served.wall_s, 6),
        "decisions": [_decision(decision) for decision in served.decisions],
        "attempts": [
            {
                "attempt_id": attempt.attempt_id,
                "parent_id": attempt.parent_id,
                "model": attempt.model,
                "rung": attempt.rung,
                "action": attempt.action.value,
                "answer": attempt.answer,
                "text": attempt.text if texts else None,
                "prompt_tokens": attempt.prompt_tokens,
                "completion_tokens": attempt.completion_tokens,
                "finish_reason": attempt.finish_reason,
                "mean_logprob": attempt.mean_logprob,
                "min_logprob": attempt.min_logprob,
                "verifier_score": attempt.verifier_score,
                "error": attempt.error,
            }
            for attempt in served.attempts
        ],
    }


def _decision(decision: Decision) -> dict[str, Any]:
    probabilities = {name: round(p, 6) for name, p in decision.probabilities.items()}
    return {
        "action": str(decision.action),
        "propensity": decision.propensity,
        "decided_by": decision.decided_by,
        "policy_action": max(probabilities, key=lambda name: probabilities[name]),
        "probabilities": probabilities,
        "value": round(decision.value, 6),
        "cost": decision.cost,
        "observation": [round(x, 6) for x in decision.observation.values()],
        "attempts": [attempt.attempt_id for attempt in decision.attempts],
    }
