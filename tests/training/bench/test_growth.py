"""Growth curves, with little to grow."""

import pytest

from tests.conftest import CHECKPOINTS
from training.bench import growth


@pytest.fixture(autouse=True)
def little(monkeypatch):
    for name, values in (
        ("QUESTIONS", (50, 200)),
        ("ENVS", (1024, 4096)),
        ("SAMPLES", (1, 3)),
        ("CLIENTS", (1, 2)),
        ("_REPEATS", 1),
    ):
        monkeypatch.setattr(growth, name, values)


def check(rows, places):
    rows = list(rows)
    assert [row["at"] for row in rows] == places
    for row in rows:
        assert row["least"] <= row["median"] <= row["most"]
    return rows


def test_speed_by_questions_environments_and_samples(few):
    rows = [
        *check(growth.questions(), [50, 200]),
        *check(growth.environments(few), [1024, 4096]),
        *check(growth.samples(CHECKPOINTS / "small"), [1, 3]),
    ]
    assert all(row["least"] > 0 for row in rows)
    assert {row["figure"] for row in rows} == {"env steps/s", "tokens/s"}


def test_what_the_service_adds_by_clients():
    rows = check(growth.clients(CHECKPOINTS / "controller"), [1, 1, 2, 2])
    added = [row["median"] for row in rows if row["figure"].startswith("ms added")]
    assert all(0 < ms < 300 for ms in added)
