"""Recording with language models, on this machine or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from controller.process.types import Question
from training.record.cluster import Cluster
from training.record.recording import RecordConfig, Recording, Watch
from training.record.sources import Source


def record_models(
    questions: Mapping[str, Sequence[Question]],
    source: Source,
    out: Path,
    config: RecordConfig,
    *,
    cluster: Cluster | None = None,
    notes: Mapping[str, Any] | None = None,
    progress: Callable[[Recording], Watch] | None = None,
) -> Recording:
    """Record attempts of language models.

    Args:
        questions: by split.
        source: of the models.
        out: directory of the trace set.
        config: how much to record.
        cluster: whose workers record; this process alone if None.
        notes: added to `trace.json`.
        progress: shows a recording that is about to begin, and then its rows.
    """
    with ExitStack() as stack:
        if cluster is None:
            recorder = source.recorder(config)
        else:
            from training.record.ray_recorder import RayRecorder

            recorder = stack.enter_context(RayRecorder(source, config, cluster))
        described = {**source.notes(recorder.models, out), **(notes or {})}
        recording = Recording(questions, recorder, out, described)
        recording.run(progress)
        return recording
