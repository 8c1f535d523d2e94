"""Values of prefixes on a tree by hand."""

import numpy as np
import pyarrow as pa
import pytest

from controller.segments.episodes import SEGMENT
from envs.segments import SegmentTable


@pytest.fixture
def table():
    """Prompt 0 leads to 1 twice and to 2; 1 ends right or wrong (3, 4), 2 is right."""
    segments = np.zeros(6, SEGMENT)
    segments["answer"] = [-1, 1, 0, 0, 1, 0]
    nowhere = np.full(6, -1)
    ended = nowhere.copy()
    ended[0] = 5
    draws = np.full((6, 3), -1)
    draws[0], draws[1, :2] = [1, 2, 1], [3, 4]
    return SegmentTable(
        texts=pa.array(["?"]),
        hidden=None,
        question_ids=("q",),
        levels=np.zeros(1, np.int64),
        answer_correct=np.array([[True, False]]),
        answers=(("7", "8"),),
        question=np.zeros(1, np.int64),
        attempt=np.zeros(1, np.int64),
        root=np.zeros(1, np.int64),
        prompt_tokens=np.array([[4, 4]]),
        draws=draws,
        repeats=np.zeros((6, 3), np.int64),
        escalated=nowhere,
        ended=ended,
        segments=segments,
        rows=np.arange(6),
    )


def test_values_are_means_over_what_followed(table):
    assert table.values == pytest.approx([2 / 3, 1 / 2, 1, 1, 0, 1])


def test_rates_are_those_of_whole_attempts_by_either_model(table):
    assert table.success_rates[0] == pytest.approx([2 / 3, 1])
