"""Recording with language models, on this machine or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from controller.types import Question
from envs.grader import KindGrader
from training.cluster import Cluster
from training.record import LocalRecorder, RecordConfig, Recording
from training.sources import Source


def record_models(
    questions: Mapping[str, Sequence[Question]],
    source: Source,
    out: Path,
    config: RecordConfig,
    *,
    cluster: Cluster | None = None,
    progress: Callable[[int, str], None] = lambda done, text: None,
) -> None:
    """Record attempts of language models.

    Args:
        questions: by split.
        source: of the models.
        out: directory of the trace set.
        config: how much to record.
        cluster: whose workers record; this process alone if None.
        progress: called with the number of questions done and where they are recorded.
    """
    if cluster is None:
        recorder = LocalRecorder(source.build(), KindGrader(), config)
        notes = source.notes(recorder.models, out)
        Recording(questions, recorder, out, notes).run(lambda done: progress(done, "recording"))
        return
    from training.ray_recorder import RayRecorder

    with RayRecorder(source, config, cluster) as workers:
        notes = source.notes(workers.models, out)
        Recording(questions, workers, out, notes).run(
            lambda done: progress(done, f"recording on {workers.where}")
        )
