"""How many threads torch uses."""

from __future__ import annotations

import torch

MANY_PARAMETERS = 50_000_000


def limit_threads(parameters: float = 0) -> None:
    """Use one thread for networks so small that handing out work costs more than it saves.

    `parameters` are those of the largest network that will run.
    """
    if parameters < MANY_PARAMETERS:
        torch.set_num_threads(1)
