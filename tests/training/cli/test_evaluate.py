"""Evaluating on some data sets of a trace set."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from controller.bundled import bundled
from controller.errors import ConfigError
from training.cli.flags import RayOptions
from training.cli.train import EvaluateOptions
from training.compare.evaluate import read_others

SHORT = ("--num-prices", 2, "--repeats", 1, "--wandb", "disabled")


@pytest.mark.parametrize(
    ("controller", "traces"),
    [("controller", "traces"), ("segments/controller", "segments/traces")],
)
def test_questions_of_the_named_data_sets_alone(allot, tmp_path, controller, traces):
    where = bundled(traces)
    questions = pq.read_table(where / "questions.parquet").to_pandas()
    test = questions[questions["split"] == "test"]
    names = sorted(test["dataset"].unique())
    chosen = test["question_id"][test["dataset"].isin([names[0], names[-1]])]

    card = bundled(controller) / "README.md"
    before = card.read_bytes()
    options = ("--datasets", names[0], "--datasets", f"*{names[-1][1:]}", "--out", tmp_path)
    done = allot("evaluate", bundled(controller), "--traces", where, *options, *SHORT, "--json")

    assert json.loads(done.stdout)["num_questions"] == len(chosen)
    played = pq.read_table(tmp_path / "evaluation/decisions.parquet", columns=["question_id"])
    assert {*played["question_id"].to_pylist()} == {*chosen}
    assert card.read_bytes() == before


@pytest.mark.parametrize("wrong", [{"num_prices": 0}, {"repeats": -1}])
def test_what_is_played_is_counted_from_one(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}: expected at least 1, found"):
        EvaluateOptions(controllers=(), cluster=RayOptions(), **wrong)


def test_what_cannot_be_evaluated_is_said(allot, tmp_path):
    where = bundled("controller")
    with pytest.raises(ConfigError, match="beside: expected another name, found 'controller'"):
        read_others([f"controller={where}@{bundled('traces')}"])
    done = allot("evaluate", where, "--datasets", "chain_sum", *SHORT, check=False)
    assert "out: expected a directory" in done.stderr
    options = ("--datasets", "chain", "--out", tmp_path)
    done = allot("evaluate", where, *options, *SHORT, check=False)
    assert "datasets: expected some of" in done.stderr
    assert "found 'chain'" in done.stderr
    assert not list(tmp_path.iterdir())
