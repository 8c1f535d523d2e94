"""Records trees of segments as a trace set, shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from controller.backends.local.segments import SegmentWriter
from controller.errors import ConfigError
from controller.process.types import Question
from controller.segments.types import Segmentation, SegmentBackend
from envs.questions.grader import Grader, KindGrader
from envs.segments.traces import SEGMENT_SCHEMA, SEGMENT_TRACE_VERSION
from envs.traces.format import MANIFEST, QUESTION_SCHEMA
from training.record.parts import WHOLE, Rows
from training.record.plans import question_row
from training.record.progress import Watch
from training.record.recording import Missing, RecordConfig, Recording
from training.record.sources import Models
from training.segments.trees import TreeConfig, TreeGrower
from training.segments.values import add_values


class SegmentRecorder:
    """Records shards of trees in this process.

    Args:
        backend: writes the segments.
        grader: grades answers.
        config: how much to record.
    """

    def __init__(self, backend: SegmentBackend, grader: Grader, config: TreeConfig) -> None:
        self.models, self.segmentation = backend.models, backend.segmentation
        self.draws = config.draws
        # A recording asks a config for the size of shards, whatever else it says.
        self.config = cast(RecordConfig, config)
        self._grower = TreeGrower(backend, grader, config, backend.models[0].max_new_tokens or 1)

    def record(self, todo: Sequence[Missing], add: Watch) -> None:
        """Record shards one after the other."""
        size = self.config.shard_questions or 1
        for start in range(0, len(todo), size):
            add(self._record(todo[start : start + size]))

    def _record(self, shard: Sequence[Missing]) -> dict[str, Rows]:
        prompts, rows = self._grower.grow([missing.question for missing in shard])
        described = [
            question_row(missing.question, missing.split, prompt.hidden)
            for missing, prompt in zip(shard, prompts, strict=True)
        ]
        return {"questions": described, "segments": rows}


class SegmentRecording(Recording):
    """One recording of trees, begun or resumed.

    Args:
        questions: by split.
        recorder: records them.
        out: directory of the trace set.
        notes: added to `trace.json` (decoding settings, licence, paths of models).
    """

    schemas = {"questions": QUESTION_SCHEMA, "segments": SEGMENT_SCHEMA}  # noqa: RUF012

    def __init__(
        self,
        questions: Mapping[str, Sequence[Question]],
        recorder: SegmentRecorder,
        out: Path,
        notes: Mapping[str, Any],
    ) -> None:
        self._segmentation, self._draws = recorder.segmentation, recorder.draws
        super().__init__(questions, recorder, out, notes)

    def run(self, progress: Callable[[Recording], Watch] | None = None) -> None:
        """Record what is missing, then write the trace set; a finished one stays as it is.

        Raises:
            ConfigError: `out` holds a finished set, or another recording.
        """
        if (self.out / MANIFEST).exists():
            raise ConfigError(
                f"{self.out}: expected no trace set there yet; choose another directory"
            )
        super().run(progress)

    def _tier(self, rung: int) -> str:
        return self.recorder.models[rung].tier

    def _wanted(self) -> dict[str, int]:
        name, _ = WHOLE
        return {name: 1}

    def _complete(self) -> dict[str, Any]:
        """Add the values of prefixes, in place of the hidden states that they are read from."""
        add_values(self.out, self._draws)
        return {}

    def _manifest(self, notes: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **super()._manifest(notes),
            "kind": "segments",
            "version": SEGMENT_TRACE_VERSION,
            "segmentation": asdict(self._segmentation),
        }


def record_trees(
    questions: Mapping[str, Sequence[Question]],
    source: Models,
    out: Path,
    config: TreeConfig,
    segmentation: Segmentation,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Record trees of local models.

    Args:
        questions: by split.
        source: of the models.
        out: directory of the trace set.
        config: how much to record.
        segmentation: where segments end.
        progress: called with the number of questions done.
    """
    backend = SegmentWriter(
        source.load(),
        seed=source.seed,
        temperature=source.temperature,
        segmentation=segmentation,
        max_new_tokens=source.max_new_tokens,
    )
    recorder = SegmentRecorder(backend, KindGrader(), config)

    def watch(recording: Recording) -> Watch:
        done = len(recording.plan.questions) - len(recording.missing())

        def see(rows: Mapping[str, Rows]) -> None:
            nonlocal done
            done += len(rows["questions"])
            progress(done)

        return see

    notes = source.notes(recorder.models, out)
    SegmentRecording(questions, recorder, out, notes).run(watch)
