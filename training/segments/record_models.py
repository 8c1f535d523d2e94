"""Recording of trees with local transformers models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from controller.backends.segments import SegmentWriter
from controller.segments.types import Segmentation
from controller.types import Question
from envs.grader import KindGrader
from training.parts import Rows
from training.record import Recording, Watch
from training.segments.record import SegmentRecorder, SegmentRecording
from training.segments.trees import TreeConfig
from training.sources import find_source


def record_trees(
    questions: Mapping[str, Sequence[Question]],
    model_paths: Sequence[str],
    out: Path,
    config: TreeConfig,
    segmentation: Segmentation,
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Record trees of local models.

    Args:
        questions: by split.
        model_paths: directories or hub ids, the small model first.
        out: directory of the trace set.
        config: how much to record.
        segmentation: where segments end.
        max_new_tokens: longest attempt.
        temperature: of the sampling.
        seed: of the sampling.
        progress: called with the number of questions done.
    """
    source = find_source(
        model_paths, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
    )
    backend = SegmentWriter(
        source.load(),
        seed=seed,
        temperature=temperature,
        segmentation=segmentation,
        max_new_tokens=max_new_tokens,
    )
    recorder = SegmentRecorder(backend, KindGrader(), config)
    notes = source.notes(recorder.models, out)

    def watch(recording: Recording) -> Watch:
        done = len(recording.plan.questions) - len(recording.missing())
        progress(done)

        def see(rows: Mapping[str, Rows]) -> None:
            nonlocal done
            done += len(rows["questions"])
            progress(done)

        return see

    SegmentRecording(questions, recorder, out, notes).run(watch)
