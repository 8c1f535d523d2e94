"""Options that several commands take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.errors import ConfigError
from training.cli.flags import flag

if TYPE_CHECKING:
    from training.record.cluster import Cluster

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Seed = Annotated[int, typer.Option(help="Everything random follows from it.")]
Traces = Annotated[Path, typer.Option(help="Trace set.", show_default="the bundled one")]


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """A cluster to work on.

    Attributes:
        ray: work on a Ray cluster: HOST:PORT, auto for this machine's, local to start one.
        worker_cpus: CPUs of each worker.
    """

    ray: str | None = flag(None, metavar="ADDRESS")
    worker_cpus: float = 1.0

    def cluster(self, workers: int | None = None, gpus: float = 0.0) -> Cluster | None:
        """The cluster, or None for this process."""
        from training.record.cluster import Cluster

        if self.ray is None:
            return None
        return Cluster(address=self.ray, workers=workers, cpus=self.worker_cpus, gpus=gpus)


def numbers(option: str, entries: tuple[str, ...] | list[str]) -> dict[str, float]:
    """Numbers by name, from NAME=NUMBER each; raises ConfigError on something else."""
    found = {}
    for entry in entries:
        name, _, number = entry.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            raise ConfigError(f"{option}: expected MODEL=NUMBER, found {entry!r}") from None
    return found


def pairs(option: str, entries: Sequence[str]) -> dict[str, str]:
    """Words by word, from WORD=WORD each; raises ConfigError on something else."""
    found = {}
    for entry in entries:
        name, mark, word = entry.partition("=")
        if not (name and mark and word):
            raise ConfigError(f"{option}: expected NAME=VALUE, found {entry!r}")
        found[name] = word
    return found
