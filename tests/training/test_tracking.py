"""What W&B holds of a training and an evaluation, read back with W&B's own reader."""

import json
import subprocess
import sys

import pytest

TRAINING = ("--num-envs", 64, "--steps", 64 * 16 * 12)
EVALUATION = ("--num-prices", 3, "--repeats", 1)


def leet(run, *options):
    """Output of `wandb leet inspect --json` on the only offline run of a directory."""
    (log,) = run.glob("wandb/offline-run-*/run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(log)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def summary(run):
    return json.loads(leet(run, "--summary"))


def records(run, kind):
    found = [json.loads(line) for line in leet(run).splitlines()]
    return [record[kind] for record in found if record["type"] == kind]


def axes(run):
    """By name or pattern of metrics, what they are drawn against."""
    return {
        metric.get("glob_name") or metric["name"]: metric.get("step_metric")
        for metric in records(run, "metric")
    }


@pytest.fixture(scope="module")
def trained(few, allot, tmp_path_factory):
    """Two seeds."""
    out = tmp_path_factory.mktemp("runs") / "pair"
    allot("train", "--traces", few, "--out", out, "--seeds", 2, "--wandb", "offline", *TRAINING)
    return out


@pytest.fixture(scope="module")
def evaluated(few, allot, trained):
    allot("evaluate", trained, "--traces", few, "--wandb", "offline", *EVALUATION)
    return trained


def table(run, name):
    entry = summary(run)["summary"][name]
    (log,) = run.glob("wandb/offline-run-*")
    content = json.loads((log / "files" / entry["path"]).read_text())
    return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def test_a_training_is_one_run_in_the_group_of_its_traces(trained):
    for seed in (0, 1):
        run = trained / f"seed-{seed}"
        (entry,) = records(run, "run")
        assert (entry["job_type"], entry["run_group"]) == ("train", "few")
        whole = summary(run)
        assert whole["state"] == "finished"
        assert whole["config"]["seed"] == seed
        assert whole["config"]["learning_rate"] == 0.002
        assert whole["config"]["process"]["max_samples"] == 16


def test_training_metrics_keep_their_names_and_are_drawn_against_steps(trained):
    run = trained / "seed-0"
    assert axes(run) == {"global_step": None, "*": "global_step"}
    last = summary(run)["summary"]
    expected = {"charts/SPS", "losses/approx_kl", "episodic/right", "validation/utility"}
    expected |= {"validation/best_rule", "validation/lead", "actions/STOP", "actions/ESCALATE"}
    assert expected <= set(last)
    assert last["global_step"] == 64 * 16 * 12
    assert last["validation/best_utility"] >= last["validation/utility"]
    shares = [v for name, v in last.items() if name.startswith("actions/")]
    assert sum(shares) == pytest.approx(1)


def test_an_evaluation_is_drawn_against_the_price(evaluated):
    (entry,) = records(evaluated, "run")
    assert (entry["job_type"], entry["run_group"]) == ("evaluate", "few")
    assert set(axes(evaluated).values()) == {None, "price"}
    rows = [item["item"] for item in records(evaluated, "history")]
    by_price = [row for row in rows if "price" in row]
    assert len(by_price) == 3
    figures = json.loads((evaluated / "evaluation" / "evaluation.json").read_text())["summary"]
    for row, price in zip(by_price, figures["prices"], strict=True):
        assert row["price"] == price
        assert row["utility/controller"] <= row["utility/clairvoyant oracle"]
        lead = row["utility/controller"] - row["utility/always large"]
        assert row["lead/always large"] == pytest.approx(lead)
        shares = [v for name, v in row.items() if name.startswith("actions/")]
        assert sum(shares) == pytest.approx(1)


def test_every_policy_is_in_the_table_with_intervals(evaluated):
    rows = table(evaluated, "policies")
    figures = json.loads((evaluated / "evaluation" / "evaluation.json").read_text())["summary"]
    assert {row["policy"] for row in rows} == {*figures["policies"], *figures["oracles"]}
    assert len(rows) == 3 * len({row["policy"] for row in rows})
    for row in rows:
        for quantity in ("accuracy", "cost", "utility"):
            low, high = row[f"{quantity}_low"], row[f"{quantity}_high"]
            assert low <= row[quantity] <= high
        has_lead = row["policy"] in figures["lead"]
        assert (row["lead"] is not None) == has_lead


def test_every_question_is_in_the_table_of_decisions(evaluated, few):
    rows = table(evaluated, "decisions")
    figures = json.loads((evaluated / "evaluation" / "evaluation.json").read_text())["summary"]
    assert len(rows) == 3 * figures["num_questions"]
    assert {row["price"] for row in rows} == set(figures["prices"])
    assert {row["difficulty"] for row in rows} <= {1, 2, 3, 4}
    for row in rows:
        assert row["question"]
        assert row["correct"] == (row["answer"] == row["reference"])
        assert set(row["actions"].split()) <= {
            "STOP",
            "SAMPLE",
            "SAMPLE(4)",
            "REVISE",
            "ESCALATE",
            "VERIFY",
        }
        assert (row["cost"] > 0) == (row["actions"] != "STOP")


def test_pictures_are_there(evaluated):
    last = summary(evaluated)["summary"]
    (log,) = evaluated.glob("wandb/offline-run-*")
    for name in ("frontier", "utility", "actions"):
        picture = log / "files" / last[name]["path"]
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert (evaluated / f"{name}.png").exists()


def test_lineage_leads_from_traces_over_controllers_to_the_evaluation(trained, evaluated):
    def artifacts(run):
        return {
            (entry["type"], entry["digest"], bool(entry.get("use_after_commit")))
            for entry in records(run, "artifact")
            if entry["type"] in ("traces", "controller", "evaluation")
        }

    made, used = set(), set()
    for run in (trained / "seed-0", trained / "seed-1"):
        kinds = {(kind, use): digest for kind, digest, use in artifacts(run)}
        assert set(kinds) == {("traces", True), ("controller", False)}
        made.add(kinds["controller", False])
        used.add(kinds["traces", True])
    evaluation = artifacts(evaluated)
    assert {d for kind, d, use in evaluation if kind == "controller" and use} == made
    assert {d for kind, d, use in evaluation if kind == "traces" and use} == used
    assert [use for kind, _, use in evaluation if kind == "evaluation"] == [False]


def test_seeds_are_summed_up_with_the_evaluation(evaluated):
    last = summary(evaluated)["summary"]
    assert last["seeds/mean_low"] <= last["seeds/mean"] <= last["seeds/mean_high"]
    assert last["headline/always large"] > 0


def test_without_an_account_or_network_everything_works(few, allot, tmp_path):
    """A key but nobody who answers: logged offline, with a note."""
    out = tmp_path / "run"
    done = allot(
        "train",
        *("--traces", few, "--out", out, *TRAINING),
        WANDB_API_KEY="0" * 40,
        WANDB_BASE_URL="http://127.0.0.1:9",
    )
    assert "note: W&B does not answer, logging offline" in done.stderr
    assert "wandb sync" in done.stdout
    assert summary(out)["state"] == "finished"


def test_disabled_leaves_wandb_alone(few, tmp_path, environment):
    program = f"""
import sys
from training.cli import app
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
        *("--traces", few, "--out", tmp_path / "run", "--wandb", "online", *TRAINING),
        check=False,
        WANDB_API_KEY="0" * 40,
        WANDB_BASE_URL="http://127.0.0.1:9",
        WANDB_INIT_TIMEOUT="10",
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: wandb: expected an answer from W&B")
