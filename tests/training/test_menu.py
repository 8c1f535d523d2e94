"""Live arms of the bundled models: recorded, trained on, answered by, also when one is missing."""

import json
from collections import Counter

import pytest
import yaml

from controller.checkpoint import load_checkpoint
from controller.errors import ConfigError
from controller.loop import Controller
from controller.policy.deciders import RuleDecider
from controller.policy.rules import On, ReviseN, RulePolicy
from controller.process.types import Question
from envs.traces.format import TraceSet
from tests.conftest import CHECKPOINTS

SMALL, LARGE = (str(CHECKPOINTS / name) for name in ("small", "large"))
ARMS = [
    {"name": "greedy", "model": SMALL, "tier": "small", "body": {"temperature": 0}}
    | {"revises": True},
    {"name": "sampled", "model": SMALL, "tier": "small", "body": {"temperature": 0.8}},
    {"name": "large", "model": LARGE, "tier": "large", "revises": True},
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
        *("--reviser", CHECKPOINTS / "reviser", "--out", out / "traces"),
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


def test_arms_revise_what_others_wrote(live):
    rows = TraceSet.read(live / "traces").attempts.to_pylist()
    parents = {(r["question_id"], r["attempt_id"]): r["model"] for r in rows}
    revised = Counter(
        (parents[r["question_id"], r["parent_id"]], r["model"]) for r in rows if r["parent_id"]
    )
    questions = len({row["question_id"] for row in rows})
    names = [arm["name"] for arm in ARMS]
    assert set(revised) == {(arm, by) for arm in names for by in ("greedy", "large")}
    assert set(revised.values()) == {questions}, "the first attempt of each arm, once by each"
    checkpoint = load_checkpoint(live / "run")
    assert {"REVISE(greedy)", "REVISE(large)"} < {*checkpoint.config.actions.names}
    controller = Controller.load(live / "run")
    controller.decider = RuleDecider(
        RulePolicy(On(ReviseN(1), "sampled", "large")), "rule", controller.decider
    )
    outcome = controller.answer(Question(question_id="q", text=QUESTION), price=1e-5)
    (first,), (second,) = (d.attempts for d in outcome.decisions if d.attempts)
    assert (first.model, second.model) == ("sampled", "large")
    assert second.parent_id == first.attempt_id
    shown = outcome.usage["large"]
    assert shown.prefill_tokens > first.prompt_tokens + first.completion_tokens


def test_an_arm_that_never_revised_is_not_asked_to(live):
    arm = f"sampled={SMALL},revises=true"
    with pytest.raises(ConfigError, match="expected revises of arms alone"):
        Controller.load(live / "run", models=[f"greedy={SMALL}", arm])


def test_menus_are_checked_before_anything_is_loaded(tmp_path, allot):
    def refusal(*arguments):
        return allot("record", "--out", tmp_path / "x", *arguments, check=False).stderr

    assert "expected tier=small or tier=large" in refusal("--arm", f"a={SMALL}")
    assert "expected the tier small or large" in refusal("--arm", f"a={SMALL},tier=middle")
    twice = [f"a={SMALL},tier=small", f"a={LARGE},tier=large"]
    assert "expected distinct names" in refusal("--arm", twice[0], "--arm", twice[1])
    body = f'a={SMALL},tier=small,body={{"top_k": 3}}'
    assert "expected no fields but temperature" in refusal("--arm", body)
    assert "revises to be true or false" in refusal("--arm", f"a={SMALL},tier=small,revises=1")
    others = [f"a={SMALL},tier=small", f"b={SMALL},tier=small,revises=true"]
    adapter = ("--reviser", CHECKPOINTS / "reviser")
    told = refusal("--arm", others[0], "--arm", others[1], *adapter)
    assert "expected the first arm, a, to be one that revises" in told
    assert "expected at least one of the small tier" in refusal("--arm", f"a={LARGE},tier=large")
    (tmp_path / "menu.yaml").write_text(json.dumps({"arms": [{"name": "a"}]}))
    assert "expected arms with name, model" in refusal("--menu", tmp_path / "menu.yaml")
