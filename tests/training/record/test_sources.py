"""Descriptions of models that are to be recorded."""

from pathlib import Path

import pytest

from controller.errors import ConfigError
from training.record.sources import find_source

SERVER = "http://127.0.0.1:9#m"


@pytest.mark.parametrize(
    ("models", "settings", "message"),
    [
        ([SERVER, SERVER], {}, "expected distinct names, found m, m"),
        ([SERVER], {"parameters": {"other": 1.0}}, "parameters: expected one of the models behind"),
        (
            ["checkpoints/small"],
            {"parameters": {"small": 1.0}},
            "behind servers .none., found 'small'",
        ),
        (["checkpoints/small"], {"concurrency": 4}, "concurrency: expected models behind servers"),
        (
            ["checkpoints/small"],
            {"attempt_deadline": 4.0},
            "attempt_deadline: expected models behi",
        ),
        ([SERVER], {"dtype": "bfloat16"}, "dtype: expected models in this process"),
        ([SERVER], {"prompts": {"other": ()}}, "prompt: expected one of the models m"),
        ([SERVER], {"adapters": {"reviser": Path("r")}}, "a small model in this process"),
        (["http://u:p@127.0.0.1:9#m"], {}, "without a name and password"),
        ([SERVER], {"concurrency": 0}, "concurrency: expected at least 1"),
        ([SERVER], {"attempt_deadline": 0.0}, "attempt_deadline: expected more than 0"),
        (
            [SERVER],
            {"attempt_deadline": float("inf")},
            "attempt_deadline: expected a finite number",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(models, settings, message):
    with pytest.raises(ConfigError, match=message):
        find_source(models, **settings)


def test_keys_of_servers_are_the_environments_and_not_noted(tmp_path, monkeypatch):
    monkeypatch.setenv("ALLOT_UPSTREAM_KEY_0", "secret")
    source = find_source([SERVER])
    assert source.keys == {0: "secret"}
    assert "secret" not in repr(source)
    notes = source.notes(tmp_path)
    assert notes["models"]["m"]["server"] == SERVER
    assert "secret" not in repr(notes)
