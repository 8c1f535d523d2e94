"""Records shards on the machines of a Ray cluster.

Each worker is an actor that holds the models, or asks their servers. It is given two shards at a
time, so that it need not wait for the next one; the rest stays here. So memory
does not grow with the recording, and what a worker takes along when it dies is recorded again by
the others. Only this process writes: a shard that two workers have recorded is one file.
"""

from __future__ import annotations

import warnings
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from controller.errors import AllotError, BackendError
from controller.process.types import ModelSpec
from training.record.cluster import Cluster, connected
from training.record.parts import Rows
from training.record.plans import Missing
from training.record.progress import Watch
from training.record.recording import Recorder
from training.record.settings import RecordConfig

SHARDS_EACH = 2
"""Shards that a worker has at a time: one that it records and the next."""

MAX_DEATHS = 3
"""Deaths of workers on one shard, or in a row while they start, that a recording survives."""


class ModelSource(Protocol):
    """Describes models, for any machine to load."""

    def recorder(self, config: RecordConfig) -> Recorder:
        """Who records so much, with the models in memory."""


Shard = Sequence[Missing]
"""What the questions lack that are recorded together."""


class ShardWorker:
    """Records shards on some machine of the cluster."""

    def __init__(self, source: ModelSource, config: RecordConfig) -> None:
        self._source, self._config = source, config

    def start(self) -> tuple[tuple[ModelSpec, ...], str]:
        """Load the models; their description, and which machine this is."""
        import ray

        self._recorder = self._source.recorder(self._config)
        return self._recorder.models, ray.get_runtime_context().get_node_id()

    def record(self, shard: Shard) -> dict[str, list[Mapping[str, Any]]]:
        """Record one shard."""
        found: dict[str, list[Mapping[str, Any]]] = {}

        def add(rows: Mapping[str, Rows]) -> None:
            for table, more in rows.items():
                found.setdefault(table, []).extend(more)

        self._recorder.record(shard, add)
        return found


@dataclass(eq=False)
class _Worker:
    """A worker as seen from here: its machine once it has started, its shards by their results."""

    actor: Any
    starting: Any
    node: str | None = None
    shards: dict[Any, Shard] = field(default_factory=dict)


class RayRecorder:
    """Records shards on a cluster; leave its context to let go of the workers."""

    def __init__(self, source: ModelSource, config: RecordConfig, cluster: Cluster) -> None:
        self._source, self.config, self._cluster = source, config, cluster
        self._workers: list[_Worker] = []
        self._deaths: Counter[str] = Counter()
        self._failed_starts = 0
        self._models: tuple[ModelSpec, ...] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._ray = self._stack.enter_context(connected(self._cluster))
        with ExitStack() as undo:
            undo.push(self._stack)
            for _ in range(self._cluster.num_workers(self._ray.cluster_resources())):
                self._start_worker()
            undo.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        for worker in self._workers:
            self._ray.kill(worker.actor)
        self._workers.clear()
        self._stack.close()

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """One model per rung, as the first worker that is ready describes them, if any ever is."""
        while self._models is None:
            self._wait(deque())
        return self._models

    def wait_for_all(self) -> None:
        """Wait until every worker has loaded the models."""
        while any(worker.node is None for worker in self._workers):
            self._wait(deque())

    def record(self, todo: Sequence[Missing], add: Watch) -> None:
        """Record in shards, each added whole, in the order in which workers finish them."""
        size = self.config.shard_size(self.models)
        shards = deque(todo[start : start + size] for start in range(0, len(todo), size))
        while shards or any(worker.shards for worker in self._workers):
            self._hand_out(shards)
            recorded = self._wait(shards)
            if recorded is not None:
                add(recorded)

    def _hand_out(self, todo: deque[Shard]) -> None:
        ready = [worker for worker in self._workers if worker.node is not None]
        for held in range(SHARDS_EACH):
            for worker in ready:
                if todo and len(worker.shards) == held:
                    shard = todo.popleft()
                    worker.shards[worker.actor.record.remote(shard)] = shard

    def _wait(self, todo: deque[Shard]) -> Mapping[str, Rows] | None:
        """Wait until something has happened: a shard recorded, or, by a death, more `todo`."""
        owners = {w.starting: w for w in self._workers if w.node is None}
        owners |= {result: w for w in self._workers for result in w.shards}
        (done, *_), _ = self._ray.wait(list(owners), num_returns=1)
        worker = owners[done]
        try:
            result = self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, AllotError) else error from None
        except self._ray.exceptions.RayError as error:
            todo.extendleft(self._bury(worker, error))
            return None
        if worker.node is None:
            self._welcome(worker, *result)
            return None
        del self._deaths[_name(worker.shards.pop(done))]
        recorded: Mapping[str, Rows] = result
        return recorded

    def _welcome(self, worker: _Worker, models: tuple[ModelSpec, ...], node: str) -> None:
        """Take a worker that has loaded the models, if they are what the others have."""
        if self._models not in (None, models):
            raise BackendError(
                f"machine {node}: expected the models that the other machines have "
                f"({_digests(self._models or ())}), found {_digests(models)}; copy the same "
                "directories to all of them"
            )
        self._models, worker.node, self._failed_starts = models, node, 0

    def _bury(self, worker: _Worker, error: Exception) -> list[Shard]:
        """Start another worker in place of one that has died; the shards that it leaves behind."""
        why = " ".join(str(error).split())[:300]
        shards = list(worker.shards.values())
        if worker.node is None:
            self._failed_starts += 1
        elif shards:  # the oldest is the one that it was recording
            self._deaths[_name(shards[0])] += 1
        if self._failed_starts == MAX_DEATHS or MAX_DEATHS in self._deaths.values():
            raise BackendError(
                f"workers: expected them to live, found {MAX_DEATHS} dead over "
                f"{'one shard' if worker.node else 'loading the models'}, perhaps for want of "
                f"memory; try smaller shards or other resources for each worker: {why}"
            ) from None
        warnings.warn(
            f"a worker has died, its {len(shards)} shards go to others: {why}", stacklevel=2
        )
        self._workers.remove(worker)
        self._ray.kill(worker.actor)
        self._start_worker()
        return shards

    def _start_worker(self) -> None:
        options = {"num_cpus": self._cluster.cpus, "num_gpus": self._cluster.gpus}
        actor = self._ray.remote(**options)(ShardWorker).remote(self._source, self.config)
        self._workers.append(_Worker(actor=actor, starting=actor.start.remote()))


def _name(shard: Shard) -> str:
    return shard[0].question.question_id


def _digests(models: Sequence[ModelSpec]) -> str:
    return ", ".join(f"{model.name} {model.digest}" for model in models)
