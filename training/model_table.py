"""How often the recorded models are right: pass@1, majority, pass@k."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.table import TraceTable
from envs.traces import TraceSet


def model_table(traces: TraceSet, split: str) -> dict[str, list[dict[str, Any]]]:
    """Rows by level, by task and overall.

    Args:
        traces: recorded attempts.
        split: train, validation or test.

    Returns:
        Rows with the share of right answers in 0..1 per model of the default ladder:
        pass@1, and where there are more than two attempts majority and pass@k.
    """
    models = traces.models()
    table = TraceTable.build(traces, [split], [model.name for model in models])
    columns: dict[str, NDArray[np.float64]] = {}
    for model in models:
        columns |= _model_columns(table, model.rung, model.name)
    datasets = np.array(table.datasets)
    everything = np.ones(len(table), bool)

    def row(name: str, value: Any, where: NDArray[np.bool_]) -> dict[str, Any]:
        shares = {column: float(values[where].mean()) for column, values in columns.items()}
        return {name: value, "questions": int(where.sum()), **shares}

    return {
        "overall": [row("split", split, everything)],
        "by level": [row("level", int(v), table.levels == v) for v in np.unique(table.levels)],
        "by task": [row("task", str(v), datasets == v) for v in np.unique(datasets)],
        "by task and level": [
            row("task and level", f"{d} {v}", where)
            for d in np.unique(datasets)
            for v in np.unique(table.levels)
            if (where := (datasets == d) & (table.levels == v)).any()
        ],
    }


def _model_columns(table: TraceTable, rung: int, name: str) -> dict[str, NDArray[np.float64]]:
    length = int(table.stream_length[:, rung].min())
    places = table.stream[:, rung, :length]  # (Q, k)
    answers = table.answer[places]
    questions = np.arange(len(table))[:, None]
    right = table.answer_correct[questions, np.maximum(answers, 0)] & (answers >= 0)
    columns = {f"{name} pass@1": right.mean(1)}
    if length > 2:
        votes = (answers[:, :, None] == np.arange(table.num_answers)).sum(1)  # (Q, K)
        winner = votes.argmax(1)
        majority = table.answer_correct[questions[:, 0], winner] & (votes.max(1) > 0)
        columns[f"{name} majority@{length}"] = majority.astype(np.float64)
        columns[f"{name} pass@{length}"] = right.any(1).astype(np.float64)
    return columns
