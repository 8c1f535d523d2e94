"""A ladder of a model in this process and one behind `transformers serve`."""

import subprocess
import sys
from dataclasses import replace

import pytest

from controller.backends.base import Request, run_now
from controller.backends.ladder import BlockingBackend
from controller.backends.places import Upstream
from controller.checkpoint import load_checkpoint
from controller.errors import CheckpointError, ConfigError
from controller.loading import LadderBuilder, load_backend, model_places
from controller.loop import Controller
from controller.process.actions import ActionKind
from tests.conftest import CHECKPOINTS
from tests.controller.server.test_end_to_end import transformers_serve
from training.report.show import new_questions

QUESTIONS = new_questions(4, seed=2)


@pytest.fixture(scope="module")
def models():
    with transformers_serve("large") as server:
        server.wait()
        yield [str(CHECKPOINTS / "small"), f"{server.url}#{CHECKPOINTS / 'large'}"]


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint(CHECKPOINTS / "controller")


def test_each_rung_is_asked_where_it_is(models, checkpoint):
    samples = [Request(question=q, action=ActionKind.SAMPLE) for q in QUESTIONS]
    large = [replace(r, action=ActionKind.ESCALATE, rung=1) for r in samples]
    mixed = load_backend(checkpoint, models)
    assert isinstance(mixed, BlockingBackend)
    try:
        made = run_now(
            mixed.attempts([r for pair in zip(samples, large, strict=True) for r in pair])
        )
        state = run_now(mixed.prompt_states(QUESTIONS[:1], hidden=True))[0]
    finally:
        run_now(mixed.close())
        run_now(mixed.close())
    alone = load_backend(checkpoint)
    assert [a.text for a in made[::2]] == [a.text for a in run_now(alone.attempts(samples))]
    assert [a.error for a in made] == [None] * len(made)
    assert [a.rung for a in made] == [0, 1] * len(QUESTIONS)
    expected = run_now(alone.prompt_states(QUESTIONS[:1], hidden=True))[0]
    assert (state.hidden == expected.hidden).all()


def test_a_controller_answers_with_them(models, checkpoint):
    controller = Controller.load(checkpoint, models=models)
    outcomes = [controller.answer(question, price=1e-5) for question in QUESTIONS]
    run_now(controller.backend.close())
    assert controller.config.reads_prompt == checkpoint.config.reads_prompt
    assert any(len(outcome.usage) == 2 for outcome in outcomes)


def test_other_weights_and_other_ladders_are_refused(models, checkpoint):
    with pytest.raises(CheckpointError, match="expected small with digest"):
        load_backend(checkpoint, [str(CHECKPOINTS / "large"), models[1]])
    with pytest.raises(ConfigError, match="models: expected 2"):
        load_backend(checkpoint, models[:1])


def test_settings_of_servers_are_refused_without_one(checkpoint):
    upstream = Upstream(upstream_n=False, upstream_silence_s=5.0)
    builder = LadderBuilder(
        checkpoint=checkpoint, other_weights=checkpoint.refuse_weights, upstream=upstream
    )
    with pytest.raises(
        ConfigError, match="upstream_silence_s, upstream_n: expected a model behind"
    ):
        builder.build(model_places(checkpoint.located_models(), checkpoint))


@pytest.mark.parametrize("command", ["answer", "serve"])
def test_commands_say_at_once_that_a_model_is_not_there(command):
    options = ["--small", "nowhere", "--large", "http://127.0.0.1:1/v1#m"]
    program = (
        "import sys; from training.cli.app import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'transformers', 'openai') if m in sys.modules])"
    )
    asked = ["1 + 1"] if command == "answer" else []
    done = subprocess.run(
        [sys.executable, "-c", program, command, *options, *asked], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == "[]\n"
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: model: expected")
