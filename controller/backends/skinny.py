"""Linear layers that are quick for the few rows that are written side by side.

A product of a large matrix with few rows takes as long as the matrix takes to read. In halves on
a processor, the library reads it faster as the left factor than as the right one.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

LEAST_WEIGHTS = 2**18
"""Smaller layers stay as they are: they lie in the processor's cache."""


class SkinnyLinear(nn.Linear):
    """A linear layer that multiplies its weights by its input instead of its input by them."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """From (..., I) to (..., O)."""
        if torch.is_grad_enabled():
            return functional.linear(input, self.weight, self.bias)
        rows = input.reshape(-1, self.in_features)  # (R, I)
        # A single row would go another, slower way.
        columns = (rows if len(rows) > 1 else rows.expand(2, -1)).T  # (I, R or 2)
        if self.bias is None:
            product = torch.mm(self.weight, columns)
        else:
            product = torch.addmm(self.bias[:, None], self.weight, columns)
        turned = product[:, : len(rows)].T  # (R, O)
        return turned.reshape(*input.shape[:-1], self.out_features)


def make_skinny(model: nn.Module) -> None:
    """Turn the large linear layers of a model in halves on a processor into skinny ones."""
    for module in model.modules():
        if (
            type(module) is nn.Linear
            and module.weight.device.type == "cpu"
            and module.weight.itemsize < torch.float32.itemsize
            and module.weight.numel() >= LEAST_WEIGHTS
        ):
            module.__class__ = SkinnyLinear
