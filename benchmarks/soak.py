"""Many clients before several workers, one of which is killed, as is the store that they share."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from benchmarks import Figures
from benchmarks.serving import QUESTION, allot, free_port, upstream
from controller.errors import BackendError

_ESCALATING = {"rule": "always-large"}
_BUDGETED = {"rule": "self-consistency-5", "budget": 400}
_KINDS: Sequence[Mapping[str, object]] = (
    QUESTION,
    {**QUESTION, "allot": _ESCALATING},
    {**QUESTION, "allot": _ESCALATING, "stream": True},
    {**QUESTION, "allot": _BUDGETED},
)
"""Questions of one call, of one escalation, of one in a stream, of several calls and a budget."""

_AGAIN = {429, 502, 503, 504}
"""Statuses after which clients of OpenAI's interface ask again."""
_BROKEN = 0
"""Stands for the status of a connection that broke."""


@dataclass(frozen=True, kw_only=True)
class Soak:
    """How much, and what goes wrong on the way.

    Attributes:
        questions: of all clients.
        clients: that ask one question after the other.
        workers: of the service.
        escalations_per_minute: of all workers.
        max_in_flight: questions of all workers, fewer than clients so that some are turned away.
        tries: of a client per question.
        fails_open: escalate while the store is away.
        faults: one in so many calls of a model fails, at once or in the middle of its answer;
            0 for none.
    """

    questions: int = 10_000
    clients: int = 256
    workers: int = 4
    escalations_per_minute: int = 600
    max_in_flight: int = 192
    tries: int = 12
    fails_open: bool = False
    faults: int = 0


@dataclass
class _Seen:
    """What clients saw: statuses of all tries, and how each question ended."""

    begun: int = 0
    tries: Counter[int] = field(default_factory=Counter)
    ended: Counter[int] = field(default_factory=Counter)


def soak(controller: Path, size: Soak) -> Figures:
    """Ask, kill a worker after a quarter, the store after a half, bring that back after three.

    Memory of the workers that live is compared from the first quarter to the end.

    Raises:
        BackendError: there is no redis-server.
    """
    port = free_port()
    options = ["--workers", str(size.workers), "--shared", f"redis://127.0.0.1:{port}"]
    options += ["--escalations-per-minute", str(size.escalations_per_minute)]
    options += ["--max-in-flight", str(size.max_in_flight)]
    options += ["--shared-fails-open"] if size.fails_open else []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log, stores = directory / "log.jsonl", [stack.enter_context(_store(port))]
        slow = stack.enter_context(upstream(0.05, size.faults))
        url, service = stack.enter_context(allot(controller, slow, *options, log=log))
        moments: dict[str, float] = {}
        early_mb: dict[int, float] = {}

        def kill_worker() -> None:
            killed, *others = _workers(service.pid)
            early_mb.update({worker: _resident_mb(worker) for worker in others})
            os.kill(killed, signal.SIGKILL)

        def kill_store() -> None:
            stores[0].kill()
            stores[0].wait()
            moments["away"] = time.time()

        def bring_store() -> None:
            stores.append(stack.enter_context(_store(port)))
            moments["back"] = time.time()

        began, seen = time.time(), _Seen()
        uvloop.run(_ask_all(url, size, seen, (kill_worker, kill_store, bring_store)))
        seconds = time.time() - began
        late_mb = {worker: _resident_mb(worker) for worker in _workers(service.pid)}
        rows = [json.loads(line) for line in log.read_text().splitlines()][1:]
    return {
        "seconds": seconds,
        "questions_per_s": size.questions / seconds,
        "answered": seen.ended[200],
        "lost": size.questions - seen.ended[200],
        "asked_again": seen.tries.total() - size.questions,
        "tries_broken": seen.tries[_BROKEN],
        "tries_turned_away": seen.tries[429],
        "tries_unexpected": sum(n for s, n in seen.tries.items() if s not in {*_AGAIN, 0, 200}),
        "worker_mb": max(late_mb.values()),
        "worker_grew_mb": max(
            (late_mb[worker] - mb for worker, mb in early_mb.items() if worker in late_mb),
            default=float("nan"),
        ),
        **_budgets(rows, size, seconds, moments["away"], moments["back"]),
    }


def by_workers(controller: Path, questions: int, counts: Sequence[int] = (1, 2, 4)) -> Figures:
    """Questions per second of 64 clients that ask one after the other, by workers."""
    found: Figures = {}
    for count in counts:
        with (
            upstream(0.05) as slow,
            allot(controller, slow, "--workers", str(count)) as (url, _),
        ):
            for number in (questions // 4, questions):  # the first warms up
                size, seen = Soak(questions=number, clients=64, workers=count), _Seen()
                began = time.perf_counter()
                uvloop.run(_ask_all(url, size, seen, ()))
            found[f"{count} workers: questions_per_s"] = size.questions / (
                time.perf_counter() - began
            )
            found[f"{count} workers: lost"] = size.questions - seen.ended[200]
    return found


def _budgets(
    rows: Sequence[Mapping[str, Any]], size: Soak, seconds: float, away: float, back: float
) -> Figures:
    """What questions that were logged spent of what they were allowed."""
    escalated = [row for row in rows if any(a["rung"] == 1 for a in row["attempts"])]
    ends = [datetime.fromisoformat(row["time"]).timestamp() for row in escalated]
    begins = [end - row["wall_s"] for row, end in zip(escalated, ends, strict=True)]
    rate = size.escalations_per_minute
    return {
        "escalations": len(escalated),
        # A full bucket at the start and one of the new store, refilled meanwhile.
        "escalations_allowed": rate * (2 + seconds / 60),
        "escalations_in_flight": size.max_in_flight,
        "escalations_while_away": sum(
            away < begin and end < back for begin, end in zip(begins, ends, strict=True)
        ),
        "over_own_budget": sum(row["cost"] > (row["budget"] or float("inf")) for row in rows),
    }


async def _ask_all(url: str, size: Soak, seen: _Seen, faults: Sequence[Callable[[], None]]) -> None:
    """All questions, with a fault after each quarter but the last."""
    due = [(size.questions * (n + 1) // 4, fault) for n, fault in enumerate(faults)]

    async def client(number: int) -> None:
        rng = random.Random(number)
        while seen.begun < size.questions:
            place = seen.begun
            seen.begun += 1
            if due and place >= due[0][0]:
                await asyncio.to_thread(due.pop(0)[1])
            seen.ended[await _answered(url, _KINDS[place % len(_KINDS)], size, seen, rng)] += 1

    await asyncio.gather(*map(client, range(size.clients)))


async def _answered(
    url: str, question: Mapping[str, object], size: Soak, seen: _Seen, rng: random.Random
) -> int:
    """The last status of a question that is asked again, on new connections, as clients do."""
    headers = {"authorization": "Bearer any"}
    for number in range(size.tries):
        status = _BROKEN
        with suppress(OSError, TimeoutError, aiohttp.ClientError):
            async with (
                asyncio.timeout(60),
                aiohttp.request(
                    "POST", f"{url}/chat/completions", json=question, headers=headers
                ) as reply,
            ):
                await reply.read()
                status = reply.status
        seen.tries[status] += 1
        if status not in {*_AGAIN, _BROKEN}:
            break
        await asyncio.sleep(min(8.0, 0.5 * 2**number) * rng.uniform(0.75, 1.0))
    return status


@contextmanager
def _store(port: int) -> Iterator[subprocess.Popen[bytes]]:
    if shutil.which("redis-server") is None:
        raise BackendError("soak: expected redis-server; apt-get install redis-server")
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _workers(pid: int) -> list[int]:
    command = ["pgrep", "-P", str(pid), "-f", "multiprocessing.spawn"]
    return [int(found) for found in subprocess.check_output(command).split()]


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
