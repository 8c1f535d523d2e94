"""Models spread over devices by accelerate write what they write on one."""

import pytest
import torch
from accelerate import dispatch_model

from controller.backends.base import Request, run_now
from controller.backends.local.backend import TransformersBackend, load_model
from controller.errors import BackendError
from controller.process.actions import ActionKind
from controller.process.types import Question
from tests.conftest import CHECKPOINTS

SMALL = CHECKPOINTS / "small"
QUESTION = Question(question_id="q", text="Spell this word backward (example: sun -> nus): planet")


def written(local):
    backend = TransformersBackend([local], max_new_tokens=32, max_rows=3)
    states = run_now(backend.prompt_states([QUESTION], hidden=True))
    requests = [Request(question=QUESTION, action=ActionKind.SAMPLE, index=i) for i in range(5)]
    attempts = run_now(backend.attempts(requests))
    assert not any(attempt.error for attempt in attempts)
    return states[0].hidden.tolist(), [(a.text, a.mean_logprob) for a in attempts]


@pytest.fixture(scope="module")
def plain():
    return written(load_model(SMALL, 0))


def test_placed_by_accelerate(plain):
    local = load_model(SMALL, 0, device_map="auto")
    assert local.digest == load_model(SMALL, 0).digest
    assert written(local) == plain


def test_layers_behind_the_hooks_that_move_inputs_between_devices(plain):
    """With every device the processor, the hooks of a model that is spread out run all the same."""
    local = load_model(SMALL, 0)
    places = {name: "cpu" for name, _ in local.model.named_children()}
    dispatch_model(local.model, places, force_hooks=True)
    assert all(hasattr(child, "_hf_hook") for child in local.model.children())
    assert written(local) == plain


def test_half_precision_by_name():
    local = load_model(SMALL, 0, dtype="bfloat16")
    assert local.model.dtype == torch.bfloat16
    _, attempts = written(local)
    assert all(text for text, _ in attempts)


def test_layers_that_fit_nowhere_are_refused():
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu"}
    places |= {"lm_head": "cpu", "model.layers": "meta"}
    with pytest.raises(BackendError, match="fit on the devices"):
        load_model(SMALL, 0, device_map=places)
