"""One token per row from a model's logits and a random number."""

from __future__ import annotations

import torch


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
        cumulative = tempered.exp().cumsum(-1, dtype=torch.float64)  # (N, V)
        points = draws * cumulative[:, -1]  # (N,)
        tokens = torch.searchsorted(cumulative, points[:, None], right=True)[:, 0]
        tokens = tokens.clamp_(max=logits.shape[-1] - 1)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]
