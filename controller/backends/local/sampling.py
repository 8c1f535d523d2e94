"""One token per row from a model's logits and a random number."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

BLOCK = 2048
"""Tokens that are summed up together before a draw looks into one of the blocks."""


def choose_tokens(
    logits: torch.Tensor, draws: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token per row, by inverting the cumulative distribution.

    Args:
        logits: (N, V).
        draws: (N,) float64 in [0, 1).
        temperature: 0 takes the likeliest token.

    Returns:
        tokens (N,) and their log-probabilities at temperature 1, in nats, (N,) float32; not
        finite where the logits are not.
    """
    logprobs = logits.float().log_softmax(-1)  # (N, V)
    if temperature == 0:
        tokens = logits.argmax(-1)  # (N,)
    else:
        tempered = logprobs if temperature == 1 else (logprobs / temperature).log_softmax(-1)
        tokens = _invert(tempered.exp(), draws)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def _invert(weights: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Where the cumulative sum of weights (N, V) passes a share (N,) of their total, (N,).

    Long sums go block by block: one block alone is looked into.
    """
    num_tokens = weights.shape[-1]
    if num_tokens <= BLOCK:
        cumulative = weights.cumsum(-1, dtype=torch.float64)  # (N, V)
        points = draws * cumulative[:, -1]  # (N,)
        found = torch.searchsorted(cumulative, points[:, None], right=True)[:, 0]
        return found.clamp_(max=num_tokens - 1)
    blocks = pad(weights, (0, -num_tokens % BLOCK)).view(len(weights), -1, BLOCK)  # (N, K, B)
    sums = blocks.sum(-1, dtype=torch.float64)  # (N, K)
    block = _invert(sums, draws)[:, None]  # (N, 1)
    ends, own = sums.cumsum(-1), sums.gather(-1, block)  # (N, K), (N, 1)
    share = (draws[:, None] * ends[:, -1:] - ends.gather(-1, block) + own) / own  # (N, 1)
    inside = blocks[torch.arange(len(blocks), device=block.device), block[:, 0]]  # (N, B)
    return (block[:, 0] * BLOCK + _invert(inside, share[:, 0])).clamp_(max=num_tokens - 1)
