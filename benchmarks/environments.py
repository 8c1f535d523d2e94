"""Steps per second of the vector environment: as it is, on millions of attempts, as it grows."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import Figures
from controller.process.episodes import EpisodeConfig
from envs.traces.derive import derive_config
from envs.traces.format import TraceSet
from envs.traces.table import TraceTable, build_table
from envs.vector import ComputeVectorEnv
from tests.learning.synthetic import SyntheticFamily

_TEXTLESS = ("prompt_hidden", "question", "text")


def steps_per_s(env: ComputeVectorEnv, steps: int) -> float:
    """Speed on one core with random legal actions, whose choice does not count.

    So many steps are timed, after as many that are not.
    """
    _, info = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in ("warm-up", "timed"):
        seconds = 0.0
        for _ in range(steps):
            mask = info["action_mask"]
            actions = (rng.random(mask.shape, dtype=np.float32) * mask).argmax(1)
            before = time.perf_counter()
            *_, info = env.step(actions)
            seconds += time.perf_counter() - before
    return env.num_envs * steps / seconds


def _trained_on(traces: Path) -> tuple[TraceTable, EpisodeConfig]:
    """Table of the train split, and its decision process."""
    trace_set = TraceSet.read(traces)
    models = trace_set.models()
    table = build_table(trace_set, ["train"], [model.name for model in models])
    return table, derive_config(table, models)


def environment(traces: Path, num_envs: int = 4096, steps: int = 200) -> Figures:
    """Speed of `num_envs` episodes at a time."""
    env = ComputeVectorEnv(*_trained_on(traces), num_envs)
    return {"steps_per_s": steps_per_s(env, steps)}


def by_questions(counts: Sequence[int] = (1_000, 10_000, 100_000, 1_000_000)) -> Figures:
    """Speed of 4,096 environments by how many questions there are to draw from."""
    family, found = SyntheticFamily(), {}
    for count in counts:
        table = family.table(count, 0)
        env = ComputeVectorEnv(table, family.config(), 4096, difficulty=family.difficulty(table))
        found[f"{count:,} questions: steps_per_s"] = steps_per_s(env, 30)
    return found


def by_environments(
    traces: Path, counts: Sequence[int] = (64, 256, 1024, 4096, 16_384), steps: int = 400_000
) -> Figures:
    """Speed by how many environments step at once, so many steps of all together."""
    table, config = _trained_on(traces)
    return {
        f"{count:,} environments: steps_per_s": steps_per_s(
            ComputeVectorEnv(table, config, count), max(10, steps // count)
        )
        for count in counts
    }


def scale(traces: Path, attempts: int, *, num_envs: int = 4096, steps: int = 200) -> Figures:
    """Speed on a set as it is and on one of millions of attempts.

    The large set repeats the train split's questions under new ids, so that episodes are alike.
    It lies in a temporary directory and is measured in a process of its own.

    Returns:
        `peak_gb` of the process that reads and plays both, `build_s` to read the large set,
        `bytes_per_attempt` of its arrays, and steps per second on either, with their `ratio`.
    """
    with TemporaryDirectory() as directory:
        out = Path(directory)
        _write(TraceSet.read(traces), out, attempts)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found = pool.submit(_measure, traces, out, num_envs, steps).result()
        size = sum(file.stat().st_size for file in out.iterdir())
    return {"disk_mb": size / 2**20, **found}


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


def _measure(small: Path, large: Path, num_envs: int, steps: int) -> Figures:
    table, config = _trained_on(small)
    before = time.perf_counter()
    many, _ = _trained_on(large)
    build_s = time.perf_counter() - before
    ours, theirs = (
        steps_per_s(ComputeVectorEnv(t, config, num_envs), steps) for t in (table, many)
    )
    return {
        "questions": len(many),
        "attempts": len(many.attempts),
        "build_s": build_s,
        "bytes_per_attempt": (many.attempts.nbytes + many.stream.nbytes) / len(many.attempts),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "small_steps_per_s": ours,
        "large_steps_per_s": theirs,
        "ratio": theirs / ours,
    }
