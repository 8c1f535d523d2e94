"""Forward passes over sequences of tokens: in batches with little padding, row by row adapted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

BASE = "__base__"
"""What peft calls the model without an adapter."""
MAX_TOKENS = 8192
"""Tokens, with padding, that go through a model at once."""
MAX_PADDING_RATIO = 1.25
"""Longest sequence of a batch relative to its shortest."""


def forward(model: Any, adapters: Sequence[str], **inputs: Any) -> Any:
    """One forward pass, each row through its own adapter."""
    if not getattr(model, "peft_config", None):
        return model(**inputs)
    return model(**inputs, adapter_names=list(adapters))


def batches_by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Cut sequences into batches of about equal lengths; yields their positions."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (
            lengths[i] > MAX_PADDING_RATIO * lengths[batch[0]]
            or lengths[i] * (len(batch) + 1) > MAX_TOKENS
        ):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def padded(
    texts: Sequence[tuple[int, ...]], device: torch.device
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs of a forward pass over B sequences, padded on the right, and their lengths (B,)."""
    lengths = torch.tensor([len(tokens) for tokens in texts])  # (B,)
    columns = torch.arange(int(lengths.max()))  # (L,)
    mask = (columns < lengths[:, None]).long()  # (B, L)
    ids = torch.zeros_like(mask)  # (B, L)
    for row, tokens in enumerate(texts):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    positions = columns.expand_as(ids)  # (B, L)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return {name: tensor.to(device) for name, tensor in inputs.items()}, lengths.to(device)
