"""Live arms of the bundled models: recorded, trained on, answered by, also when one is missing."""

import json

import pytest
import yaml

from controller.checkpoint import load_checkpoint
from controller.loop import Controller
from controller.process.types import Question
from envs.traces.format import TraceSet
from tests.conftest import CHECKPOINTS

SMALL, LARGE = (str(CHECKPOINTS / name) for name in ("small", "large"))
ARMS = [
    {"name": "greedy", "model": SMALL, "tier": "small", "body": {"temperature": 0}},
    {"name": "sampled", "model": SMALL, "tier": "small", "body": {"temperature": 0.8}},
    {"name": "large", "model": LARGE, "tier": "large"},
    {"name": "large-greedy", "model": LARGE, "tier": "large", "body": {"temperature": 0}},
]
QUESTION = "Find the Greatest Common Divisor (GCD) of these numbers: 44, 86."


@pytest.fixture(scope="module")
def live(tmp_path_factory, allot):
    """Directory with a menu's file, a recorded set and a controller of it."""
    out = tmp_path_factory.mktemp("live")
    (out / "menu.yaml").write_text(yaml.safe_dump({"arms": ARMS}))
    allot(
        *("record", "--menu", out / "menu.yaml", "--limit", 24, "--samples", 3),
        *("--reviser", CHECKPOINTS / "reviser", "--revised-samples", 1, "--out", out / "traces"),
    )
    steps = ("--total-steps", 20_000, "--num-envs", 64, "--wandb", "disabled")
    allot("train", "--traces", out / "traces", "--out", out / "run", *steps)
    return out


def test_arms_are_recorded_as_they_are_asked(live):
    traces = TraceSet.read(live / "traces")
    assert [arm.name for arm in traces.arms()] == [arm["name"] for arm in ARMS]
    assert [arm.family for arm in traces.arms()] == ["small", "small", "large", "large"]
    heats = {model.name: model.temperature for model in traces.models()}
    assert (heats["greedy"], heats["sampled"]) == (0, 0.8)
    made = traces.attempts.select(["model", "action"]).to_pylist()
    fresh = made.count({"model": "greedy", "action": "sample"})
    assert fresh == len(traces.questions), "an arm that never varies is asked once"


def test_a_controller_goes_on_without_arms(live):
    checkpoint = load_checkpoint(live / "run")
    assert "SAMPLE(greedy, 4)" not in checkpoint.config.actions.names
    question = Question(question_id="q", text=QUESTION)
    for models in (
        [f"{arm['name']}={arm['model']}" for arm in reversed(ARMS)],
        [f"large={LARGE}", f"greedy={SMALL}"],
    ):
        controller = Controller.load(live / "run", models=models)
        named = {model.partition("=")[0] for model in models}
        for price in (1e-6, 1e-4):
            outcome = controller.answer(question, price=price)
            assert outcome.answer is not None
            assert {a.model for d in outcome.decisions for a in d.attempts} <= named


def test_menus_are_checked_before_anything_is_loaded(tmp_path, allot):
    def refusal(*arguments):
        return allot("record", "--out", tmp_path / "x", *arguments, check=False).stderr

    assert "expected tier=small or tier=large" in refusal("--arm", f"a={SMALL}")
    assert "expected the tier small or large" in refusal("--arm", f"a={SMALL},tier=middle")
    twice = [f"a={SMALL},tier=small", f"a={LARGE},tier=large"]
    assert "expected distinct names" in refusal("--arm", twice[0], "--arm", twice[1])
    body = f'a={SMALL},tier=small,body={{"top_k": 3}}'
    assert "expected no fields but temperature" in refusal("--arm", body)
    assert "expected at least one of the small tier" in refusal("--arm", f"a={LARGE},tier=large")
    (tmp_path / "menu.yaml").write_text(json.dumps({"arms": [{"name": "a"}]}))
    assert "expected arms with name, model" in refusal("--menu", tmp_path / "menu.yaml")
