"""Settings of `allot train`, under the same names in a YAML file and as flags; flags win."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_origin

import yaml

from controller.bundled import bundled
from controller.errors import ConfigError, check_range
from controller.files import read_yaml, write_text
from training.cli.flags import RayOptions, once, settings_of
from training.learn.config import SEGMENT_DEFAULTS, PPOConfig, TrainConfig

WandbMode = Literal["auto", "online", "offline", "disabled"]

STORED = "config.yaml"
"""File of a run directory that holds its settings; `--config` reads it."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where trainings read and write.

    Attributes:
        out: run directory; holds the checkpoint at the end. $NAME stands for an environment
            variable.
        traces: trace set.
        seeds: trainings, their seeds counted up from `seed`; more than one get directories
            of their own in `out`, and are trained side by side on a cluster.
        wandb: W&B: auto (online with an account, else offline), online, offline or disabled.
    """

    out: Path
    traces: Path = bundled("traces")
    seeds: int = 1
    wandb: WandbMode = "auto"

    def __post_init__(self) -> None:
        check_range(self, ("seeds",), least=1)


SETTINGS = {
    setting.name: setting
    for owner, group in (
        *((RunConfig, "Run"), (RayOptions, "Run")),
        *((TrainConfig, "Decisions"), (PPOConfig, "PPO")),
    )
    for setting in settings_of(owner, group)
}
"""Every setting by name."""

ALIASES = {"steps": "total_steps", "token_cost": "token_costs", "from": "start"}
"""Shorter names, good everywhere."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of one call of `allot train`."""

    run: RunConfig
    cluster: RayOptions = field(default_factory=RayOptions)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        check_range(self.cluster, ("worker_cpus",), above=0)


def resolve(flags: Mapping[str, Any], file: Path | None = None) -> Settings:
    """Settings from flags, as text by name, else from a YAML file, else the defaults.

    Raises:
        ConfigError: an unknown name, a value of the wrong type or out of range, or no `out`.
    """
    values = _read(file) if file else {}
    for flag, value in flags.items():
        if value is not None:
            place = f"--{flag.replace('_', '-')}"
            name = _name(flag, place)
            values[name] = _value(name, value, place)
    if "out" not in values:
        raise ConfigError("out: expected a run directory (--out DIR or a file's `out`), found none")

    def chosen(owner: type) -> dict[str, Any]:
        return {f.name: values[f.name] for f in fields(owner) if f.name in values}

    run = RunConfig(**chosen(RunConfig))
    if _holds_segments(run.traces):
        values = {**SEGMENT_DEFAULTS, **values}
    return Settings(
        run=run,
        cluster=RayOptions(**chosen(RayOptions)),
        train=TrainConfig(**chosen(TrainConfig), ppo=PPOConfig(**chosen(PPOConfig))),
    )


def _holds_segments(traces: Path) -> bool:
    """Whether a set is of segments; anything amiss with it is told when it is read."""
    try:
        return bool(json.loads((traces / "trace.json").read_text()).get("kind") == "segments")
    except (AttributeError, OSError, ValueError):
        return False


def flat(config: TrainConfig) -> dict[str, Any]:
    """Everything that decides what is trained, by name, as YAML and JSON hold it."""
    values = {**vars(config), **vars(config.ppo)}
    del values["ppo"]
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }


def store(config: TrainConfig, traces: Path, out: Path) -> None:
    """Write the settings of a run into its directory, or check that they are still the same.

    Raises:
        ConfigError: the run was started with other settings.
    """
    path = out / STORED
    settings = {"traces": str(traces), **flat(config)}
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, yaml.safe_dump(settings, sort_keys=False))
        return
    stored = _load(path)
    changed = [name for name in settings if settings[name] != stored.get(name)]
    if changed:
        differences = ", ".join(f"{n} {stored.get(n)} (now {settings[n]})" for n in changed)
        raise ConfigError(
            f"{path}: expected the settings that this run was started with: {differences}; go on "
            f"with --config {path}, or start another run with another --out"
        )


def learnt_from(controller: Path) -> Path | None:
    """The trace set that a run's settings name, else the one beside a checkpoint, as bundled."""
    if (path := controller / STORED).exists():
        if not isinstance(traces := _load(path).get("traces"), str):
            raise ConfigError(f"{path}: expected `traces`, a directory, found {traces}")
        return Path(traces)
    beside = controller.parent / "traces"
    return beside if (beside / "trace.json").exists() else None


def _load(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: expected a YAML file: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected YAML, found {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected names and values, as in `total_steps: 1000000`")
    return content


def _read(path: Path) -> dict[str, Any]:
    values = {}
    for key, value in _load(path).items():
        name = _name(str(key), str(path))
        if name in values:
            raise ConfigError(f"{path}: expected {name} once, found it twice")
        values[name] = _value(name, value, f"{path}: {name}")
    return values


def _name(key: str, place: str) -> str:
    """The setting that a key or a flag means."""
    name = key.replace("-", "_")
    name = ALIASES.get(name, name)
    if name not in SETTINGS:
        close = difflib.get_close_matches(name, [*SETTINGS, *ALIASES], n=1, cutoff=0.5)
        hint = f"; the closest is {close[0]}" if close else ""
        raise ConfigError(f"{place}: expected any of {', '.join(SETTINGS)}, found {key!r}{hint}")
    return name


def _value(name: str, value: Any, place: str) -> Any:
    """A value of the setting's type."""
    from pydantic import TypeAdapter, ValidationError

    kind = SETTINGS[name].kind
    if isinstance(value, str) and get_origin(kind) in (tuple, Mapping):
        value = _parts(value, kind, place)
    if kind is Path and isinstance(value, str):
        value = os.path.expandvars(value)
    try:
        # A bool would pass for a number.
        return TypeAdapter(kind).validate_python(str(value) if isinstance(value, bool) else value)
    except ValidationError as error:
        first = error.errors()[0]
        wanted = first["msg"].removeprefix("Input should be ")
        raise ConfigError(f"{place}: expected {wanted}, found {first['input']!r}") from None


def _parts(text: str, kind: Any, place: str) -> Any:
    """A list `a,b` or `[a, b]`, or a mapping `a=1,b=2` or `{a: 1, b: 2}`."""
    if text.startswith(("[", "{")):
        try:
            return read_yaml(text)
        except yaml.YAMLError:
            raise ConfigError(
                f"{place}: expected a closing bracket, and names once each, found {text!r}"
            ) from None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if get_origin(kind) is tuple:
        return parts
    pairs = [part.rpartition("=") for part in parts]
    if not all(name for name, _, _ in pairs):
        raise ConfigError(f"{place}: expected MODEL=NUMBER, found {text!r}")
    return once(place, [(name, number) for name, _, number in pairs])
