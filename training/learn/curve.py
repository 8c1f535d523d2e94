"""The training curve: metrics of every update, one JSON object a line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from envs.traces.format import write_atomically

CURVE = "metrics.jsonl"
"""File of a run's `training/` directory."""


class Curve:
    """Appends to `path`; lines beyond the update that a training resumes from are dropped.

    Args:
        path: JSONL file; created if missing.
        steps: environment steps that the training has behind it.
    """

    def __init__(self, path: Path, steps: int) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_curve(path) if line["global_step"] <= steps]
        text = "".join(_line(entry) for entry in kept)
        write_atomically(path, lambda temporary: temporary.write_text(text))

    def add(self, steps: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of one update."""
        with self._path.open("a") as file:
            file.write(_line({"global_step": steps, **metrics}))


def read_curve(path: Path) -> list[dict[str, float]]:
    """Metrics per update, by name; empty without a file.

    The last line is left out if a killed training wrote only a part of it.
    """
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def _line(entry: Mapping[str, float]) -> str:
    finite = {name: value for name, value in entry.items() if math.isfinite(value)}
    return json.dumps(finite, allow_nan=False) + "\n"
