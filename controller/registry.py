"""What callers add to the tables from outside, by name.

Processes and trainings list the names that they use; see `controller.process.features.OWN_FEATURES`
and its siblings. Checkpoints keep names alone: whoever loads one registers the same things first.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from importlib import import_module
from typing import Any, TypeVar

from controller.errors import ConfigError

IMPORTED = "ALLOT_IMPORT"
"""Environment variable: modules, divided by commas, that register things for commands."""

T = TypeVar("T")


class Registry(dict[str, T]):
    """Named things that callers add; a name that is registered again stands for the new thing.

    Messages name the setting that holds the names; `built_in` ones are taken.

    >>> shades = Registry("shade", ["red"])
    >>> shades.register("blue", 0x0000FF)
    255
    >>> shades["green"]  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    controller.errors.ConfigError: shade: expected one of ['red', 'blue'], found 'green'; import...
    """

    def __init__(self, setting: str, built_in: Collection[str] = ()) -> None:
        super().__init__()
        self._setting, self._built_in = setting, built_in

    def register(self, name: str, added: T) -> T:
        """Add something; raises ConfigError if the name is a built-in one's or no identifier."""
        if name in self._built_in or not name.isidentifier():
            raise ConfigError(
                f"{self._setting}: expected an identifier other than {[*map(str, self._built_in)]}"
                f", found {name!r}"
            )
        self[name] = added
        return added

    def check(self, name: str) -> None:
        """Raise ConfigError for a name that is neither built-in nor registered."""
        _ = name in self._built_in or self[name]

    def __missing__(self, name: str) -> T:
        for module in filter(None, os.environ.get(IMPORTED, "").split(",")):
            try:
                import_module(module)
            except ImportError as error:
                raise ConfigError(f"{IMPORTED}: expected modules, found {error}") from None
        if name in self:
            return self[name]
        known = dict.fromkeys([*map(str, self._built_in), *self])
        raise ConfigError(
            f"{self._setting}: expected one of {[*known]}, found {name!r}; import what registers "
            f"it first, or name its module in {IMPORTED}"
        )


NETWORKS: Registry[Any] = Registry("network", ["flat", "shared"])
"""Builders of actors: see `controller.policy.network.PolicyNetwork`."""
