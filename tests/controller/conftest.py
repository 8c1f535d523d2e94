"""A decision process small enough to follow by hand."""

import pytest

from controller.process.cost import CostModel
from controller.process.episodes import EpisodeConfig


@pytest.fixture
def process():
    """Small attempts of 10 tokens, large ones of 20 at ten times the cost a token."""
    return EpisodeConfig(
        cost=CostModel(weights=(1.0, 10.0)),
        vote_weights=(1, 3),
        mean_completion_tokens=(10.0, 20.0),
        max_completion_tokens=(32, 64),
        cost_unit=20.0,
        sample_widths=(1, 2),
        max_samples=4,
        max_revisions=0,
    )
