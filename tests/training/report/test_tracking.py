"""What W&B holds of a training and an evaluation, read back with W&B's own reader."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from training.report.tracking import MAX_TABLE_ROWS, Tracker

STEPS = 64 * 16 * 4
SHORT = ("--num-envs", 64, "--steps", 1024)


@pytest.fixture(scope="module")
def trained(pair, offline_run):
    return [offline_run(pair / f"seed-{seed}") for seed in (0, 1)]


@pytest.fixture(scope="module")
def evaluated(pair, offline_run):
    return offline_run(pair)


@pytest.fixture(scope="module")
def figures(pair):
    return json.loads((pair / "evaluation" / "evaluation.json").read_text())["summary"]


def axes(run):
    """By name or pattern of metrics, what they are drawn against."""
    return {
        metric.get("glob_name") or metric["name"]: metric.get("step_metric")
        for metric in run.records("metric")
    }


def artifacts(run):
    """Kind, digest and whether it went into the run, of what it logged by itself."""
    return {
        (entry["type"], entry["digest"], entry.get("use_after_commit", False))
        for entry in run.records("artifact")
        if entry.get("user_created")
    }


def shares(row):
    return [share for name, share in row.items() if name.startswith("actions/")]


def test_a_training_is_one_run_in_the_group_of_its_traces(trained):
    for seed, run in enumerate(trained):
        (entry,) = run.records("run")
        assert (entry["job_type"], entry["run_group"]) == ("train", "few")
        assert run.whole["state"] == "finished"
        config = run.whole["config"]
        assert (config["seed"], config["learning_rate"]) == (seed, 0.002)
        assert config["process"]["max_samples"] == 6


def test_training_metrics_keep_their_names_and_are_drawn_against_steps(trained):
    run = trained[0]
    assert axes(run) == {"global_step": None, "*": "global_step"}
    last = run.summary
    expected = {"charts/SPS", "losses/approx_kl", "episodic/right", "validation/utility"}
    expected |= {"validation/best_rule", "validation/lead", "actions/STOP", "actions/ESCALATE"}
    assert expected <= set(last)
    assert last["global_step"] == STEPS
    assert last["validation/kept_utility"] == last["validation/utility"]
    assert sum(shares(last)) == pytest.approx(1)


def test_an_evaluation_is_drawn_against_the_price(evaluated, figures):
    (entry,) = evaluated.records("run")
    assert (entry["job_type"], entry["run_group"]) == ("evaluate", "few")
    assert set(axes(evaluated).values()) == {None, "price"}
    rows = [row for row in evaluated.history() if "price" in row]
    assert [row["price"] for row in rows] == figures["prices"]
    for row in rows:
        assert row["utility/controller"] <= row["utility/clairvoyant oracle"]
        lead = row["utility/controller"] - row["utility/always large"]
        assert row["lead/always large"] == pytest.approx(lead)
        assert sum(shares(row)) == pytest.approx(1)


def test_every_policy_is_in_the_table_with_intervals(evaluated, figures):
    rows = evaluated.table("policies")
    assert {row["policy"] for row in rows} == {*figures["policies"], *figures["oracles"]}
    assert len(rows) == len(figures["prices"]) * len({row["policy"] for row in rows})
    for row in rows:
        for quantity in ("accuracy", "cost", "utility"):
            low, high = row[f"{quantity}_low"], row[f"{quantity}_high"]
            assert low <= row[quantity] + 1e-12
            assert row[quantity] <= high + 1e-12
        assert (row["lead"] is not None) == (row["policy"] in figures["lead"])


def test_every_question_is_in_the_table_of_decisions(evaluated, figures):
    rows = evaluated.table("decisions")
    assert len(rows) == len(figures["prices"]) * figures["num_questions"]
    assert {row["price"] for row in rows} == set(figures["prices"])
    assert {row["difficulty"] for row in rows} <= {1, 2, 3, 4, 5}
    known = {"STOP", "SAMPLE", "SAMPLE(4)", "REVISE", "ESCALATE", "VERIFY"}
    for row in rows:
        assert row["question"]
        assert row["correct"] == (row["answer"] == row["reference"])
        assert set(row["actions"].split()) <= known
        assert (row["cost"] > 0) == (row["actions"] != "STOP")


def test_a_table_that_is_too_long_for_wandb_keeps_evenly_many_rows(offline_run, tmp_path):
    with Tracker(tmp_path, "evaluate", {}, mode="offline") as tracker:
        tracker.table("long", ["number"], ((i,) for i in range(250_001)))
        tracker.table("none", ["number"], [])
    numbers = [row["number"] for row in offline_run(tmp_path).table("long")]
    assert numbers == [*range(0, 250_001, 26)]
    assert len(numbers) <= MAX_TABLE_ROWS


def test_a_run_is_kept_where_it_belongs_by_a_service_that_was_started_elsewhere(
    tmp_path, monkeypatch
):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        with Tracker(Path("run"), "train", {}, mode="offline") as tracker:
            tracker.log({"global_step": 1})
        assert len([*(tmp_path / name).glob("run/wandb/offline-run-*/run-*.wandb")]) == 1


def test_pictures_are_there(evaluated, pair):
    for name in ("frontier", "utility", "actions"):
        picture = evaluated.files / evaluated.summary[name]["path"]
        assert picture.read_bytes() == (pair / f"{name}.png").read_bytes()


def test_lineage_leads_from_traces_over_controllers_to_the_evaluation(trained, evaluated):
    made, used = set(), set()
    for run in trained:
        by_kind = {(kind, use): digest for kind, digest, use in artifacts(run)}
        assert set(by_kind) == {("traces", True), ("controller", False)}
        made.add(by_kind["controller", False])
        used.add(by_kind["traces", True])
    assert len(made) == 2
    assert len(used) == 1
    evaluation = artifacts(evaluated)
    assert {d for kind, d, use in evaluation if kind == "controller" and use} == made
    assert {d for kind, d, use in evaluation if kind == "traces" and use} == used
    assert [use for kind, _, use in evaluation if kind == "evaluation"] == [False]


def test_seeds_are_summed_up_with_the_evaluation(evaluated):
    last = evaluated.summary
    assert last["seeds/mean_low"] <= last["seeds/mean"] <= last["seeds/mean_high"]
    assert last["headline/always large"] > 0


def test_offline_runs_are_ready_to_be_sent(pair, environment):
    """As far as that goes without an account."""
    logs = [str(path) for path in (pair / "seed-0").glob("wandb/offline-run-*")]
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", *logs]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert "Would sync 1 run(s)" in done.stdout + done.stderr
    assert logs[0] in done.stdout + done.stderr


def test_without_account_network_or_home_everything_works(few, allot, offline_run, tmp_path):
    """A key but nobody who answers, and no home to write to: logged offline, with a note."""
    out = tmp_path / "run"
    done = allot(
        "train",
        *("--traces", few, "--out", out, *SHORT),
        WANDB_API_KEY="0" * 40,
        WANDB_BASE_URL="http://127.0.0.1:9",
        HOME="/proc/nobody",
    )
    assert "note: W&B does not answer, logging offline" in done.stderr
    assert "wandb sync" in done.stdout
    assert offline_run(out).whole["state"] == "finished"


def test_disabled_leaves_wandb_alone(few, tmp_path, environment):
    program = f"""
import sys
from training.cli.app import app
app(["train", "--traces", {str(few)!r}, "--out", {str(tmp_path / "run")!r}, "--wandb", "disabled",
     "--num-envs", "64", "--steps", "1024"], standalone_mode=False)
print("wandb" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split()[-1] == "False", done.stderr
    assert not (tmp_path / "run" / "wandb").exists()


def test_online_without_an_answer_is_an_error(few, allot, tmp_path):
    done = allot(
        "train",
        *("--traces", few, "--out", tmp_path / "run", "--wandb", "online", *SHORT),
        check=False,
        WANDB_API_KEY="0" * 40,
        WANDB_BASE_URL="http://127.0.0.1:9",
        WANDB_INIT_TIMEOUT="10",
    )
    assert done.returncode == 2
    assert "\nerror: wandb: expected an answer from W&B" in done.stderr
