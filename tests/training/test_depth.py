"""Depths of one model as arms: the committed recording, a controller of it, live answers."""

from __future__ import annotations

import pytest

from controller.backends.places import read_menu
from controller.checkpoint import load_checkpoint
from controller.loop import Controller
from controller.policy.deciders import RuleDecider
from controller.policy.rules import Panel, RulePolicy
from controller.process.types import Question
from envs.traces.format import TraceSet
from tests.conftest import CHECKPOINTS, ROOT

MENU = ROOT / "recipes" / "depth.yaml"
QUESTION = "Find the Greatest Common Divisor (GCD) of these numbers: 44, 86."


@pytest.fixture(scope="module")
def run(tmp_path_factory, allot):
    """A controller that learnt from the committed recording for a moment."""
    out = tmp_path_factory.mktemp("depth") / "run"
    steps = ("--total-steps", 20_000, "--num-envs", 64, "--wandb", "disabled")
    allot("train", "--traces", CHECKPOINTS / "depth", "--out", out, *steps)
    return out


def test_cost_grows_with_depth_and_weights_do_not(run):
    models, checkpoint = TraceSet.read(CHECKPOINTS / "depth").models(), load_checkpoint(run)
    assert len({model.digest for model in models}) == 1
    first, second, fourth = (model.parameters for model in models)
    assert fourth - first == 3 * (second - first) > 0
    assert checkpoint.config.cost.weights == pytest.approx((1, second / first, fourth / first))
    assert [model.body["num_loops"] for model in checkpoint.models] == [1, 2, 4]


@pytest.mark.parametrize("named", [False, True])
def test_every_depth_answers_live_as_it_was_recorded(run, named):
    """By the menu, and by what the checkpoint knows of it."""
    recorded = TraceSet.read(CHECKPOINTS / "depth")
    rows = recorded.attempts.to_pylist()
    controller = Controller.load(run, models=read_menu(MENU) if named else ())
    learnt, backend = controller.decider, controller.backend
    models = [rung.local.model for rung in backend.rungs]
    assert [model.config.num_loops for model in models] == [1, 2, 4]
    weights = [next(model.parameters()) for model in models]
    assert weights[0] is weights[1] is weights[2]
    for entry in recorded.questions.slice(0, 4).to_pylist():
        question = Question(question_id=entry["question_id"], text=entry["question"])
        for arm in ("depth1", "depth2", "depth4"):
            controller.decider = RuleDecider(RulePolicy(Panel((arm,), 1)), "rule", learnt)
            outcome = controller.answer(question, price=1e-5)
            [attempt] = [a for d in outcome.decisions for a in d.attempts]
            [text] = [
                row["text"]
                for row in rows
                if (row["question_id"], row["model"], row["index"])
                == (question.question_id, arm, attempt.index)
            ]
            assert attempt.text == text


def test_the_command_answers(run, allot):
    found = allot("answer", QUESTION, "--controller", run, "--menu", MENU, "--price", "1e-6")
    assert "depth" in found.stdout
