"""Prompts of one model are told apart, and the best alone is chosen by questions learnt from."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controller.errors import TraceFormatError
from envs.traces.format import MANIFEST, TraceSet, write_table
from recipes.crossvalidate import MEAN, Fold, deal, summarise
from recipes.prompts import alone, best_prompts, prompts_of, separate, worth_most
from tests.menus import write_menu
from training.learn.config import PPOConfig, TrainConfig

MODELS = {"ant": "bug", "cat": "bug", "cow": "beast", "whale": "beast"}
"""Of whose arms, ant, cat, cow and whale are now prompts; cat and whale are the better ones."""


def rewritten(traces, column, values):
    attempts = traces.attempts
    if column in attempts.column_names:
        attempts = attempts.drop_columns(column)
    write_table(traces.path / "attempts.parquet", attempts.append_column(column, values))
    return TraceSet.read(traces.path)


@pytest.fixture
def variants(tmp_path):
    """Two models under two prompts each, whose names are in a column."""
    traces = TraceSet.read(write_menu(tmp_path / "variants", 80))
    names = traces.attempts["model"].to_pylist()
    traces = rewritten(traces, "variant", pa.array(names))
    manifest = json.loads((traces.path / MANIFEST).read_text())
    del manifest["recorded"]
    models = {MODELS[name]: entry for name, entry in manifest["models"].items()}
    (traces.path / MANIFEST).write_text(json.dumps(manifest | {"models": models}))
    return rewritten(traces, "model", pa.array([MODELS[name] for name in names]))


def test_a_column_of_prompts_makes_arms(variants, tmp_path):
    arms = separate(variants, tmp_path / "arms", first=2)
    assert prompts_of(arms) == {
        "bug:ant": ["bug:ant", "bug:cat"],
        "beast:cow": ["beast:cow", "beast:whale"],
    }
    held = {name: rows.attempts for name, rows in arms.model_rows.items()}
    assert held == {"bug:ant": 160, "bug:cat": 160, "beast:cow": 80, "beast:whale": 160}
    assert len({arm.family for arm in arms.arms([*held])}) == 4
    assert separate(variants, tmp_path / "arms").num_attempts == arms.num_attempts


def test_questions_that_an_arm_did_not_try_are_left_out(variants, tmp_path):
    lost = (variants.attempts["question_id"].to_pandas() == "q7") & (
        variants.attempts["variant"].to_pandas() == "cow"
    )
    write_table(variants.path / "attempts.parquet", variants.attempts.filter(pa.array(~lost)))
    arms = separate(TraceSet.read(variants.path), tmp_path / "arms")
    assert "q7" not in arms.questions["question_id"].to_pylist()
    assert arms.questions.num_rows == 79
    assert all(rows.attempts % 79 == 0 for rows in arms.model_rows.values())


def test_the_best_prompt_is_chosen_without_the_questions_that_are_played(variants, tmp_path):
    arms = separate(variants, tmp_path / "arms")
    groups, fold = prompts_of(arms), next(deal(arms, 2, 0))
    best = best_prompts(fold, groups)
    assert best == {"bug:ant": "bug:cat", "beast:cow": "beast:whale"}
    one = alone(fold, best)
    kept = one.attempts.to_pandas()
    assert set(kept["model"]) == set(groups)
    assert set(kept["variant"]) == {"cat", "whale"}
    tested = fold.questions.filter(pa.array(fold.questions["split"].to_pandas() == "test"))
    played = arms.attempts["question_id"].to_pandas().isin(tested["question_id"].to_pylist())
    right = arms.attempts["correct"].to_pandas()
    flipped = rewritten(arms, "correct", pa.array(np.where(played, ~right, right)))
    assert best_prompts(next(deal(flipped, 2, 0)), groups) == best
    wrong = rewritten(arms, "correct", pa.array(~right))
    assert best_prompts(next(deal(wrong, 2, 0)), groups) != best


def test_what_a_prompt_is_worth_depends_on_the_price(variants, tmp_path):
    """The whale is more often right than the cow, and writes more."""
    arms = separate(variants, tmp_path / "arms")
    ladder = ("bug:ant", "bug:cat", "beast:cow", "beast:whale")
    config = TrainConfig(ladder=ladder, ppo=PPOConfig(total_steps=8192))
    fold = Fold(traces=next(deal(arms, 2, 0)), config=config, out=tmp_path, seeds=0)
    found = [worth_most(fold, prompts_of(arms), price)["beast:cow"] for price in (1e-9, 1.0)]
    assert found == ["beast:whale", "beast:cow"]


def test_recorded_prompts_are_told_by_the_weights_that_they_share(tmp_path):
    traces = TraceSet.read(write_menu(tmp_path / "menu", 20))
    with pytest.raises(TraceFormatError, match="another prompt for the same model"):
        prompts_of(traces)
    models = dict(traces.manifest["models"])
    for arm, digest in (("ant", "a1"), ("whale", "a1"), ("cow", "a1")):
        models[arm] = models[arm] | {"digest": digest}
    models["whale"]["body"] = {"reasoning_effort": "high"}
    (traces.path / MANIFEST).write_text(json.dumps({**traces.manifest, "models": models}))
    groups = prompts_of(TraceSet.read(traces.path))
    assert groups == {"ant": ["ant", "cow"], "cat": ["cat"], "whale": ["whale"]}


def test_one_command_compares_both_ways_and_goes_on(variants, allot, tmp_path):
    out = tmp_path / "out"
    command = [variants.path, "--out", out, "--folds", 2, "--steps", 8192, "--num-prices", 2]
    first = allot(*command, program="recipes.prompts").stdout
    assert first.count("best prompts: bug:cat, beast:whale") == 2
    weights = out / "prompt-first/fold1/seed0/controller.safetensors"
    then = weights.stat().st_mtime_ns
    assert allot(*command, program="recipes.prompts").stdout == first
    assert weights.stat().st_mtime_ns == then
    played = pq.read_table(out / "played.parquet")
    counts = played.to_pandas().groupby(["policy", "price"])["question_id"].nunique()
    assert [*counts] == [80] * 5 * 2
    assert "chosen rule, worth most" in first
    rows = summarise(np.unique(played["price"].to_numpy()), played)
    assert rows[-1]["price"] == MEAN
    for name in counts.index.unique("policy").drop("controller, together"):
        mean, low, high = rows[-1][f"over {name}"]
        assert low <= mean <= high
        assert mean == pytest.approx(np.mean([row[f"over {name}"][0] for row in rows[:-1]]))
