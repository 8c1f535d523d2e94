"""Records trees of segments as a trace set, shard by shard; see `training.record`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from controller.backends.base import PromptState
from controller.segments.types import SegmentBackend
from controller.types import Question
from envs.grader import Grader
from envs.segments.traces import SEGMENT_SCHEMA, SEGMENT_TRACE_VERSION
from envs.traces import QUESTION_SCHEMA
from training.record import RecordConfig, RecordedShard, Recording, Shard, question_row
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

    def record(self, shards: Iterable[Shard]) -> Iterator[RecordedShard]:
        """Record shards one after the other."""
        return map(self._record, shards)

    def _record(self, shard: Shard) -> RecordedShard:
        prompts, rows = self._grower.grow([question for question, _ in shard.questions])
        question_rows = [
            question_row(
                question, split, PromptState(prompt_tokens=p.prompt_tokens, hidden=p.hidden)
            )
            for (question, split), p in zip(shard.questions, prompts, strict=True)
        ]
        return RecordedShard(
            number=shard.number,
            tables={
                "questions": pa.Table.from_pylist(question_rows, schema=QUESTION_SCHEMA),
                "segments": pa.Table.from_pylist(rows, schema=SEGMENT_SCHEMA),
            },
        )


class SegmentRecording(Recording):
    """One recording of trees, begun or resumed.

    Args:
        questions: by split.
        recorder: records them.
        out: directory of the trace set.
        notes: added to `trace.json` (decoding settings, licence, paths of models).
    """

    tables = ("questions", "segments")

    def __init__(
        self,
        questions: Mapping[str, Sequence[Question]],
        recorder: SegmentRecorder,
        out: Path,
        notes: Mapping[str, Any],
    ) -> None:
        super().__init__(questions, recorder, out, notes)
        self._segmentation, self._draws = recorder.segmentation, recorder.draws

    def _complete(self) -> None:
        """Add the values of prefixes, in place of the hidden states that they are read from."""
        add_values(self.out, self._draws)

    def _manifest(self) -> dict[str, Any]:
        return {
            **super()._manifest(),
            "kind": "segments",
            "version": SEGMENT_TRACE_VERSION,
            "segmentation": asdict(self._segmentation),
        }
