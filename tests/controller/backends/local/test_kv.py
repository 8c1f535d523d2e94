"""Batches of token sequences."""

import torch

from controller.backends.local.adapters import load_adapters
from controller.backends.local.kv import (
    BASE,
    MAX_PADDING_RATIO,
    MAX_TOKENS,
    batches_by_length,
    forward,
    padded,
)
from controller.backends.local.model import load_model
from controller.backends.prompts import REVISER, VERIFIER
from tests.conftest import CHECKPOINTS


def test_batches_hold_every_sequence_once_with_little_padding():
    lengths = [3, 100, 4, 90, 1, 3]
    batches = list(batches_by_length(lengths))
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    for batch in batches:
        own = [lengths[i] for i in batch]
        assert max(own) <= MAX_PADDING_RATIO * min(own)


def test_no_batch_is_larger_than_what_goes_through_at_once():
    batches = list(batches_by_length([MAX_TOKENS // 2] * 3))
    assert [len(batch) for batch in batches] == [2, 1]


def test_padding_is_on_the_right_and_masked():
    inputs, lengths = padded([(5, 6, 7), (8,)], torch.device("cpu"))
    assert lengths.tolist() == [3, 1]
    assert inputs["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2], [0, 1, 2]]


@torch.inference_mode()
def test_a_row_goes_through_its_adapter_whatever_the_others_go_through():
    paths = {name: CHECKPOINTS / name for name in (REVISER, VERIFIER)}
    model = load_adapters(load_model(CHECKPOINTS / "small", 0), paths).model
    tokens = {"input_ids": torch.tensor([[5, 6, 7]] * 3)}
    mixed = forward(model, [REVISER, BASE, VERIFIER], **tokens).logits
    for row, name in enumerate((REVISER, BASE, VERIFIER)):
        alone = forward(model, [name] * 3, **tokens).logits
        assert torch.allclose(alone, mixed[row], atol=1e-5)
    assert not torch.allclose(mixed[0], mixed[1], atol=1e-2)
    assert not torch.allclose(mixed[0], mixed[2], atol=1e-2)
