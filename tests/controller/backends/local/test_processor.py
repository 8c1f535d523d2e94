"""Packed weights are the same weights, and long vocabularies the same draws."""

import pytest
import torch
from torch import nn

from controller.backends.local.jobs import BLOCK, choose_tokens
from controller.backends.local.processor import LEAST_WEIGHTS, PackedLinear, pack_linears


def layers(dtype):
    torch.manual_seed(0)
    large, small = nn.Linear(512, LEAST_WEIGHTS // 512), nn.Linear(512, 8)
    return nn.ModuleDict({"large": large, "small": small}).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
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
