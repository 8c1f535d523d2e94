"""What a report says of controllers inside attempts, alone and beside those of whole ones."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pytest

from controller.checkpoint import load_checkpoint, load_segment_checkpoint
from controller.errors import EvaluationError
from envs.segments import SegmentTraces, build_trees, read_trees
from envs.traces.table import build_table
from tests.conftest import CHECKPOINTS
from tests.training.report.test_page import evaluate, some
from training.compare.evaluate import Other, compare
from training.compare.evaluation import About, save_evaluation
from training.compare.results import CONTROLLER
from training.compare.summary import summarise
from training.learn.resume import CURVE, read_curve
from training.report.page import read_runs, report_data

ATTEMPTS = "whole attempts"


def evaluate_inside(checkpoint, trees, run, others=None):
    test = read_trees(trees, ["test"])
    tuning = build_trees(trees, ["validation"])
    comparison = compare([checkpoint], tuning, test.table, num_prices=3, others=others)
    save_evaluation(
        run,
        About(controllers=("c",), traces="t", traces_digest=None, models=(), repeats=1),
        summarise(comparison, test.questions),
        checkpoint=checkpoint,
        recorded=test,
        played=comparison.played[CONTROLLER],
    )
    return comparison


@pytest.fixture(scope="module")
def data(redoing, trees, tmp_path_factory):
    out = tmp_path_factory.mktemp("inside") / "run"
    out.mkdir()
    (out / "training").symlink_to(redoing / "training")
    comparison = evaluate_inside(load_segment_checkpoint(redoing), trees, out)
    return report_data(read_runs([out]), num_questions=100), comparison


def test_every_policy_is_of_a_kind(data):
    policies, comparison = data[0]["policies"], data[1]
    assert {p["name"] for p in policies} == set(comparison.played)
    kinds = {policy["name"]: policy["kind"] for policy in policies}
    assert kinds[CONTROLLER] == "controller"
    assert "other" not in kinds.values()
    assert set(data[0]["runs"][0]["headline"]) > {"always large", "cascades", "static mixtures"}


def test_groups_add_up_to_the_evaluation(data):
    (run,), comparison = data[0]["runs"], data[1]
    played, questions = comparison.played[CONTROLLER], sum(g["questions"] for g in run["groups"])
    assert run["actions"] == ["STOP", "SAMPLE", "REVISE", "ESCALATE", "ESCALATE(end)"]
    for i in range(3):
        accuracy = sum(g["questions"] * g["accuracy"][i] for g in run["groups"]) / questions
        assert accuracy == pytest.approx(played[i].right.mean(), abs=1e-3)


def test_segments_of_an_episode_are_told_with_text_and_logprobs(data):
    content = data[0]
    episodes = [e for by_price in content["episodes"][0] for e in by_price]
    brought = Counter()
    for episode in episodes:
        for decision in episode["decisions"]:
            brought[decision["action"]] += 1
            assert len(decision["attempts"]) == (decision["action"] != "STOP")
        assert episode["decisions"][-1]["leader"] == episode["answer"]
    assert brought["REVISE"] > 0
    used = {made for e in episodes for d in e["decisions"] for made in d["attempts"]}
    assert used == set(range(len(content["attempts"])))
    assert all(s["min_logprob"] <= 0 and s["completion_tokens"] for s in content["attempts"])
    assert any(s["text"].strip() for s in content["attempts"])


def test_the_curve_of_its_training_is_there(data, redoing):
    (curve,) = data[0]["runs"][0]["curves"]
    lines = read_curve(redoing / "training" / CURVE)
    assert curve["steps"] == [line["global_step"] for line in lines]
    assert curve["metrics"]["validation/utility"][-1] is not None


@pytest.fixture(scope="module")
def mixed(traces, tmp_path_factory):
    """Runs of whole attempts and inside attempts at the same questions, in opposite orders."""
    base, few = tmp_path_factory.mktemp("mixed"), some(traces, 15)
    trees = SegmentTraces.read(CHECKPOINTS / "segments" / "traces")
    questions = trees.questions.filter(
        pc.is_in(trees.questions["question_id"], few.questions["question_id"].combine_chunks())
    )
    trees = replace(trees, questions=questions.take(list(reversed(range(len(questions))))))
    whole = Other(
        checkpoints=[load_checkpoint(CHECKPOINTS / "controller")],
        table=build_table(few, ["test"]),
    )
    checkpoint = load_segment_checkpoint(CHECKPOINTS / "segments" / "controller")
    _, attempts = evaluate(few, base / "whole")
    inside = evaluate_inside(checkpoint, trees, base / "inside", {ATTEMPTS: whole})
    return [base / "whole", base / "inside"], attempts, inside


def test_both_granularities_are_compared_question_by_question(mixed):
    runs, attempts, inside = mixed
    data = report_data(read_runs(runs), num_questions=10)
    (theirs,) = (p for p in data["policies"] if p["kind"] == "controller" and p["run"] == 1)
    for i, price in enumerate(data["prices"]):
        ours = attempts.played["controller"][i].utility(price)
        lead = ours - inside.played[CONTROLLER][i].utility(price)[::-1]
        assert theirs["lead"][i][0] == pytest.approx(lead.mean(), abs=1e-4)
        assert theirs["lead"][i][2] - theirs["lead"][i][1] == pytest.approx(
            2 * 1.96 * lead.std() / np.sqrt(len(lead)), rel=0.2
        )
    for question, whole, segments in zip(data["questions"], *data["episodes"], strict=True):
        assert question["question"]
        for run, episodes in enumerate((whole, segments)):
            size = len(data["runs"][run]["features"])
            assert all(len(d["observation"]) == size for e in episodes for d in e["decisions"])


def test_other_controllers_are_shown_and_are_no_rules(mixed):
    data = report_data(read_runs(mixed[0][1:]), num_questions=1)
    kinds = {policy["name"]: policy["kind"] for policy in data["policies"]}
    assert kinds[ATTEMPTS] == "whole"
    assert ATTEMPTS not in {best["name"] for best in data["runs"][0]["best_rule"]}
    assert ATTEMPTS in data["runs"][0]["headline"]


def test_runs_that_do_not_fit_say_how_they_would(mixed, redoing, trees, tmp_path):
    evaluate_inside(load_segment_checkpoint(redoing), trees, tmp_path)
    with pytest.raises(EvaluationError, match="0 of these questions") as error:
        read_runs([mixed[0][0], tmp_path])
    assert '--beside "NAME=' in str(error.value)
