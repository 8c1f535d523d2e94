"""An arm that judges attempts: recorded, learnt from and asked live, by the bundled models."""

import asyncio
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from controller.backends.base import Request, run_now
from controller.backends.places import ModelPlace
from controller.checkpoint import load_checkpoint
from controller.errors import ConfigError
from controller.loading import load_backend
from controller.loop import Controller
from controller.policy.deciders import RuleDecider
from controller.policy.rules import RulePolicy, VerifiedBestOfN
from controller.process.actions import ActionKind
from controller.process.episodes import calibrated
from controller.process.types import Question
from controller.server.engine import Engine, RequestTerms
from controller.server.variants import Variants
from envs.compute import ComputeEnv
from envs.traces.format import TraceSet
from envs.traces.recorded import read_recorded
from tests.conftest import CHECKPOINTS
from tests.controller.server.conftest import variant
from tests.controller.server.test_engine import Recordings
from training.cli.traces import the_verifier
from training.compare.models import model_table
from training.learn.config import PPOConfig, TrainConfig
from training.learn.train import ControllerTraining
from training.record.settings import RecordConfig
from training.record.sources import find_source, record_models
from training.report.show import new_questions

QUESTION = Question(question_id="q", text="What is 23 + 48?")
SMALL, LARGE = (CHECKPOINTS / name for name in ("small", "large"))


def record(splits, out, *judges):
    named = {"small": f"small={SMALL},tier=small", "large": f"large={LARGE},tier=large"}
    places = [place + ",verifies=true" * (name in judges) for name, place in named.items()]
    verifier = [*named].index(judges[0]) if judges else None
    config = RecordConfig(samples=2, escalations=1, verifier=verifier)
    record_models(splits, find_source(places), out, config)
    return pq.read_table(out / "attempts.parquet")


@pytest.fixture(scope="module")
def splits():
    drawn = new_questions(30, seed=5)
    return {"train": drawn[:16], "validation": drawn[16:22], "test": drawn[22:]}


@pytest.fixture(scope="module")
def live(tmp_path_factory, splits):
    """Directory with a set that was judged afterwards, and a controller of it."""
    out = tmp_path_factory.mktemp("verifying")
    before = record(splits, out / "traces")
    after = record(splits, out / "traces", "large")
    scores = ["verifier_score", "verifier_tokens"]
    assert before.drop(scores).equals(after.drop(scores)), "attempts are not made again"
    config = TrainConfig(ppo=PPOConfig(total_steps=64 * 16, num_envs=64, num_steps=16))
    ControllerTraining(TraceSet.read(out / "traces"), config, out / "run").run()
    return out


def test_every_attempt_with_a_text_is_judged_and_what_that_took_is_noted(live):
    traces = TraceSet.read(live / "traces")
    assert traces.verifier == "large"
    for row in traces.attempts.to_pylist():
        assert (row["verifier_score"] is not None) == bool(row["text"])
        if row["text"]:
            beside = row["verifier_tokens"] - row["prompt_tokens"] - row["completion_tokens"]
            assert 30 < beside < 120, "the question whether it is right, letter by letter"


def test_another_judge_or_an_adapter_beside_one_is_refused(live, splits):
    for judges in ((), ("small",)):
        with pytest.raises(ConfigError, match="asked for another verifies"):
            record(splits, live / "traces", *judges)
    one = ModelPlace.parse(f"small={SMALL},tier=small,verifies=true")
    assert the_verifier([replace(one, verifies=False), one], None) == 1
    for places, adapter in (([one, one], None), ([one], CHECKPOINTS / "verifier")):
        with pytest.raises(ConfigError, match="expected one verifier, an arm or"):
            the_verifier(places, adapter)


def test_scores_are_calibrated_on_what_is_learnt_from(live):
    traces = TraceSet.read(live / "traces")
    process = load_checkpoint(live / "run").config
    assert [arm.verifies for arm in process.arms] == [False, True]
    assert len(process.verifier_calibration) == 3
    small, large = model_table(traces, "train")["verifier"]
    assert (small["attempts by"], large["attempts by"]) == ("small", "large")
    assert small["calibration error"] < small["as said"]


def test_it_is_asked_live_as_it_was_recorded(live):
    """What it says of a recorded attempt is what was recorded; its tokens are its own."""
    traces, checkpoint = TraceSet.read(live / "traces"), load_checkpoint(live / "run")
    recorded = read_recorded(traces, ["test"])
    backend = load_backend(checkpoint)
    for question in recorded.questions[:3]:
        (attempt,) = run_now(
            recorded.backend.attempts([Request(question=question, action=ActionKind.SAMPLE)])
        )
        assert backend.can_verify(attempt)
        verdict = run_now(backend.verify([(question, attempt)]))
        assert verdict.scores == pytest.approx([attempt.verifier_score], abs=1e-4)
        assert verdict.usage.verifier_tokens == attempt.verifier_tokens
    controller = Controller(replace(checkpoint, support=None), backend)
    rule = RulePolicy(VerifiedBestOfN(2))
    controller.decider = RuleDecider(rule, "rule", controller.decider)
    outcome = controller.answer(QUESTION, price=1e-5)
    assert [str(d.action) for d in outcome.decisions] == ["SAMPLE", "SAMPLE", "VERIFY", "STOP"]
    assert outcome.usage["large"].verifier_tokens > 0
    assert outcome.usage["small"].verifier_tokens == 0
    process, made = checkpoint.config, [a for d in outcome.decisions for a in d.attempts]
    said = np.array(run_now(backend.verify([(QUESTION, attempt) for attempt in made])).scores)
    meant = calibrated(process.verifier_calibration, said, np.zeros(2, np.int64))
    seen = outcome.decisions[-1].observation
    assert seen["mean_verifier"] == pytest.approx(meant.mean(), abs=1e-3)
    tokens = 2 * (made[0].prompt_tokens + process.verification_overhead)
    tokens += sum(attempt.completion_tokens for attempt in made)
    before, after = (decision.cost for decision in outcome.decisions[-2:])
    assert after - before == pytest.approx(process.cost.weights[1] * tokens)


def test_service_loop_and_environment_verify_alike_bit_for_bit(live):
    checkpoint = replace(load_checkpoint(live / "run"), support=None, floor=None)
    wishes = [{"VERIFY": 50.0, "SAMPLE": 20.0}.get(n, 0.0) for n in checkpoint.config.actions.names]
    checkpoint.policy.actor[-1].bias.data += torch.tensor(wishes)
    recorded = read_recorded(TraceSet.read(live / "traces"), ["test"])
    loop, asked = Controller(checkpoint, recorded.backend), recorded.questions[:4]
    answered = [loop.answer(question, price=1e-4) for question in asked]

    async def served():
        backend = Recordings(recorded.backend, recorded.questions)
        engine = Engine(Variants([variant(checkpoint, backend, fallback=None)]), backend)
        terms = RequestTerms(price=1e-4, give_up=True)
        try:
            return [await engine.answer(question, terms) for question in asked]
        finally:
            await backend.close()

    env = ComputeEnv(
        recorded.questions,
        recorded.backend,
        checkpoint.config,
        recorded.grader,
        difficulty=checkpoint.difficulty,
        permute=False,
    )
    for i, (one, other) in enumerate(zip(answered, asyncio.run(served()), strict=True)):
        assert "VERIFY" in [str(decision.action) for decision in one.decisions]
        assert (one.answer, one.cost) == (other.answer, other.cost)
        assert [d.observation for d in one.decisions] == [d.observation for d in other.decisions]
        options = {"question": i, "price": 1e-4, "round_price": 0.0, "budget": np.inf}
        seen, _ = env.reset(seed=0, options=options)
        for decision in one.decisions:
            np.testing.assert_array_equal(seen, np.float32(list(decision.observation.values())))
            seen, *_, info = env.step(checkpoint.config.actions.index(decision.action))
        assert (info["answer"], info["cost"]) == (one.answer, one.cost)
