"""The decision loop, its policy, and the backends: what a deployment needs.

`Controller` and what goes in and comes out of it are here; importing them waits for nothing but
what they need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from controller.errors import (
        AllotError,
        BackendError,
        CheckpointError,
        ConfigError,
        EvaluationError,
        IllegalActionError,
        TraceFormatError,
    )
    from controller.loop import Controller, Decision, Outcome
    from controller.process.terms import Terms
    from controller.process.types import Question

__all__ = [
    "AllotError",
    "BackendError",
    "CheckpointError",
    "ConfigError",
    "Controller",
    "Decision",
    "EvaluationError",
    "IllegalActionError",
    "Outcome",
    "Question",
    "Terms",
    "TraceFormatError",
]

_HOMES = {
    "Controller": "loop",
    "Decision": "loop",
    "Outcome": "loop",
    "Question": "process.types",
    "Terms": "process.terms",
}
"""Module of each name; of the others: errors."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
