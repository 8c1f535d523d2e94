"""Options that several commands take."""

import pytest

from controller.errors import ConfigError
from training.cli.options import RayOptions, numbers


def test_numbers_by_name():
    assert numbers("parameters", ["a=1e9", "b=c=2"]) == {"a": 1e9, "b=c": 2.0}


@pytest.mark.parametrize("entry", ["a", "a=", "a=many"])
def test_what_is_no_number_is_named(entry):
    with pytest.raises(ConfigError, match=f"parameters: expected MODEL=NUMBER, found '{entry}'"):
        numbers("parameters", [entry])


def test_no_address_no_cluster():
    assert RayOptions().cluster(workers=3) is None
    assert RayOptions(ray="local").cluster(workers=3).workers == 3
