"""Nothing is lost, and no budget broken, while workers and the store are killed."""

import pytest

from benchmarks.soak import Soak, soak
from tests.conftest import CHECKPOINTS
from tests.controller.server.test_shared import needs_store


@needs_store
@pytest.mark.parametrize("fails_open", [False, True])
def test_every_question_is_answered_though_a_worker_and_the_store_are_killed(fails_open):
    size = Soak(
        questions=400,
        clients=24,
        workers=2,
        escalations_per_minute=60,
        max_in_flight=20,
        fails_open=fails_open,
    )
    found = soak(CHECKPOINTS / "controller", size)
    assert found["answered"] == 400
    assert found["lost"] == found["tries_unexpected"] == found["over_own_budget"] == 0
    assert found["tries_broken"] <= size.max_in_flight + size.clients
    if fails_open:
        assert found["escalations_while_away"] > 0
    else:
        assert found["escalations_while_away"] == 0
        most = found["escalations_allowed"] + size.max_in_flight
        assert size.escalations_per_minute <= found["escalations"] <= most
