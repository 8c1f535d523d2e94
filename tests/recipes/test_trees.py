"""Trees of the bundled models: the same set in shards of any size."""

import pytest

from controller.backends.local.segments import SegmentWriter
from controller.errors import ConfigError, TraceFormatError
from envs.questions.grader import KindGrader
from envs.segments import SegmentTraces
from recipes.trees import TreeConfig, TreeRecorder, record_trees
from training.report.show import new_questions

COLUMNS = ["question_id", "node", "before", "action", "draws", "num_tokens", "answer", "text"]


def test_a_set_is_the_same_in_shards_of_any_size_and_is_kept(small_and_large, tmp_path):
    def record(name, shard_questions):
        config = TreeConfig(draws=(2, 1), shard_questions=shard_questions, keep_text=True)
        recorder = TreeRecorder(SegmentWriter(small_and_large), KindGrader(), config)
        record_trees({"train": new_questions(3, seed=9)}, recorder, tmp_path / name, {})
        nodes = SegmentTraces.read(tmp_path / name).segments.select(COLUMNS)
        return nodes.sort_by([("question_id", "ascending"), ("node", "ascending")])

    with pytest.raises(TraceFormatError, match="expected segment traces"):
        SegmentTraces.read(tmp_path / "whole")
    assert record("whole", 3).equals(record("parts", 1))
    with pytest.raises(ConfigError, match="no trace set there yet"):
        record("whole", 3)
