"""From what a verifier thinks of an attempt to the probability that it is right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ScoreHead:
    """From what a verifier thinks of an attempt's tokens to the probability that it is right.

    What the writer itself thought of them is known for free and takes part where it is known.

    Attributes:
        calibration: (2, 7): what the features of `score_features` are multiplied by; first
            where the writer's log-probabilities are known, then where not.
    """

    calibration: Tensor

    def probability(self, judged: Tensor, logprobs: Tensor) -> Tensor:
        """From the verifier's sum and least and the writer's mean and least, (B, 2) each, (B,).

        What the writer thought is NaN where it is not known.
        """
        unknown = logprobs.isnan().any(1)  # (B,)
        features = score_features(judged, torch.where(unknown[:, None], 0.0, logprobs))
        return torch.sigmoid((features * self.calibration[unknown.long()]).sum(1))


def score_features(judged: Tensor, logprobs: Tensor) -> Tensor:
    """What a score is calibrated on, (B, 7).

    The verifier's sum and least log-probability, both as probabilities, which tell good
    attempts apart where logarithms tell bad ones, the writer's mean and least, and 1.

    Args:
        judged: (B, 2) sum and least by the verifier.
        logprobs: (B, 2) mean and least by the writer.
    """
    return torch.cat((judged, judged.exp(), logprobs, torch.ones_like(judged[:, :1])), 1)
