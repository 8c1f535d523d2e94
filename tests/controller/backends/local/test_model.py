"""A real model in a GGUF file, `ALLOT_REAL_MODEL=FILE`; packed weights; long vocabularies."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from controller.backends.base import Request, run_now
from controller.backends.local.backend import TransformersBackend, load_model
from controller.backends.local.jobs import BLOCK, choose_tokens
from controller.backends.local.model import LEAST_WEIGHTS, PackedLinear, pack_linears
from controller.backends.prompts import messages
from controller.errors import BackendError
from controller.process.actions import ActionKind
from controller.process.types import Question
from tests.conftest import REAL, needs_real_model

QUESTION = Question(question_id="q", text="What is 2 + 3? Reply with the number only.")
REQUESTS = [Request(question=QUESTION, action=ActionKind.SAMPLE, index=i) for i in range(3)]


@pytest.fixture(scope="module")
def local():
    return load_model(REAL[0], 0)


@needs_real_model
def test_name_size_and_digest_are_those_of_the_file(local):
    file = Path(REAL[0])
    assert local.name == file.stem
    assert local.digest == hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    embedding = local.model.get_input_embeddings().weight.numel()
    multiplied = sum(p.numel() for p in local.model.parameters()) - embedding
    head = local.model.get_output_embeddings().weight
    tied = head is local.model.get_input_embeddings().weight
    assert local.parameters == multiplied + (embedding if tied else 0)
    assert local.model.dtype in (torch.bfloat16, torch.float32)


@needs_real_model
def test_the_template_in_the_file_is_used(local):
    text = local.tokenizer.apply_chat_template(
        messages(REQUESTS[0]), add_generation_prompt=True, tokenize=False
    )
    assert QUESTION.text in text != QUESTION.text
    assert local.tokenizer.decode(list(local.encode(REQUESTS[0]))) == text


@needs_real_model
def test_attempts_say_something_and_do_not_depend_on_company(local):
    backend = TransformersBackend([local], max_new_tokens=24)
    together = run_now(backend.attempts(REQUESTS))
    assert all(a.error is None and a.text for a in together)
    assert any("5" in (a.text or "") for a in together)
    again = run_now(TransformersBackend([local], max_new_tokens=24).attempts(REQUESTS))
    assert [a.text for a in again] == [a.text for a in together]
    alone = [
        run_now(TransformersBackend([local], max_new_tokens=24).attempts([r]))[0] for r in REQUESTS
    ]
    assert [a.text for a in alone] == [a.text for a in together]


def test_a_file_that_only_begins_like_one_is_refused(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(16))
    with pytest.raises(BackendError, match=r"broken\.gguf: expected a GGUF file"):
        load_model(tmp_path / "broken.gguf", 0)


def layers(dtype):
    torch.manual_seed(0)
    large, small = nn.Linear(512, LEAST_WEIGHTS // 512), nn.Linear(512, 8)
    return nn.ModuleDict({"large": large, "small": small}).to(dtype)


HALVES = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(
        not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="needs a processor with AVX-512"
    ),
)


@pytest.mark.parametrize("dtype", [torch.float32, HALVES])
def test_large_layers_are_packed_without_loss_and_small_ones_left_alone(dtype):
    model, expected = layers(dtype), layers(dtype)
    pack_linears(model)
    assert [type(model[name]) for name in ("large", "small")] == [PackedLinear, nn.Linear]
    assert torch.equal(model["large"].weight, expected["large"].weight)
    assert not any(p.shape == expected["large"].weight.shape for p in model.parameters())
    rows = torch.randn(3, 1, 512).to(dtype)
    with torch.inference_mode():
        found = model["large"](rows)
        torch.testing.assert_close(found, expected["large"](rows))
        assert all(torch.equal(model["large"](rows[:n]), found[:n]) for n in (1, 2, 3))


def test_gradients_go_through_packed_layers():
    model, expected = layers(torch.float32), layers(torch.float32)
    pack_linears(model)
    first = torch.randn(2, 512, requires_grad=True)
    second = first.detach().clone().requires_grad_()
    model["large"](first).square().sum().backward()
    expected["large"](second).square().sum().backward()
    torch.testing.assert_close(first.grad, second.grad)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_draws_from_long_vocabularies_invert_the_whole_distribution(temperature):
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(64, 3 * BLOCK + 5, generator=generator)
    draws = torch.rand(64, dtype=torch.float64, generator=generator)
    tokens, logprobs = choose_tokens(logits, draws, temperature)
    ends = (logits.double() / temperature).softmax(-1).cumsum(-1).gather(1, tokens[:, None])[:, 0]
    own = (logits.double() / temperature).softmax(-1).gather(1, tokens[:, None])[:, 0]
    assert bool(((ends - own - 1e-6 <= draws) & (draws <= ends + 1e-6)).all())
    expected = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected)


def test_a_packed_model_saves_all_its_weights():
    model, expected = layers(torch.float32), layers(torch.float32)
    pack_linears(model)
    found, wanted = model.state_dict(), expected.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
