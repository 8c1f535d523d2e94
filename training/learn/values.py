"""Prefix values: how likely the small model is to end right from where it stands.

Roll-outs tell: a prefix is worth the mean over what followed it. A linear read-out of the small
model's hidden state at the end of the prefix, which has been computed anyway, learns to tell
without them.

Source: Wang et al. 2023, "Math-Shepherd" (arXiv 2312.08935), soft estimation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controller.checkpoint import load_readout, read_tensors
from controller.policy.difficulty import Difficulty
from envs.segments.table import SegmentTable
from envs.segments.traces import VALUE_FILE, SegmentTraces

Floats = NDArray[np.float64]


def monte_carlo_values(table: SegmentTable) -> Floats:
    """Share of right answers below each node, over the small model's draws, (M,).

    Where nothing follows, the answer there counts. Draws count alike at every prefix, so what
    follows a prefix twice counts twice.
    """
    values = table.right(table.tree, np.arange(len(table.rows))).astype(np.float64)
    # Nodes are numbered breadth first within a question: whatever follows comes later.
    for node in range(len(values) - 1, -1, -1):
        following = table.draws[node][table.draws[node] >= 0]
        if len(following):
            values[node] = values[following].mean()
    return values


def segment_success_rates(table: SegmentTable) -> Floats:
    """Share of right answers by model, when either writes whole attempts, (Q, R)."""
    attempts = table.num_questions, table.num_attempts
    rates = [monte_carlo_values(table)[table.root].reshape(attempts).mean(1)]
    ended = table.ended[table.root]
    if (ended >= 0).all():
        rates.append(table.right(np.arange(len(table)), ended).reshape(attempts).mean(1))
    return np.stack(rates, 1)


def value_readout(traces: SegmentTraces) -> Difficulty | None:
    """The read-out that made the column `value`, or None."""
    path = traces.path / VALUE_FILE
    if not path.exists():
        return None
    tensors = {f"value/{name}": tensor for name, tensor in read_tensors(path).items()}
    return load_readout(tensors, "value", 1, traces.path)
