"""Prefix values: how likely the small model is to end right from where it stands.

Roll-outs tell: a prefix is worth the mean over what followed it. A linear read-out of the small
model's hidden state at the end of the prefix, which has been computed anyway, learns to tell
without them.

Source: Wang et al. 2023, "Math-Shepherd" (arXiv 2312.08935), soft estimation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import save_file

from controller.checkpoint import load_readout, read_tensors
from controller.policy.difficulty import Difficulty
from envs.segments.table import SegmentTable, build_trees
from envs.segments.traces import VALUE_FILE, SegmentTraces
from envs.traces.format import write_atomically, write_table
from training.learn.difficulty import FOLDS, Outcomes, cross_fit, fit_networks, fold_of

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


def add_values(directory: Path, draws: tuple[int, ...]) -> Difficulty | None:
    """Fit the read-out on the train split and replace hidden states by values.

    As with difficulty, the values of a train question come from a read-out that was fitted
    without it.

    Args:
        directory: of segment traces with hidden states, but for `trace.json`.
        draws: as recorded.

    Returns:
        The read-out, saved beside the tables; None where there is too little to fit it on.
    """
    path = directory / "segments.parquet"
    segments, questions = pq.read_table(path), pq.read_table(directory / "questions.parquet")
    readout = None
    if questions["split"].to_pylist().count("train") >= FOLDS:
        traces = SegmentTraces(
            path=directory,
            manifest={"recorded": {"draws": draws}},
            questions=questions,
            segments=segments,
        )
        readout, values = _fit(traces)
        column = pa.array(values, pa.float32(), from_pandas=True)
        segments = segments.set_column(segments.column_names.index("value"), "value", column)
        tensors = {name: np.ascontiguousarray(x) for name, x in readout.arrays().items()}
        write_atomically(directory / VALUE_FILE, lambda to: save_file(tensors, to))
    empty = [name for name in ("text", "value") if segments[name].null_count == len(segments)]
    write_table(path, halved(segments.drop_columns(["hidden", *empty])))
    write_table(directory / "questions.parquet", halved(questions))
    return readout


def halved(table: pa.Table) -> pa.Table:
    """With three significant digits of every number, which is enough, and half the file."""

    def half(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_list(kind):
            return pa.list_(half(kind.value_type))
        return pa.float16() if pa.types.is_float32(kind) else kind

    return table.cast(pa.schema([field.with_type(half(field.type)) for field in table.schema]))


def _fit(traces: SegmentTraces) -> tuple[Difficulty, Floats]:
    """The read-out, and values of all nodes, NaN where an attempt is done."""
    hidden = traces.segments["hidden"].to_pylist()
    table = build_trees(traces, ["train"])
    question = table.question[table.tree]
    fold = fold_of(len(table.question_ids), FOLDS)[question]
    learned = ~table.segments["done"]
    rows = table.rows[learned]
    states = np.array([hidden[row] for row in rows], np.float32)
    rates = monte_carlo_values(table)[learned][:, None]
    readout, log_odds = cross_fit(states, Outcomes(rates), fit_networks, fold[learned])
    known = np.array([h is not None for h in hidden])
    values = np.full(len(hidden), np.nan)
    values[known] = readout.outlook(np.array([h for h in hidden if h], np.float32))[:, 0]
    values[rows] = log_odds[:, 0]
    return readout, values
