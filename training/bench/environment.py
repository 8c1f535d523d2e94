"""Steps per second of the vector environment."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from envs.derive import derive_config
from envs.table import TraceTable
from envs.traces import TraceSet
from envs.vector import ComputeVectorEnv


def run(
    traces: Path, num_envs: int = 4096, *, steps: int = 100, repeats: int = 7
) -> dict[str, Any]:
    """Random legal actions in `num_envs` episodes at a time, on one core.

    Args:
        traces: trace set.
        num_envs: N.
        steps: timed steps per repeat.
        repeats: the median is reported.

    Returns:
        `steps_per_s`: environment steps, the choice of actions not counted;
        `steps_per_s_with_actions`: counted too.
    """
    trace_set = TraceSet.read(traces)
    models = trace_set.models()
    table = TraceTable.build(trace_set, ["train"], [model.name for model in models])
    env = ComputeVectorEnv(table, derive_config(table, models), num_envs)
    _, info = env.reset(seed=0)
    rng = np.random.default_rng(0)
    inside, outside = [], []
    for _ in range(repeats):
        stepping, started = 0.0, time.perf_counter()
        for _ in range(steps):
            mask = info["action_mask"]
            actions = (rng.random(mask.shape, dtype=np.float32) * mask).argmax(1)
            before = time.perf_counter()
            *_, info = env.step(actions)
            stepping += time.perf_counter() - before
        inside.append(num_envs * steps / stepping)
        outside.append(num_envs * steps / (time.perf_counter() - started))
    return {
        "num_envs": num_envs,
        "repeats": repeats,
        "steps_per_s": statistics.median(inside),
        "steps_per_s_least": min(inside),
        "steps_per_s_with_actions": statistics.median(outside),
    }
