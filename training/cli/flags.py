"""Flags from dataclasses: a field is declared once, and its docstring says what the flag does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from training.learn.settings import Setting, settings_of


def flag(default: Any = MISSING, *names: str, **more: Any) -> Any:
    """A field whose flag has other names, or more that `typer.Option` takes."""
    return field(default=default, metadata={"names": names, "option": more})


def argument(**more: Any) -> Any:
    """A field that is given by its place."""
    return field(metadata={"argument": more})


def with_flags(owner: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's parameter of a dataclass by one flag per field, nested ones included.

    Raises:
        ConfigError: from the command, where the dataclass refuses what the flags say.
    """

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.annotation is not owner]
        (config,) = signature.parameters.keys() - {p.name for p in own}

        @wraps(command)
        def run(**given: Any) -> None:
            mine = {p.name: given[p.name] for p in own}
            command(**mine, **{config: _built(owner, given)})

        parameters = [*own, *map(_flag, _all_settings(owner))]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorated


def _all_settings(owner: type) -> Iterator[Setting]:
    kinds, own = get_type_hints(owner), {setting.name: setting for setting in settings_of(owner)}
    for f in fields(owner):
        yield from [own[f.name]] if f.name in own else _all_settings(kinds[f.name])


def _flag(setting: Setting) -> inspect.Parameter:
    kind, default, more = setting.kind, setting.default, setting.metadata
    if get_origin(kind) is tuple:
        kind = list[get_args(kind)[0]]  # type: ignore[misc]
        if default is not MISSING:
            kind, default = kind | None, None
    if "argument" in more:
        option: Any = typer.Argument(help=setting.help, **more["argument"])
    else:
        shown = {"show_default": "the bundled one"} if isinstance(default, Path) else {}
        option = typer.Option(
            *more.get("names", ()), help=setting.help, **{**shown, **more.get("option", {})}
        )
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=Annotated[kind, option],
    )


def _built(owner: type[Any], given: Mapping[str, Any]) -> Any:
    """The dataclass, of the flags that are its own and its parts'."""
    kinds = get_type_hints(owner)
    values = {
        f.name: _built(kinds[f.name], given) if is_dataclass(kinds[f.name]) else given[f.name]
        for f in fields(owner)
    }
    for name, kind in kinds.items():
        if get_origin(kind) is tuple:
            values[name] = tuple(values[name] or ())
    return owner(**values)
