"""The command `allot train`, with a flag for each setting."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from rich.console import Console

from training.cli.flags import Setting, taking
from training.learn.settings import ALIASES, SETTINGS, resolve


def _metavar(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return "<A,B,...>"
    if get_origin(kind) is Mapping:
        return "<MODEL=COST>"
    if get_origin(kind) is Literal:
        return f"<{'|'.join(get_args(kind))}>"
    return f"<{kind.__name__.lower()}>"


def _help(setting: Setting) -> str:
    text, default = setting.help, setting.default
    if default is MISSING or default in ((), {}, ""):
        return text
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    if isinstance(default, Path):
        default = "the bundled one"
    shown = f"{default:_}" if isinstance(default, int) else default
    return f"{text} Default: {shown}."


def _flag(setting: Setting) -> inspect.Parameter:
    """A parameter that takes text: files and flags are checked in one place, `resolve`."""
    names = [setting.name, *(short for short, name in ALIASES.items() if name == setting.name)]
    option = typer.Option(
        *(dashed(f"--{name}") for name in names),
        help=_help(setting),
        metavar=_metavar(setting.kind),
        rich_help_panel=setting.group,
    )
    kind = list[str] if get_origin(setting.kind) is Mapping else str
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _with_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Replace a command's `**flags` by one flag per setting."""
    own = [
        parameter
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    return taking(command, [*own, *(_flag(setting) for setting in SETTINGS.values())])


def dashed(name: str) -> str:
    """A flag as the command line spells it: sweeps of W&B write underscores."""
    return name.replace("_", "-")


@_with_flags
def train(
    *,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of settings, by their names.", rich_help_panel="Run"),
    ] = None,
    **flags: Any,
) -> Any:
    """Train a controller by PPO on recorded attempts; run again to resume.

    Settings are flags or, under the same names, lines of a YAML file; flags win. The run
    directory holds them all in config.yaml.
    """
    given = {n: ",".join(v) if isinstance(v, list) else v for n, v in flags.items()}
    settings = resolve(given, config)

    from training.learn.runs import train_all

    return train_all(settings, Console())  # for callers from Python
