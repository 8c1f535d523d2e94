"""What a report says is what was evaluated."""

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
import torch

from controller.checkpoint import load_checkpoint
from controller.errors import EvaluationError
from envs.traces.recorded import read_recorded
from envs.traces.table import build_table
from tests.conftest import CHECKPOINTS
from training.compare.evaluate import compare
from training.compare.evaluation import About, save_evaluation
from training.compare.summary import summarise
from training.learn.resume import CURVE, Curve
from training.report.page import MAX_TEXT, read_runs, render, report_data


def some(traces, every):
    ids = traces.questions["question_id"].take(list(range(0, len(traces.questions), every)))
    return replace(
        traces,
        questions=traces.questions.filter(pc.is_in(traces.questions["question_id"], ids)),
        stored=ds.dataset(traces.attempts.filter(pc.is_in(traces.attempts["question_id"], ids))),
    )


def evaluate(traces, run, seed=0):
    """A run of the bundled controller, its weights disturbed a little unless the seed is 0."""
    checkpoint = load_checkpoint(CHECKPOINTS / "controller")
    generator = torch.Generator().manual_seed(seed)
    for parameter in checkpoint.policy.parameters() if seed else ():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    test = read_recorded(traces, ["test"])
    tuning = build_table(traces, ["train", "validation"])
    comparison = compare([checkpoint], tuning, test.table, num_prices=3, repeats=2)
    return save_evaluation(
        run,
        About(controllers=("c",), traces="t", traces_digest=None, models=(), repeats=2),
        summarise(comparison, test.questions),
        checkpoint=checkpoint,
        recorded=test,
        played=comparison.played["controller"],
    ), comparison


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def comparisons(traces, base):
    few = some(traces, 30)
    return [evaluate(few, base / name, seed)[1] for seed, name in enumerate(("one", "two"))]


@pytest.fixture(scope="module")
def data(base, comparisons):
    return report_data(read_runs([base / "one", base / "two"]), num_questions=10)


def test_leads_over_another_run_are_paired_differences(data, comparisons):
    first, second = (policy for policy in data["policies"] if policy["kind"] == "controller")
    assert first["lead"] is None
    for i, price in enumerate(data["prices"]):
        ours, theirs = (c.played["controller"][i].utility(price) for c in comparisons)
        lead, low, high = second["lead"][i]
        assert lead == pytest.approx((ours - theirs).mean(), abs=1e-4)
        assert low <= lead <= high
        apart = [policy["utility"][i][2] - policy["utility"][i][1] for policy in (first, second)]
        assert high - low < np.hypot(*apart), "not paired"


def test_rules_are_shown_once_if_runs_agree(data, comparisons):
    names = [policy["name"] for policy in data["policies"] if policy["kind"] != "controller"]
    assert sorted(names) == sorted(
        {*comparisons[0].played, *comparisons[0].oracles} - {"controller"}
    )
    kinds = {policy["name"]: policy["kind"] for policy in data["policies"]}
    assert kinds["informed oracle"] == kinds["clairvoyant oracle"] == "oracle"
    assert kinds["kNN router"] == "prompt"
    assert kinds["self-consistency-16"] == kinds["give up"] == "static"
    assert kinds["verified best of n"] == kinds["verified best of 16"] == "verify"
    assert "other" not in kinds.values()


def test_groups_add_up_to_the_evaluation(data, comparisons):
    groups, played = data["runs"][0]["groups"], comparisons[0].played["controller"]
    counts = Counter(f"level {level}" for level in comparisons[0].levels.tolist())
    assert {group["name"]: group["questions"] for group in groups} == counts
    for i in range(len(data["prices"])):
        accuracy = sum(g["questions"] * g["accuracy"][i] for g in groups) / counts.total()
        assert accuracy == pytest.approx(played[i].right.mean(), abs=1e-3)


def test_actions_of_groups_are_those_of_the_episodes(base, comparisons):
    (run,) = runs = read_runs([base / "one"])
    everything = report_data(runs, num_questions=10**6)
    assert len(everything["questions"]) == len(run.question_ids)
    for group in everything["runs"][0]["groups"]:
        members = [i for i, q in enumerate(everything["questions"]) if q["group"] == group["name"]]
        for price in range(len(everything["prices"])):
            episodes = [everything["episodes"][0][i][price]["decisions"] for i in members]
            taken = Counter(d["action"] for episode in episodes for d in episode)
            for action, mean in group["actions"].items():
                assert mean[price] == pytest.approx(taken[action] / len(members), abs=1e-4)
            given_up = np.mean([episode[0]["action"] == "STOP" for episode in episodes])
            assert group["given_up"][price] == pytest.approx(given_up, abs=1e-4)


def test_questions_are_drawn_evenly(data):
    drawn = Counter(question["group"] for question in data["questions"])
    assert drawn.total() == 10
    assert set(drawn.values()) == {2}


def test_long_texts_are_cut_and_that_is_said(traces, base, tmp_path):
    few = some(traces, 120)
    texts = [(text or "") + "x" * MAX_TEXT for text in few.attempts["text"].to_pylist()]
    place = few.attempts.column_names.index("text")
    longer = few.attempts.set_column(place, "text", [texts])
    evaluate(replace(few, stored=ds.dataset(longer)), tmp_path)
    data = report_data(read_runs([tmp_path]), num_questions=5)
    assert all("more characters)" in attempt["text"][MAX_TEXT:] for attempt in data["attempts"])
    assert max(len(attempt["text"]) for attempt in data["attempts"]) < MAX_TEXT + 40


def test_curves_of_a_run_or_its_seeds_keep_their_checks(base, comparisons, tmp_path):
    shutil.copytree(base / "one", tmp_path / "run")
    for seed in (0, 1):
        curve = Curve(tmp_path / "run" / f"seed-{seed}" / "training" / CURVE, 0)
        for update in range(1000):
            check = {"validation/utility": update / 1000} if update % 50 == 49 else {}
            curve.add(update, {"episodic/utility": 0.5, **check})
    curves = report_data(read_runs([tmp_path / "run"]), 1)["runs"][0]["curves"]
    assert [curve["name"] for curve in curves] == ["seed-0", "seed-1"]
    assert len(curves[0]["steps"]) < 400
    checks = [value for value in curves[0]["metrics"]["validation/utility"] if value is not None]
    assert checks == [pytest.approx((50 * i - 1) / 1000) for i in range(1, 21)]


def test_runs_on_other_questions_are_refused(traces, base, comparisons, tmp_path):
    evaluate(some(traces, 120), tmp_path)
    with pytest.raises(EvaluationError, match=r"expected the \d+ test questions"):
        read_runs([base / "one", tmp_path])


def test_markup_in_texts_stays_text(data):
    page = render({**data, "questions": [{"question": "</script><!--<script>&\u2028"}]})
    assert page.count("</script") == 3
    assert "<!--<script>" not in page
    assert "\\u003c/script\\u003e\\u003c!--\\u003cscript\\u003e\\u0026" in page
