"""How costs grow: with questions, environments, samples and clients."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from controller.actions import ActionKind
from controller.backends.base import Request
from controller.backends.transformers import TransformersBackend, load_model
from envs.derive import derive_config
from envs.synthetic import SyntheticFamily
from envs.table import TraceTable
from envs.traces import TraceSet
from envs.vector import ComputeVectorEnv
from training.bench import serving
from training.bench.generation import draw_questions
from training.bench.load import Load
from training.bench.load import run as run_load
from training.bench.scale import stepper
from training.threads import limit_threads

Row = dict[str, Any]

QUESTIONS = (1_000, 10_000, 100_000, 1_000_000)
ENVS = (64, 256, 1024, 4096, 16_384)
SAMPLES = (1, 4, 16, 64)
CLIENTS = (1, 4, 16, 64, 256)

_REPEATS = 3


def run(traces: Path, small: Path, controller: Path) -> list[Row]:
    """All curves; each row is one point: what grows, how far, what was measured, median and range.

    Args:
        traces: trace set.
        small: directory of the small model.
        controller: checkpoint.
    """
    limit_threads()
    return [*questions(), *environments(traces), *samples(small), *clients(controller)]


def _row(curve: str, at: int, figure: str, measure: Callable[[], float]) -> Row:
    return _summed(curve, at, figure, [measure() for _ in range(_REPEATS)])


def _summed(curve: str, at: int, figure: str, values: list[float]) -> Row:
    return {
        "curve": curve,
        "at": at,
        "figure": figure,
        "median": statistics.median(values),
        "least": min(values),
        "most": max(values),
    }


def questions() -> Iterator[Row]:
    """Steps per second of 4,096 environments by how many questions there are to draw from."""
    family = SyntheticFamily()
    for count in QUESTIONS:
        table = family.table(count, 0)
        env = ComputeVectorEnv(table, family.config(), 4096, difficulty=family.difficulty(table))
        yield _row("questions", count, "env steps/s", _steps(env, 30))


def environments(traces: Path) -> Iterator[Row]:
    """Steps per second by how many environments step at once."""
    trace_set = TraceSet.read(traces)
    models = trace_set.models()
    table = TraceTable.build(trace_set, ["train"], [model.name for model in models])
    config = derive_config(table, models)
    for count in ENVS:
        env = ComputeVectorEnv(table, config, count)
        yield _row("envs", count, "env steps/s", _steps(env, max(10, 400_000 // count)))


def _steps(env: ComputeVectorEnv, steps: int) -> Callable[[], float]:
    timed = stepper(env, steps)
    return lambda: env.num_envs * steps / timed()


def samples(small: Path) -> Iterator[Row]:
    """Tokens per second by how many attempts each question gets; prompts are read once each."""
    model = load_model(small, 0)
    asked = draw_questions(32, 0)
    for count in SAMPLES:
        requests = [
            Request(question=question, action=ActionKind.SAMPLE, index=index)
            for question in asked
            for index in range(count)
        ]

        def measure(requests: list[Request] = requests) -> float:
            backend = TransformersBackend([model])
            started = time.perf_counter()
            attempts = backend.attempts(requests)
            seconds = time.perf_counter() - started
            return sum(attempt.completion_tokens for attempt in attempts) / seconds

        yield _row("samples", count, "tokens/s", measure)


def clients(controller: Path) -> Iterator[Row]:
    """What the service adds to 300 ms upstream, and takes of a processor, by how many ask.

    Each client asks once a second.
    """
    with ExitStack() as stack:
        upstream = stack.enter_context(serving.upstream(0.3))
        service, process = stack.enter_context(serving.allot(controller, upstream))
        for count in CLIENTS:
            load = Load(clients=count, rate=float(count), seconds=max(2.0, 16 / count))
            added, processor = [], []
            for _ in range(_REPEATS):
                before = _cpu_s(process.pid)
                seconds = uvloop.run(
                    run_load(f"{service}/chat/completions", serving.question(), load)
                )
                processor.append((_cpu_s(process.pid) - before) * 1000 / len(seconds))
                added.append(float(np.nanmedian(seconds)) * 1000 - 300)
            yield _summed("clients", count, "ms added, median", added)
            yield _summed("clients", count, "ms of processor per question", processor)


def _cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
