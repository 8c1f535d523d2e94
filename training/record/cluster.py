"""A Ray cluster to work on. Ray is optional and imported when it is asked for."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from controller.errors import AllotError, BackendError, ConfigError, check_range

Item = TypeVar("Item")
Result = TypeVar("Result")

LOCAL = "local"

_KNOCK_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Which cluster, and what each worker gets of it.

    Attributes:
        address: HOST:PORT of a cluster, `auto` for the one of this machine or of RAY_ADDRESS,
            `local` for one that is started here and ends with the work.
        workers: how many; None for as many as the cluster has room for now.
        cpus, gpus: of each worker; less than 1 lets several share one.
    """

    address: str = LOCAL
    workers: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, ("workers",), least=1)
        if self.cpus < 0 or self.gpus < 0 or self.cpus + self.gpus == 0:
            raise ConfigError(
                f"workers: expected some CPU or GPU for each, found {self.cpus} and {self.gpus}"
            )

    def num_workers(self, resources: dict[str, float]) -> int:
        """Workers to start on a cluster with these resources, by Ray's names.

        >>> Cluster(cpus=2, gpus=0.5).num_workers({"CPU": 16, "GPU": 2})
        4

        Raises:
            ConfigError: there is not room for even one, and nobody says how many.
        """
        if self.workers:
            return self.workers
        room = min(
            int(resources.get(name, 0.0) / wanted + 1e-9)
            for name, wanted in (("CPU", self.cpus), ("GPU", self.gpus))
            if wanted
        )
        if room < 1:
            raise ConfigError(
                f"workers: expected a cluster with {self.cpus:g} CPU and {self.gpus:g} GPU to "
                f"spare, found {resources.get('CPU', 0):g} and {resources.get('GPU', 0):g}; ask "
                "for less with --worker-cpus and --worker-gpus, or give --workers if the cluster "
                "grows on demand"
            )
        return room


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Joins or starts a cluster, and yields `ray`; raises ConfigError if there is neither."""
    # Read when Ray is imported; whoever runs it may turn them on again.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise ConfigError(
            "ray: expected the package, found none; pip install 'allot[ray]' on every machine of "
            "the cluster"
        ) from None
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    if cluster.address == LOCAL:
        options |= {"include_dashboard": False}
    host, _, port = cluster.address.rpartition(":")
    try:
        if host and port.isdigit() and "/" not in host:  # Ray itself would knock for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
        ray.init(cluster.address, **options)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"ray: expected a cluster at {cluster.address!r}; start one with `ray start --head`: "
            f"{' '.join(str(error).split())}"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def map_on(
    cluster: Cluster | None, function: Callable[..., Result], items: Sequence[Item], *shared: Any
) -> list[Result]:
    """Call a function on each of some items and what is shared, in this process or on a cluster.

    Raises:
        ConfigError: no cluster, or no room on it.
        BackendError: workers die again and again.
    """
    if cluster is None or not items:
        return [function(item, *shared) for item in items]
    with connected(cluster) as ray:
        cluster.num_workers(ray.cluster_resources())
        task = ray.remote(num_cpus=cluster.cpus, num_gpus=cluster.gpus)(function)
        sent = [ray.put(argument) for argument in shared]
        try:
            results: list[Result] = ray.get([task.remote(item, *sent) for item in items])
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, AllotError) else error from None
        except ray.exceptions.RayError as error:
            raise BackendError(
                f"ray: expected workers to live, found one dead four times: {error}; run the same "
                "command again to go on"
            ) from None
    return results
