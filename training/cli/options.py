"""Options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

from controller.errors import ConfigError
from training.record.cluster import Cluster

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Seed = Annotated[int, typer.Option(help="Everything random follows from it.")]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Work on a Ray cluster: HOST:PORT, auto for this machine's, local to start one.",
    ),
]
Workers = Annotated[
    int | None, typer.Option(help="On the cluster; default: as many as there is room for.")
]
WorkerCpus = Annotated[float, typer.Option(help="CPUs of each worker.")]
WorkerGpus = Annotated[float, typer.Option(help="GPUs of each worker; 0.5 lets two share one.")]


def cluster_of(
    ray: str | None, workers: int | None = None, cpus: float = 1.0, gpus: float = 0.0
) -> Cluster | None:
    """The cluster that options describe."""
    if ray is None:
        return None
    return Cluster(address=ray, workers=workers, cpus=cpus, gpus=gpus)


def numbers(option: str, entries: list[str]) -> dict[str, float]:
    """Numbers by name, from NAME=NUMBER each.

    Raises:
        ConfigError: an entry is something else.
    """
    found = {}
    for entry in entries:
        name, _, number = entry.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            raise ConfigError(f"{option}: expected MODEL=NUMBER, found {entry!r}") from None
    return found
