"""What the service adds to a model's own time, beside LiteLLM's proxy, in one run."""

from __future__ import annotations

import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import numpy as np
import uvloop
from numpy.typing import NDArray

from benchmarks import Figures
from benchmarks.load import Load
from benchmarks.load import run as run_load
from controller.backends.base import PromptState
from controller.backends.recorded import ReplayBackend
from controller.checkpoint import Checkpoint, load_checkpoint
from controller.core import Episode
from controller.errors import BackendError
from controller.policy.deciders import PolicyDecider
from controller.process.terms import Terms
from controller.process.types import Question

QUESTION: dict[str, object] = {
    "model": "allot",
    "messages": [
        {
            "role": "user",
            "content": "Solve the following multiplication: 3 * 4. Give only the result as your "
            "final answer.",
        }
    ],
}
"""Body of a request, of a kind that the bundled controller knows."""

_UPSTREAM = str(Path(__file__).with_name("upstream.py"))

PRICE = 2e-3
"""At which the bundled controller makes one attempt and stops: one call upstream."""

_KEY = f"sk-{secrets.token_hex(32)}"
"""LiteLLM's proxy does not start without one."""


def serving(
    controller: Path, number: int, *, load: Load, litellm: Path | None = None, delay_s: float = 0.3
) -> Figures:
    """Latency of allot and LiteLLM's proxy over going directly to the same upstream.

    Each round, by its number, begins with another target; `litellm` is a virtual environment with
    `litellm[proxy]`, and None leaves it out.
    """
    found = decision_us(load_checkpoint(controller))
    with ExitStack() as stack:
        slow = stack.enter_context(upstream(delay_s))
        service, _ = stack.enter_context(allot(controller, slow))
        targets = {"direct": slow, "allot": service}
        if litellm is not None:
            targets["litellm"] = stack.enter_context(_litellm(litellm, slow))
        first = number % len(targets)
        names = [*targets][first:] + [*targets][:first]
        for name in names * 2:  # what the first time finds is overwritten: it warms up
            seconds = ask(targets[name], load)
            found[f"{name}_failed"] = int(np.isnan(seconds).sum())
            for quantile in (50, 99):
                found[f"{name}_p{quantile}_ms"] = float(np.nanpercentile(seconds, quantile) * 1000)
    for name in set(targets) - {"direct"}:
        for key in ("p50_ms", "p99_ms"):
            found[f"{name}_added_{key}"] = found[f"{name}_{key}"] - found[f"direct_{key}"]
    return found


def by_clients(
    controller: Path, counts: Sequence[int] = (1, 4, 16, 64, 256), questions: int = 16
) -> Figures:
    """Added to 300 ms upstream, and taken of a processor, by how many ask once a second each."""
    found: Figures = {}
    with ExitStack() as stack:
        slow = stack.enter_context(upstream(0.3))
        service, process = stack.enter_context(allot(controller, slow))
        ask(service, Load(seconds=2.0))  # warms up
        for count in counts:
            before = _cpu_s(process.pid)
            seconds = ask(
                service, Load(clients=count, rate=float(count), seconds=max(2.0, questions / count))
            )
            spent = (_cpu_s(process.pid) - before) * 1000 / len(seconds)
            found[f"{count} clients: added_ms"] = float(np.nanmedian(seconds)) * 1000 - 300
            found[f"{count} clients: cpu_ms_per_question"] = spent
    return found


def ask(url: str, load: Load) -> NDArray[np.float64]:
    """Seconds of each request of a load, (n,)."""
    return uvloop.run(run_load(f"{url}/chat/completions", QUESTION, load, _KEY))


def decision_us(checkpoint: Checkpoint, repeats: int = 2000) -> Figures:
    """Median microseconds of one decision at batch 1, to its log entry or its choice; its parts."""
    backend, question = ReplayBackend(checkpoint.models, (), {}), Question(question_id="", text="")
    episode = Episode(question, backend, checkpoint.config, Terms(price=PRICE))
    episode.start(PromptState(prompt_tokens=(20,) * checkpoint.config.num_rungs))
    decider = PolicyDecider(checkpoint.policy)
    observation, mask = episode.observation(), episode.mask()

    def decision() -> None:
        episode.look()
        decider.choose(episode, episode.mask())

    def choice() -> None:
        episode.look()
        allowed = episode.mask()
        decider.judge(episode.observation(), allowed)[0].argmax()

    return {
        "decision_us": _median_us(decision, repeats),
        "choice_us": _median_us(choice, repeats),
        "policy_us": _median_us(lambda: decider.judge(observation, mask), repeats),
        "observation_us": _median_us(episode.observation, repeats),
        "mask_us": _median_us(episode.state.mask, repeats),
    }


def _median_us(call: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e6


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def _process(
    command: Sequence[str], url: str, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A server, once it listens."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **environment}
        )
        try:
            end = time.monotonic() + 600
            while not _answers(url):
                if process.poll() is not None or time.monotonic() > end:
                    output.seek(0)
                    tail = output.read()[-2000:].decode(errors="replace")
                    raise BackendError(f"{command[0]}: expected a server at {url}, found: {tail}")
                time.sleep(0.1)
            yield process
        finally:
            process.terminate()
            process.wait()


def _answers(url: str) -> bool:
    try:
        httpx2.get(url, timeout=5, trust_env=False)
    except httpx2.TransportError:
        return False
    return True


@contextmanager
def upstream(delay_s: float, faults: int = 0) -> Iterator[str]:
    """A server of models that takes its time, and fails once in `faults` requests; its URL."""
    port = free_port()
    command = [sys.executable, _UPSTREAM, str(port), str(delay_s), str(faults)]
    with _process(command, f"http://127.0.0.1:{port}/"):
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def allot(
    controller: Path, upstream: str, *options: str, log: str | Path = os.devnull
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The service in front of it; URL and process."""
    port = free_port()
    command = [sys.executable, "-m", "training.cli", "serve", "--controller", str(controller)]
    command += ["--small", f"{upstream}#small", "--large", f"{upstream}#large"]
    command += ["--port", str(port), "--price", str(PRICE), "--log", str(log), *options]
    with _process(command, f"http://127.0.0.1:{port}/health") as process:
        url = f"http://127.0.0.1:{port}/v1"
        _check_one_call(url)
        yield url, process


def _check_one_call(url: str) -> None:
    reply = httpx2.post(f"{url}/chat/completions", json=QUESTION, timeout=30, trust_env=False)
    decisions = reply.raise_for_status().json()["allot"]["decisions"]
    attempts = sum(len(decision["attempts"]) for decision in decisions)
    if attempts != 1:
        raise BackendError(
            f"serve: expected a controller that makes one attempt at price {PRICE}, found "
            f"{attempts}; latencies could not be compared"
        )


@contextmanager
def _litellm(venv: Path, upstream: str) -> Iterator[str]:
    """LiteLLM's proxy, set up as its documentation says for production, one worker."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "config.yaml"
        config.write_text(
            "model_list:\n  - model_name: allot\n    litellm_params:\n      model: openai/small\n"
            f"      api_base: {upstream}\n      api_key: any\n"
            "litellm_settings:\n  request_timeout: 60\n  set_verbose: false\n"
        )
        command = [str(venv / "bin" / "litellm"), "--config", str(config), "--port", str(port)]
        command += ["--host", "127.0.0.1", "--num_workers", "1"]
        url = f"http://127.0.0.1:{port}/health/liveliness"
        variables = {
            "LITELLM_LOG": "ERROR",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_MASTER_KEY": _KEY,
        }
        with _process(command, url, **variables):
            yield f"http://127.0.0.1:{port}/v1"


def _cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
