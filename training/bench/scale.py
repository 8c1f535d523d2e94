"""The vector environment on more attempts than Python objects would leave room for."""

from __future__ import annotations

import json
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from envs.derive import derive_config
from envs.table import TraceTable
from envs.traces import TraceSet
from envs.vector import ComputeVectorEnv

_TEXTLESS = ("prompt_hidden", "question", "text")


def run(
    traces: Path,
    attempts: int = 10_000_000,
    *,
    num_envs: int = 4096,
    steps: int = 100,
    repeats: int = 7,
) -> dict[str, Any]:
    """Steps per second on a set as it is and on one of millions of attempts, in turns.

    The large set repeats the train split's questions under new ids, so that episodes are alike.
    It lies in a temporary directory and is measured in a process of its own.

    Args:
        traces: trace set that is repeated.
        attempts: of the large set, at least.
        num_envs: N.
        steps: timed steps per repeat.
        repeats: of each; medians are reported.

    Returns:
        `peak_gb` of the process that reads and plays both, `build_s` to read the large set,
        `bytes_per_attempt` of its arrays, and steps per second on either, with their `ratio`.
    """
    with TemporaryDirectory() as directory:
        out = Path(directory)
        started = time.perf_counter()
        _write(TraceSet.read(traces), out, attempts)
        written = time.perf_counter() - started
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found = pool.submit(_measure, traces, out, num_envs, steps, repeats).result()
        size = sum(file.stat().st_size for file in out.iterdir())
    return {"num_envs": num_envs, "write_s": written, "disk_mb": size / 2**20, **found}


def _write(traces: TraceSet, out: Path, attempts: int) -> None:
    """A trace set whose train split is that of another one, over and over again."""
    train = traces.questions.filter(pc.equal(traces.questions["split"], "train"))
    kept = pc.is_in(traces.attempts["question_id"], train["question_id"])
    tables = {"questions": train, "attempts": traces.attempts.filter(kept)}
    times = -(-attempts // len(tables["attempts"]))
    for name, table in tables.items():
        table = table.drop_columns([c for c in table.column_names if c in _TEXTLESS])
        with pq.ParquetWriter(out / f"{name}.parquet", table.schema) as writer:
            for time_ in range(times):
                ids = pc.binary_join_element_wise(table["question_id"], str(time_), "#")
                writer.write_table(table.set_column(0, "question_id", ids.cast(pa.string())))
    (out / "trace.json").write_text(json.dumps(traces.manifest))


def _measure(small: Path, large: Path, num_envs: int, steps: int, repeats: int) -> dict[str, Any]:
    traces = TraceSet.read(small)
    models = traces.models()
    ladder = [model.name for model in models]
    table = TraceTable.build(traces, ["train"], ladder)
    config = derive_config(table, models)
    before = time.perf_counter()
    many = TraceTable.build(TraceSet.read(large), ["train"], ladder)
    build_s = time.perf_counter() - before
    arrays = (many.counts, many.signals, many.attempt_rows, many.stream)
    step = {
        name: stepper(ComputeVectorEnv(t, config, num_envs), steps)
        for name, t in (("small", table), ("large", many))
    }
    speeds: dict[str, list[float]] = {name: [] for name in step}
    for _ in range(repeats):
        for name, timed in step.items():
            speeds[name].append(num_envs * steps / timed())
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    return {
        "questions": len(many),
        "attempts": len(many.counts),
        "build_s": build_s,
        "bytes_per_attempt": sum(array.nbytes for array in arrays) / len(many.counts),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "repeats": repeats,
        "small_steps_per_s": medians["small"],
        "large_steps_per_s": medians["large"],
        "large_steps_per_s_all": [round(value) for value in speeds["large"]],
        "ratio": medians["large"] / medians["small"],
    }


def stepper(env: ComputeVectorEnv, steps: int) -> Callable[[], float]:
    """Seconds of some steps with random legal actions, whose choice does not count."""
    env.reset(seed=0)
    rng = np.random.default_rng(0)

    def timed() -> float:
        seconds = 0.0
        for _ in range(steps):
            mask = env.action_masks()
            actions = (rng.random(mask.shape, dtype=np.float32) * mask).argmax(1)
            before = time.perf_counter()
            env.step(actions)
            seconds += time.perf_counter() - before
        return seconds

    timed()
    return timed
