"""Quick on a processor: the fastest numbers, and weights laid out as they are read fastest.

A few rows times a large matrix takes as long as the matrix takes to read. A plain product
rearranges the matrix each time; `pack_linears` does it once and lets the plain one go.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_ROWS, _SIZE, _REPEATS = 8, 1536, 5
LEAST_WEIGHTS = 2**18
"""Smaller layers stay as they are: they lie in the processor's cache."""


def fast_dtype(stored: torch.dtype) -> torch.dtype:
    """The type to compute with on this processor: as stored, or float32 where that is faster.

    Halves become float32 without loss. A processor without units for them is several times
    slower with them, one that has such units several times faster.
    """
    if stored.itemsize >= torch.float32.itemsize or _matmul_s(stored) < _matmul_s(torch.float32):
        return stored
    return torch.float32


@cache
def _matmul_s(dtype: torch.dtype) -> float:
    """Least time of a small matrix product; measured, since flags do not tell what is fast."""
    rows, weights = torch.ones(_ROWS, _SIZE, dtype=dtype), torch.ones(_SIZE, _SIZE, dtype=dtype)
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        torch.nn.functional.linear(rows, weights)
        times.append(time.perf_counter() - started)
    return min(times)


class PackedLinear(nn.Linear):
    """A linear layer that keeps nothing but its packed weights, and unpacks them on demand."""

    _packed: torch.Tensor

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """A plain copy of the weights, (O, I)."""
        return self._packed.to_dense()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight

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
