"""Records trees of segments as a trace set, shard by shard; see `training.record`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from controller.backends.base import Backend, PromptState
from controller.segments.types import SegmentBackend
from controller.types import Question
from envs.grader import Grader
from envs.segments.traces import QUESTIONS, SEGMENT_SCHEMA, SEGMENT_TRACE_VERSION
from envs.traces import write_table
from training.record import RecordConfig, Recording, question_row
from training.segments.trees import TreeConfig, TreeGrower
from training.segments.values import add_values


class SegmentRecording(Recording):
    """One recording of trees, begun or resumed.

    Args:
        questions: by split.
        backend: writes the segments.
        grader: grades answers.
        out: directory of the trace set.
        config: how much to record.
        notes: added to `trace.json` (decoding settings, licence, paths of models).
    """

    tables = ("questions", "segments")

    def __init__(
        self,
        questions: Mapping[str, Sequence[Question]],
        backend: SegmentBackend,
        grader: Grader,
        out: Path,
        config: TreeConfig,
        notes: Mapping[str, Any],
    ) -> None:
        # The shards ask a backend for its models and a config for its numbers, whatever these are.
        shards = cast(Backend, backend), grader, out, cast(RecordConfig, config)
        super().__init__(questions, *shards, notes)
        self._segmentation, self._draws = backend.segmentation, config.draws
        limit = backend.models[0].max_new_tokens or 1
        self._grower = TreeGrower(backend, grader, config, limit)

    def _record(self, shard: int, questions: Sequence[tuple[Question, str]]) -> None:
        prompts, rows = self._grower.grow([question for question, _ in questions])
        question_rows = [
            question_row(
                question, split, PromptState(prompt_tokens=p.prompt_tokens, hidden=p.hidden)
            )
            for (question, split), p in zip(questions, prompts, strict=True)
        ]
        for table, schema, entries in (
            ("questions", QUESTIONS, question_rows),
            ("segments", SEGMENT_SCHEMA, rows),
        ):
            write_table(self._path(table, shard), pa.Table.from_pylist(entries, schema=schema))

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
