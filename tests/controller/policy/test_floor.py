"""Who decides at which price."""

import json
from dataclasses import replace

import numpy as np
import pytest

from controller.checkpoint import load_checkpoint, save_checkpoint
from controller.errors import CheckpointError
from controller.loop import Controller
from controller.policy.floor import Floor
from controller.policy.rules import AdaptiveCascade, AlwaysLarge, RulePolicy
from tests.conftest import CHECKPOINTS
from training.compare.simulate import play, play_checkpoint

FLOOR = Floor(
    prices=(1e-6, 1e-4, 1e-2),
    rules=(AlwaysLarge(), None, AdaptiveCascade(0.9, 8)),
    leads=(-0.1, 0.2, -0.01),
)


@pytest.fixture(scope="module")
def floored():
    return replace(load_checkpoint(CHECKPOINTS / "controller"), floor=FLOOR)


def test_a_price_belongs_to_the_nearest_on_a_log_scale():
    prices = np.array([1e-9, 0.9e-5, 1.1e-5, 0.9e-3, 1.1e-3, 1.0])
    assert FLOOR.places(prices).tolist() == [0, 0, 1, 1, 2, 2]
    assert FLOOR.rule_at(2e-4) is None
    assert FLOOR.rule_at(1e-8) == AlwaysLarge()


def test_the_rule_plays_at_its_prices_and_the_policy_elsewhere(floored, validation):
    plain, table = replace(floored, floor=None), validation.table
    for price, rule in zip(FLOOR.prices, FLOOR.rules, strict=True):
        found = play_checkpoint(floored, table, price, repeats=1)
        alone = plain.policy if rule is None else RulePolicy(rule)
        wanted = play(alone, table, floored.config, price=price, repeats=1)
        if rule is None:
            wanted = play_checkpoint(plain, table, price, repeats=1)
        np.testing.assert_array_equal(found.cost, wanted.cost)


def test_live_and_replay_take_the_same_actions(floored, validation):
    controller = Controller(replace(floored, support=None), validation.backend)
    for price, name in ((1e-6, "AlwaysLarge()"), (1e-4, None)):
        outcome = controller.answer(validation.questions[3], price=price)
        assert {decision.floor for decision in outcome.decisions} == {name}
        assert {decision.decided_by for decision in outcome.decisions} == {"policy"}
    large = controller.answer(validation.questions[3], price=1e-6)
    assert str(large.decisions[0].action) == "ESCALATE"


def test_survives_a_checkpoint_and_trusts_nothing_in_it(floored, tmp_path):
    save_checkpoint(floored, tmp_path, "card")
    assert load_checkpoint(tmp_path).floor == FLOOR
    file = tmp_path / "controller.json"
    settings = json.loads(file.read_text())
    for harm in (
        {"rule": "os.system", "n": 1},
        {"rule": "AdaptiveCascade", "threshold": "0.9", "n": 8},
        {"rule": "AdaptiveCascade", "n": 8},
    ):
        entry = {**settings["floor"], "rules": [harm, None, None]}
        file.write_text(json.dumps({**settings, "floor": entry}))
        with pytest.raises(CheckpointError, match="floor: expected one of"):
            load_checkpoint(tmp_path)
    entry = {**settings["floor"], "prices": [1.0]}
    file.write_text(json.dumps({**settings, "floor": entry}))
    with pytest.raises(CheckpointError, match="ascending prices"):
        load_checkpoint(tmp_path)
