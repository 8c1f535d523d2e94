"""How many threads are used."""

from __future__ import annotations

import os

import torch

MANY_PARAMETERS = 50_000_000


def limit_threads(parameters: float = 0) -> None:
    """Use one thread for networks so small that handing out work costs more than it saves.

    `parameters` are those of the largest network that will run.
    """
    if parameters < MANY_PARAMETERS:
        torch.set_num_threads(1)


def num_threads() -> int:
    """Threads for work that can be cut up: `OMP_NUM_THREADS`, else one for each core."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return max(int(first), 1) if first.isdigit() else os.cpu_count() or 1
