"""A Ray cluster to work on: calls of a function side by side, and a recorder of shards.

Ray is optional and imported when it is asked for. Each worker of a recording is an actor that holds
the models, or asks their servers, and records one shard at a time; the rest stays here. So memory
does not grow with the recording, and what a worker takes along when it dies is recorded again by
another. Only this process writes.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

from controller.errors import AllotError, BackendError, ConfigError, check_range

if TYPE_CHECKING:
    from controller.process.types import ModelSpec
    from training.record.parts import Rows
    from training.record.plans import Missing
    from training.record.progress import Watch
    from training.record.recorders import Recorder
    from training.record.settings import RecordConfig

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


MAX_DEATHS = 3
"""Deaths of workers on one shard, or in a row while they start, that a recording survives."""


Shard: TypeAlias = "Sequence[Missing]"
"""What the questions lack that are recorded together."""


class ShardWorker:
    """Records shards on some machine of the cluster."""

    def __init__(self, load: Callable[[], Recorder]) -> None:
        self._load = load

    @cached_property
    def _recorder(self) -> Recorder:
        return self._load()

    def record(self, shard: Shard) -> tuple[str, tuple[ModelSpec, ...], dict[str, Rows]]:
        """This machine, the models, loaded by now, and what was recorded."""
        import ray

        found: dict[str, list[Mapping[str, Any]]] = {}

        def add(rows: Mapping[str, Rows]) -> None:
            for table, more in rows.items():
                found.setdefault(table, []).extend(more)

        models = self._recorder.models
        if shard:
            self._recorder.record(shard, add)
        return ray.get_runtime_context().get_node_id(), models, {**found}


class RayRecorder:
    """Records shards on a cluster; leave its context to let go of the workers.

    On any machine `load` makes who records as much as a config says, with the models in memory.
    """

    def __init__(
        self, load: Callable[[RecordConfig], Recorder], config: RecordConfig, cluster: Cluster
    ) -> None:
        self._load, self.config, self._cluster = partial(load, config), config, cluster
        self._busy: dict[Any, tuple[Any, Shard]] = {}
        self._idle: list[Any] = []
        self._deaths = Counter[str]()
        self._models: tuple[ModelSpec, ...] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._ray = self._stack.enter_context(connected(self._cluster))
        with ExitStack() as undo:
            undo.push(self._stack)
            for _ in range(self._cluster.num_workers(self._ray.cluster_resources())):
                self._hire()
            undo.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        for worker in (*self._idle, *(worker for worker, _ in self._busy.values())):
            self._ray.kill(worker)
        self._stack.close()

    def _hire(self) -> None:
        options = {"num_cpus": self._cluster.cpus, "num_gpus": self._cluster.gpus}
        worker = self._ray.remote(**options)(ShardWorker).remote(self._load)
        self._give(worker, ())

    def _give(self, worker: Any, shard: Shard) -> None:
        self._busy[worker.record.remote(shard)] = worker, shard

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """One model per rung, as the first worker that is ready describes them, if any ever is."""
        while self._models is None:
            self._wait(deque())
        return self._models

    def wait_for_all(self) -> None:
        """Wait until every worker has loaded the models."""
        while self._busy:
            self._wait(deque())

    def record(self, todo: Sequence[Missing], add: Watch) -> None:
        """Record in shards, each added whole, in the order in which workers finish them."""
        size = self.config.shard_size(self.models)
        shards = deque(todo[start : start + size] for start in range(0, len(todo), size))
        while shards or any(shard for _, shard in self._busy.values()):
            while shards and self._idle:
                self._give(self._idle.pop(), shards.popleft())
            add(self._wait(shards))

    def _wait(self, todo: deque[Shard]) -> Mapping[str, Rows]:
        """Wait until something has happened: rows recorded, or, by a death, more `todo`."""
        (done, *_), _ = self._ray.wait(list(self._busy), num_returns=1)
        worker, shard = self._busy.pop(done)
        try:
            node, models, recorded = self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, AllotError) else error from None
        except self._ray.exceptions.RayError as error:
            self._ray.kill(worker)
            self._bury(shard, " ".join(str(error).split())[:300])
            todo.extendleft([shard] if shard else ())
            return {}
        if self._models not in (None, models):
            raise BackendError(
                f"machine {node}: expected the models that the other machines have "
                f"({_digests(self._models or ())}), found {_digests(models)}; copy the same "
                "directories to all of them"
            )
        self._models = models
        self._idle.append(worker)
        del self._deaths[_name(shard)]
        return recorded

    def _bury(self, shard: Shard, why: str) -> None:
        """Hire another worker in place of one that has died over a shard, or as it started."""
        self._deaths[_name(shard)] += 1
        if self._deaths[_name(shard)] == MAX_DEATHS:
            raise BackendError(
                f"workers: expected them to live, found {MAX_DEATHS} dead over "
                f"{'one shard' if shard else 'loading the models'}, perhaps for want of "
                f"memory; try smaller shards or other resources for each worker: {why}"
            ) from None
        left = "its shard goes to another" if shard else "before it had one"
        warnings.warn(f"a worker has died, {left}: {why}", stacklevel=2)
        self._hire()


def _name(shard: Shard) -> str:
    return shard[0].question.question_id if shard else ""


def _digests(models: Sequence[ModelSpec]) -> str:
    return ", ".join(f"{model.name} {model.digest}" for model in models)
