"""Flags follow from dataclasses."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from controller.errors import ConfigError
from training.cli.flags import RayOptions, numbers, pairs, with_flags


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A part.

    Attributes:
        colours: one or more, as they
            come.
        loud: say so.
    """

    colours: tuple[str, ...] = ()
    loud: bool = False


@dataclass(frozen=True, kw_only=True)
class Outer:
    """All of it.

    Attributes:
        size: in metres.
        inner: has flags of its own.
        out: where it goes.
    """

    size: float
    inner: Inner = field(default_factory=Inner)
    out: Path = Path("x")


def run(*arguments):
    seen = []

    @with_flags(Outer)
    def command(name: str, config: Outer) -> None:
        """Do it."""
        seen.append((name, config))

    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, arguments)
    return done, seen


def test_nested_fields_are_flags_and_come_back_as_they_were_declared():
    flags = ["--size", "2", "--colours", "red", "--colours", "blue", "--loud", "--out", "y"]
    done, seen = run("me", *flags)
    assert not done.exception, done.output
    inner = Inner(colours=("red", "blue"), loud=True)
    assert seen == [("me", Outer(size=2.0, inner=inner, out=Path("y")))]
    assert run("me", "--size", "1")[1] == [("me", Outer(size=1.0))]


def test_a_field_without_a_default_must_be_given():
    assert run("me")[0].exit_code == 2


def test_help_says_what_the_docstring_says():
    shown = " ".join(run("--help")[0].output.replace("│", " ").split())
    assert "One or more, as they come." in shown
    assert "In metres." in shown


def test_numbers_by_name():
    assert numbers("parameters", ["a=1e9", "b=c=2"]) == {"a": 1e9, "b=c": 2.0}


@pytest.mark.parametrize("by_name", [numbers, pairs])
def test_a_name_stands_for_one_thing(by_name):
    assert len(by_name("parameters", ["a=1", "a=1", "b=nan", "b=nan"])) == 2
    with pytest.raises(ConfigError, match=r"parameters: expected a once, found 1(\.0)? and 2"):
        by_name("parameters", ["a=1", "a=2"])


@pytest.mark.parametrize("entry", ["a", "a=", "a=many"])
def test_what_is_no_number_is_named(entry):
    with pytest.raises(ConfigError, match=f"parameters: expected MODEL=NUMBER, found '{entry}'"):
        numbers("parameters", [entry])


def test_no_address_no_cluster():
    assert RayOptions().cluster() is None
    for name, told in (("workers", {"workers": 3}), ("worker_gpus", {"gpus": 0.5})):
        with pytest.raises(ConfigError, match=f"^{name}: expected --ray with it"):
            RayOptions().cluster(**told)
    with pytest.raises(ConfigError, match=r"^worker_cpus: expected --ray"):
        RayOptions(worker_cpus=2.0).cluster()
    assert RayOptions(ray="local").cluster(workers=3).workers == 3
