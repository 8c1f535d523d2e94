"""From rows on disk to arrays."""

import numpy as np
import pytest

from controller.errors import TraceFormatError
from envs.traces.table import build_table


@pytest.fixture(scope="module")
def table(tiny):
    return build_table(tiny, ["train"])


def test_only_questions_that_every_model_has_tried_are_held(table, tiny):
    assert table.question_ids == ("a", "b")
    with pytest.raises(TraceFormatError, match=r"questions of \['test'\].*'train': 3"):
        build_table(tiny, ["test"])


def test_attempts_stand_in_the_order_of_their_numbers_not_of_their_rows(table):
    assert table.stream_length.tolist() == [[2, 1], [2, 1]]
    first, second = table.stream[0, 0]
    assert (table.attempts["row"][first], table.attempts["row"][second]) == (1, 0)
    assert np.isnan(table.attempts["mean_logprob"][first])
    assert table.attempts["completion_tokens"][second] == 12


def test_answers_that_are_the_same_are_one_and_none_is_none(table):
    assert [len(answers) for answers in table.answers] == [2, 2]
    small, large = table.stream[0, 0, 0], table.stream[0, 1, 0]
    assert table.attempts["answer"][small] == table.attempts["answer"][large]
    assert table.attempts["answer"][table.stream[1, 0, 0]] == -1
    assert table.right(table.stream).tolist() == [
        [[True, False], [True, False]],
        [[False, False], [True, False]],
    ]


def test_revisions_hang_on_their_parents(table):
    parent = table.stream[0, 0, 1]
    assert table.revisers == (0,)
    assert table.children[..., 1].sum() == table.children[parent, 0, 1] == 1
    child = table.children[parent, 0, 0]
    assert table.attempts["prompt_tokens"][child] == 21
    assert child not in table.stream
