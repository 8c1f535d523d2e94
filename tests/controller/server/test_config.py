"""Settings of a service: what an operator may choose."""

import math
from pathlib import Path

import pytest

from controller.backends.places import NamedModels, Upstream
from controller.errors import ConfigError
from controller.server.config import Limits, ServeConfig, VariantPlace


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "0.0.0.0"}, "loopback"),
        ({"fallback": "magic"}, "rule: expected one of"),
        ({"always": "magic"}, "rule: expected one of"),
        ({"port": 2**16}, "port: expected 0 to 65535"),
        ({"watch_s": -1}, "watch_s: expected at least 0"),
        ({"price": 1e-3, "mean_cost": 10}, "expected at most one of them"),
        ({"variant": ("a=x:0.5", "b=x:0.5")}, "leave something for the controller"),
        ({"variant": ("b=dir:1.5",)}, "NAME=DIR:SHARE"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ServeConfig(**settings)


def test_variants_and_the_guard_are_read_from_words():
    config = ServeConfig(variant=("b=/some/dir:0.25",), fallback="none")
    assert config.variants == (VariantPlace(name="b", path=Path("/some/dir"), share=0.25),)
    assert config.guard is None


@pytest.mark.parametrize(
    "wrong", [{"max_in_flight": 0}, {"max_budget": float("nan")}, {"deadline_s": 0}]
)
def test_limits_are_checked(wrong):
    with pytest.raises(ConfigError):
        Limits(**wrong)


def test_models_are_named_together_and_bodies_are_objects():
    with pytest.raises(ConfigError, match="both --small and --large"):
        NamedModels(small="http://127.0.0.1:1/v1#m")
    assert NamedModels(small="http://a/v1#s", large=("http://a/v1#l",)).all[1].endswith("#l")
    for text in ("[]", "{", "1"):
        with pytest.raises(ConfigError, match="upstream-body: expected a JSON object"):
            Upstream(upstream_body=text)
    for name in ("attempt_deadline", "upstream_silence_s"):
        for value, wanted in ((0.0, "more than 0"), (math.inf, "a finite number more than 0")):
            with pytest.raises(ConfigError, match=f"{name}: expected {wanted}, found {value:g}"):
                Upstream(**{name: value})
