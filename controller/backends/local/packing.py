"""Linear layers whose weights lie as a processor reads them fastest.

A few rows times a large matrix takes as long as the matrix takes to read. A plain product
rearranges the matrix each time; here that is done once, and the plain one is let go.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

LEAST_WEIGHTS = 2**18
"""Smaller layers stay as they are: they lie in the processor's cache."""


class PackedLinear(nn.Linear):
    """A linear layer that keeps nothing but its packed weights, and unpacks them on demand."""

    _packed: torch.Tensor

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """A plain copy of the weights, (O, I)."""
        return self._packed.to_dense()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """From (..., I) to (..., O); where gradients are wanted, by the plain weights."""
        if torch.is_grad_enabled():
            return functional.linear(input, self.weight, self.bias)
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            input, self._packed, self.bias, "none", [], ""
        )
        return product


def pack_linears(model: nn.Module) -> None:
    """Pack the large linear layers of a model, those on a processor, in place."""
    if not torch._C._has_mkldnn:
        return
    for module in model.modules():
        if type(module) is nn.Linear and _gains(module.weight):
            packed = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach())
            del module._parameters["weight"]
            module.__class__ = PackedLinear
            module._packed = packed


def _gains(weight: torch.Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.numel() >= LEAST_WEIGHTS
        and (
            weight.dtype == torch.float32
            or (weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        )
    )
