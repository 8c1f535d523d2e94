"""Controllers whose costs are in different units are compared in one, or not at all."""

from dataclasses import replace

import numpy as np
import pytest

from controller.checkpoint import load_checkpoint
from controller.errors import ConfigError
from envs.traces.recorded import read_recorded
from tests.conftest import CHECKPOINTS
from training.compare.evaluate import Other
from training.compare.simulate import play_checkpoint

PRICE = 1e-3


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint(CHECKPOINTS / "controller")


def counting(checkpoint, name="small", parameters=1e6, **unit):
    """The same controller, its ledger in another unit."""
    cost = replace(checkpoint.config.cost, **unit)
    first = replace(checkpoint.models[0], name=name, parameters=parameters)
    return replace(
        checkpoint,
        config=replace(checkpoint.config, cost=cost),
        models=(first, *checkpoint.models[1:]),
    )


def test_costs_are_told_in_the_unit_of_the_first_controller(checkpoint, traces):
    table = read_recorded(traces, ["test"]).table
    ours, theirs = counting(checkpoint, seconds=2e-3), counting(checkpoint, seconds=6e-3)
    other = Other(checkpoints=[theirs], table=table)
    unit = other.unit(ours)
    assert unit == pytest.approx(3)
    played = other.play(table.question_ids, PRICE, 2, unit)
    alone = play_checkpoint(theirs, table, 3 * PRICE, repeats=2)
    assert (played.right == alone.right).all()
    assert np.allclose(played.cost, 3 * alone.cost)
    assert np.allclose(played.utility(PRICE), alone.utility(3 * PRICE))


def test_units_are_those_of_the_first_models(checkpoint):
    ours = counting(checkpoint)
    larger = counting(checkpoint, name="medium", parameters=4e6)
    unknown = counting(checkpoint, name="hosted", parameters=None)
    dollars, seconds = counting(checkpoint, dollars=0.2), counting(checkpoint, seconds=0.2)
    assert Other(checkpoints=[larger], table=None).unit(ours) == 4
    assert Other(checkpoints=[counting(checkpoint, parameters=4e6)], table=None).unit(ours) == 4
    assert Other(checkpoints=[ours], table=None).unit(larger) == 0.25
    assert Other(checkpoints=[unknown], table=None).unit(unknown) == 1
    for stranger, found in ((unknown, "tokens of hosted"), (dollars, "dollars")):
        with pytest.raises(ConfigError, match=f"one currency.*tokens of small and {found}"):
            Other(checkpoints=[stranger], table=None).unit(ours)
    with pytest.raises(ConfigError, match=r"one currency.*found seconds and dollars"):
        Other(checkpoints=[dollars], table=None).unit(seconds)


def test_controllers_that_are_pooled_count_alike(checkpoint):
    both = Other(
        checkpoints=[counting(checkpoint, dollars=2e-7), counting(checkpoint, dollars=6e-7)],
        table=None,
    )
    with pytest.raises(ConfigError, match="one unit of cost, found units of 1, 3"):
        both.unit(counting(checkpoint, dollars=2e-7))
