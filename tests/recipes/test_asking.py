"""A real language model is asked what to do."""

from dataclasses import replace

import numpy as np
import pytest

from controller.errors import BackendError
from recipes.asking import AskedPolicy
from training.compare.simulate import play


def test_decides_within_the_mask_and_pays_for_what_it_reads(validation, config, traces):
    table = validation.table.take(np.arange(3))
    config = replace(config, max_samples=2, max_escalations=1, max_revisions=0)
    policy = AskedPolicy("checkpoints/small", traces.models()[0])
    played = play(policy, table, config, price=1e-3, repeats=1)
    attempts = played.actions[:, :3].sum(1)
    assert (attempts <= 3).all()
    # One prompt of more than a hundred tokens before every action.
    assert (played.tokens >= 100 * (attempts + 1)).all()


def test_a_missing_model_is_named(traces):
    with pytest.raises(BackendError, match="nowhere"):
        AskedPolicy("./nowhere", traces.models()[0])
