"""Fixed plans that replace each other."""

import numpy as np
import pytest

from recipes.trade_offs import ONE, REVISED, compare, in_turn, mixture


@pytest.mark.parametrize(
    ("budget", "weights"),
    [
        (30.0, [0.0, 0.5, 0.5, 0.0]),  # the second last is dear and worse: it is never mixed
        (20.0, [0.0, 1.0, 0.0, 0.0]),
        (99.0, [0.0, 0.0, 1.0, 0.0]),
        (1.0, [1.0, 0.0, 0.0, 0.0]),  # nothing is as cheap
    ],
)
def test_a_mixture_is_the_best_that_a_budget_buys(budget, weights):
    right, cost = np.array([0.1, 0.5, 0.9, 0.4]), np.array([10.0, 20.0, 40.0, 50.0])
    np.testing.assert_allclose(mixture(right, cost, budget), weights, atol=1e-9)


def test_the_last_of_several_revisions_counts(traces, validation, config):
    """By the trace set's own columns, attempt by attempt."""
    rows = traces.attempts.to_pandas()
    rows = rows[rows["question_id"].isin(validation.table.question_ids)]
    revised = rows[rows["action"] == "revise"]
    made = set(zip(revised["question_id"], revised["attempt_id"], strict=True))
    of = zip(revised["question_id"], revised["parent_id"], strict=True)
    once = revised[[parent not in made for parent in of]]
    (right, cost), (_, twice), *_ = dict(in_turn(validation.table, config)).values()
    expected = once.groupby("question_id")["correct"].mean()[[*validation.table.question_ids]]
    np.testing.assert_allclose(right, expected, atol=1e-9)
    assert (twice > cost).all()


def test_mixtures_are_chosen_on_one_half_and_count_on_the_other():
    cost = np.full(4, 10.0)
    here = {
        REVISED: {"small, 1 times revised": (np.zeros(4), cost)},
        ONE: {"small x1": (np.ones(4), cost), "small x2": (np.zeros(4), cost)},
    }
    there = {**here, ONE: {"small x1": (np.zeros(4), cost), "small x2": (np.ones(4), cost)}}
    (row,) = compare([(here, there)])
    assert row["lead of that"].startswith("+0.000")
