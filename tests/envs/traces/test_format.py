"""Reading trace sets: what is wrong with them is said."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from controller.errors import ConfigError, TraceFormatError
from envs.traces.derive import derive_config
from envs.traces.format import TraceSet
from envs.traces.table import build_table
from tests.conftest import CHECKPOINTS


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(CHECKPOINTS / "traces", tmp_path / "traces")
    return tmp_path / "traces"


def test_unknown_version_is_refused(copy):
    manifest = json.loads((copy / "trace.json").read_text())
    (copy / "trace.json").write_text(json.dumps({**manifest, "version": 9}))
    with pytest.raises(TraceFormatError, match="expected version 1, found 9"):
        TraceSet.read(copy)


def test_missing_columns_and_files_are_named(copy):
    attempts = pq.read_table(copy / "attempts.parquet").drop_columns(["correct"])
    pq.write_table(attempts, copy / "attempts.parquet")
    with pytest.raises(TraceFormatError, match=r"missing \['correct'\]"):
        TraceSet.read(copy)
    (copy / "attempts.parquet").write_bytes(b"not parquet")
    with pytest.raises(TraceFormatError, match="expected a parquet file"):
        TraceSet.read(copy)
    (copy / "attempts.parquet").unlink()
    with pytest.raises(TraceFormatError, match="found none"):
        TraceSet.read(copy)
    with pytest.raises(TraceFormatError, match="allot record"):
        TraceSet.read(copy / "nowhere")


def test_optional_columns_may_be_absent(copy):
    attempts = pq.read_table(copy / "attempts.parquet")
    optional = ["mean_logprob", "min_logprob", "text", "error", "parent_id", "index"]
    pq.write_table(attempts.drop_columns(optional), copy / "attempts.parquet")
    questions = pq.read_table(copy / "questions.parquet").drop_columns(["prompt_hidden", "level"])
    pq.write_table(questions, copy / "questions.parquet")
    table = build_table(TraceSet.read(copy), ["validation"])
    assert np.isnan(table.attempts["mean_logprob"]).all()
    assert table.hidden is None


@pytest.mark.parametrize(("unit", "column"), [("dollars", "cost_usd"), ("seconds", "seconds")])
def test_rates_are_those_of_what_attempts_took(copy, unit, column):
    """Where they say so; nothing was done for what was cached."""
    attempts = pq.read_table(copy / "attempts.parquet").to_pandas()
    attempts = attempts.drop(columns=["cost_usd", "seconds", "cached_tokens"], errors="ignore")
    attempts.to_parquet(copy / "attempts.parquet")
    assert TraceSet.read(copy).fitted_rates(unit) == {}
    read = attempts["prompt_tokens"].where(attempts.index % 2 == 0, 0)
    attempts["cached_tokens"] = (attempts["prompt_tokens"] - read).astype(float)
    million = 0.5 * read + 2.0 * attempts["completion_tokens"]
    attempts[column] = million.where(attempts["model"] == "small") / 1e6
    attempts.loc[::7, column] = None
    attempts.loc[attempts["cached_tokens"] == 0, "cached_tokens"] = None
    attempts.to_parquet(copy / "attempts.parquet")
    assert TraceSet.read(copy).fitted_rates(unit) == {"small": pytest.approx((0.5, 2.0))}


@pytest.mark.parametrize(("per_prompt", "per_written"), [(0.0, 3.0), (3.0, 0.1)])
def test_no_rate_is_below_nothing(copy, per_prompt, per_written):
    attempts = pq.read_table(copy / "attempts.parquet").to_pandas()
    prompt, written = attempts["prompt_tokens"], attempts["completion_tokens"]
    noise = np.random.default_rng(0).normal(size=len(attempts))
    attempts["cost_usd"] = (per_prompt * prompt + per_written * written + noise).clip(0) / 1e6
    attempts.to_parquet(copy / "attempts.parquet")
    for found in TraceSet.read(copy).fitted_rates("dollars").values():
        assert min(found) >= 0
        assert found == pytest.approx((per_prompt, per_written), abs=0.1)


def test_a_fee_for_each_call_is_borne_by_what_is_written(copy):
    attempts = pq.read_table(copy / "attempts.parquet").to_pandas()
    attempts["prompt_tokens"], attempts["cost_usd"] = 20, 0.01
    attempts.drop(columns="cached_tokens", errors="ignore").to_parquet(copy / "attempts.parquet")
    means = attempts.groupby("model")["completion_tokens"].mean()
    found = TraceSet.read(copy).fitted_rates("dollars")
    assert found == {model: (0, pytest.approx(1e4 / mean)) for model, mean in means.items()}


def test_order_of_rows_and_size_of_row_groups_do_not_matter(traces, copy):
    """Parts of a question may lie anywhere; its attempts come together, revisions last."""
    attempts = pq.read_table(copy / "attempts.parquet")
    order = np.random.default_rng(0).permutation(len(attempts))
    pq.write_table(attempts.take(order), copy / "attempts.parquet", row_group_size=1000)
    expected = build_table(traces, ["train"])
    found = build_table(TraceSet.read(copy), ["train"])
    for name in ("stream", "stream_length", "answer_correct", "hidden"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    for name in {*found.attempts.dtype.names} - {"row"}:
        np.testing.assert_array_equal(found.attempts[name], expected.attempts[name], err_msg=name)
    assert found.answers == expected.answers
    np.testing.assert_array_equal(order[found.attempts["row"]], expected.attempts["row"])
    assert TraceSet.read(copy).models() == traces.models()


def test_revisions_hang_off_their_parents(traces):
    table = build_table(traces, ["train"])
    ids = traces.attempts["attempt_id"].take(table.attempts["row"]).to_pylist()
    of = traces.attempts["parent_id"].take(table.attempts["row"]).to_pylist()
    parents = np.flatnonzero(table.children[:, 0, 1])
    assert len(parents) > 1000
    for parent in parents[:: len(parents) // 500]:
        first, number = table.children[parent, 0].tolist()
        children = range(first, first + number)
        assert {of[child] for child in children} == {ids[parent]}
    assert table.children[..., 1].sum() == sum(name is not None for name in of)


def test_models_out_of_the_set_are_refused(traces):
    with pytest.raises(ConfigError, match="found 'gpt-9'"):
        traces.models(["small", "gpt-9"])


def test_settings_follow_from_the_train_split(traces, config):
    models = traces.models()
    assert [m.name for m in models] == ["small", "large"]
    assert config.cost.weights[1] == models[1].parameters / models[0].parameters
    assert 10 <= config.cost.weights[1] <= 20


def test_unknown_sizes_are_assumed_with_a_note(validation, traces):
    from dataclasses import replace

    small, large = traces.models()
    with pytest.warns(UserWarning, match="the size of large is unknown"):
        config = derive_config(validation.table, (small, replace(large, parameters=None)))
    assert config.cost.weights == (1.0, 20.0)
