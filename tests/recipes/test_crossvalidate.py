"""Controllers and rules on questions that neither has learnt from, and where compute is lost."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from envs.traces.format import TraceSet
from recipes.crossvalidate import CONTROLLER, HINDSIGHT, deal, summarise
from recipes.limits import SOLVED, wasted


def test_each_question_is_dealt_once_and_never_to_those_who_learn_from_it(traces):
    dealt = [
        fold.questions.select(["question_id", "split"]).to_pandas() for fold in deal(traces, 3, 90)
    ]
    tested = [set(fold.question_id[fold.split == "test"]) for fold in dealt]
    assert sum(map(len, tested)) == len(set().union(*tested)) == 90
    for fold, mine in zip(dealt, tested, strict=True):
        learnt = fold.question_id[fold.split.isin(["train", "validation"])]
        assert len(learnt) == 90 - len(mine)
        assert not mine & set(learnt)


def test_a_set_is_cross_validated_by_one_command_and_drawn(few, allot, tmp_path):
    out = tmp_path / "cv"
    command = [few, "--out", out, "--folds", 2, "--steps", 8192, "--num-prices", 12]
    first = allot(*command, program="recipes.crossvalidate").stdout
    then = (out / "fold1/seed0/controller.safetensors").stat().st_mtime_ns
    assert allot(*command, program="recipes.crossvalidate").stdout == first
    assert (out / "fold1/seed0/controller.safetensors").stat().st_mtime_ns == then
    played = pq.read_table(out / "played.parquet")
    questions = TraceSet.read(few).questions.num_rows
    counts = played.to_pandas().groupby(["policy", "price"])["question_id"].nunique()
    assert len(counts) == 4 * 12
    assert set(counts) == {questions}
    prices = np.unique(played["price"].to_numpy())
    for row in summarise(prices, played):
        lead, low, high = row[f"over {HINDSIGHT}"]
        assert low <= lead <= high
        assert abs(row[CONTROLLER] - row[HINDSIGHT] - lead) < 1e-12
    drawn = allot(
        few, out / "played.parquet", "--out", tmp_path / "limits.png", program="recipes.limits"
    )
    assert drawn.stdout.count("of compute where no arm") == 12
    assert (tmp_path / "limits.png").stat().st_size > 10_000


def test_compute_is_lost_where_no_arm_solves():
    places = pd.MultiIndex.from_tuples([("sum", 1), ("sum", 2)], names=["dataset", "level"])
    arms = pd.DataFrame({"small": [0.5, 0.0], "large": [0.9, SOLVED]}, index=places)
    rows = pd.concat(
        {0.1: pd.DataFrame({"cost": [10.0, 30.0], "n": [3, 1]}, index=places)}, names=["price"]
    )
    assert wasted(arms, rows) == {0.1: 0.5}
    assert wasted(arms + 0.1, rows) == {0.1: 0.0}
