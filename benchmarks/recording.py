"""Recording on one and on two workers of a cluster, against recording in this process."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import Figures
from envs.questions.files import bundled_questions
from training.record.cluster import Cluster, RayRecorder
from training.record.recorders import Recorder
from training.record.recording import Recording
from training.record.settings import RecordConfig
from training.record.sources import find_source


def recording(models: tuple[str, ...], num_questions: int, shard_questions: int = 16) -> Figures:
    """Attempts per second, from loaded models, the small one first, to the finished trace set.

    Returns:
        `here`, `workers_1` and `workers_2` in attempts per second, `speedup` of the second worker,
        and `start_s` of cluster and workers.
    """
    questions = {"train": bundled_questions()["train"][:num_questions]}
    config = RecordConfig(samples=8, escalations=1, shard_questions=shard_questions)
    source = find_source(models)
    found = {"here": _speed(questions, source.recorder(config))}
    for workers in (1, 2):
        started = time.perf_counter()
        with RayRecorder(source.recorder, config, Cluster(workers=workers)) as recorder:
            recorder.wait_for_all()
            found["start_s"] = time.perf_counter() - started
            found[f"workers_{workers}"] = _speed(questions, recorder)
    return {**found, "speedup": found["workers_2"] / found["workers_1"]}


def _speed(questions: Any, recorder: Recorder) -> float:
    with TemporaryDirectory() as directory:
        started = time.perf_counter()
        Recording(questions, recorder, Path(directory), {}).run()
        seconds = time.perf_counter() - started
    attempts = sum(recorder.config.wanted(recorder.models).values())
    return len(questions["train"]) * attempts / seconds
