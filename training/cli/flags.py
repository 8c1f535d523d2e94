"""Flags from dataclasses: a field is declared once, and its docstring says what the flag does.

Below are those that several commands take.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import wraps
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from controller.errors import ConfigError
from controller.field_notes import field_notes

if TYPE_CHECKING:
    from training.record.cluster import Cluster

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting: a field's name, type, default (MISSING for none), help and title of its group.

    `metadata` are those of `flag` and `argument`.
    """

    name: str
    kind: Any
    default: Any
    help: str
    group: str
    metadata: Mapping[str, Any]


def flag(default: Any = MISSING, *names: str, **more: Any) -> Any:
    """A field whose flag has other names, or more that `typer.Option` takes."""
    return field(default=default, metadata={"names": names, "option": more})


def argument(**more: Any) -> Any:
    """A field that is given by its place."""
    return field(metadata={"argument": more})


def settings_of(owner: type, group: str = "Options") -> list[Setting]:
    """The fields of a dataclass, those aside that are dataclasses themselves."""
    kinds = get_type_hints(owner)
    notes = field_notes(owner)
    return [
        Setting(
            name=f.name,
            kind=kinds[f.name],
            default=f.default if f.default_factory is MISSING else f.default_factory(),
            help=notes[f.name],
            group=group,
            metadata=f.metadata,
        )
        for f in fields(owner)
        if not is_dataclass(kinds[f.name])
    ]


def with_flags(owner: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's parameter of a dataclass by one flag per field, nested ones included."""

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        given = inspect.signature(command, eval_str=True).parameters
        (config,) = (name for name, p in given.items() if p.annotation is owner)

        @wraps(command)
        def run(**values: Any) -> None:
            own = {name: values[name] for name in given if name != config}
            command(**own, **{config: _built(owner, values)})

        flags = map(parameter, _all_settings(owner))
        parameters = ([p] if name != config else flags for name, p in given.items())
        return taking(run, list(chain.from_iterable(parameters)))

    return decorated


def taking(
    command: Callable[..., Any], parameters: Sequence[inspect.Parameter]
) -> Callable[..., Any]:
    """A command that says that it takes these parameters."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _all_settings(owner: type) -> Iterator[Setting]:
    kinds, own = get_type_hints(owner), {setting.name: setting for setting in settings_of(owner)}
    for f in fields(owner):
        yield from [own[f.name]] if f.name in own else _all_settings(kinds[f.name])


def parameter(setting: Setting) -> inspect.Parameter:
    """What a command takes for a setting."""
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


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Seed = Annotated[int, typer.Option(help="Everything random follows from it.")]
Traces = Annotated[Path, typer.Option(help="Trace set.", show_default="the bundled one")]


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """A cluster to work on.

    Attributes:
        ray: work on a Ray cluster: HOST:PORT, auto for this machine's, local to start one; empty
            for this process alone.
        worker_cpus: CPUs of each worker.
    """

    ray: str = flag("", metavar="ADDRESS", show_default=False)
    worker_cpus: float = 1.0

    def cluster(self, workers: int | None = None, gpus: float = 0.0) -> Cluster | None:
        """The cluster, or None for this process."""
        from training.record.cluster import Cluster

        if not self.ray:
            given = {"workers": workers, "worker_gpus": gpus, "worker_cpus": self.worker_cpus != 1}
            if unused := ", ".join(name for name, value in given.items() if value):
                raise ConfigError(f"{unused}: expected --ray with it, whose workers it is about")
            return None
        return Cluster(address=self.ray, workers=workers, cpus=self.worker_cpus, gpus=gpus)


def numbers(option: str, entries: Sequence[str]) -> dict[str, float]:
    """Numbers by name, from NAME=NUMBER each; raises ConfigError on something else."""
    found = []
    for entry in entries:
        name, _, number = entry.rpartition("=")
        try:
            found.append((name, float(number)))
        except ValueError:
            raise ConfigError(f"{option}: expected MODEL=NUMBER, found {entry!r}") from None
    return once(option, found)


def pairs(option: str, entries: Sequence[str]) -> dict[str, str]:
    """Words by word, from WORD=WORD each; raises ConfigError on something else."""
    found = []
    for entry in entries:
        name, mark, word = entry.partition("=")
        if not (name and mark and word):
            raise ConfigError(f"{option}: expected NAME=VALUE, found {entry!r}")
        found.append((name, word))
    return once(option, found)


def once(option: str, entries: Sequence[tuple[str, T]]) -> dict[str, T]:
    """What is said by name; raises ConfigError on a name that stands for two things."""
    found = dict(entries)
    for name, value in entries:
        if str(found[name]) != str(value):
            raise ConfigError(f"{option}: expected {name} once, found {value} and {found[name]}")
    return found
