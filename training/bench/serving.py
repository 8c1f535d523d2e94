"""What the service adds to a model's own time, beside LiteLLM's proxy, in one run."""

from __future__ import annotations

import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from controller.backends.base import PromptState
from controller.checkpoint import Checkpoint, load_checkpoint
from controller.core import EpisodeCore
from controller.deciders import PolicyDecider
from controller.errors import BackendError
from controller.types import Attempt, ModelSpec, Question
from training.bench.load import Load
from training.bench.load import run as run_load

Json = dict[str, Any]

_QUESTION = "Solve the following multiplication: 3 * 4. Give only the result as your final answer."
"""Of a kind that the bundled controller knows."""

PRICE = 2e-3
"""At which the bundled controller makes one attempt and stops: one call upstream."""

_KEY = f"sk-{secrets.token_hex(32)}"
"""LiteLLM's proxy does not start without one."""

_CLIENT = """
import json, sys, litellm
asked = dict(model="openai/allot", api_base=sys.argv[1], api_key="any",
             messages=[{"role": "user", "content": sys.argv[2]}])
whole = litellm.completion(**asked)
parts = litellm.completion(**asked, stream=True)
text = "".join(p.choices[0].delta.content or "" for p in parts if p.choices)
print(json.dumps([whole.choices[0].message.content, text, whole.usage.total_tokens]))
"""


def run(
    controller: Path,
    *,
    litellm: Path | None = None,
    load: Load | None = None,
    rounds: int = 5,
    delay_s: float = 0.3,
) -> Json:
    """Latency of allot and LiteLLM's proxy over going directly to the same upstream.

    Args:
        controller: checkpoint.
        litellm: virtual environment with `litellm[proxy]`; None leaves it out.
        load: open loop.
        rounds: of all targets one after the other; medians over rounds are reported.
        delay_s: that the upstream takes.
    """
    load = load or Load()
    found: Json = {"load_average": os.getloadavg()[0], **vars(load), "rounds": rounds}
    found |= decision_us(load_checkpoint(controller))
    with ExitStack() as stack:
        slow = stack.enter_context(upstream(delay_s))
        service, _ = stack.enter_context(allot(controller, slow))
        targets = {"direct": slow, "allot": service}
        if litellm is not None:
            targets["litellm"] = stack.enter_context(_litellm(litellm, slow))
            found["litellm_client"] = _litellm_client(litellm, service)
        measured = _measure(targets, load, rounds)
    for name in targets:
        for key in ("p50_ms", "p99_ms", "failed"):
            found[f"{name}_{key}"] = statistics.median(m[name][key] for m in measured)
        if name != "direct":
            for key in ("p50_ms", "p99_ms"):
                added = [m[name][key] - m["direct"][key] for m in measured]
                found[f"{name}_added_{key}"] = statistics.median(added)
                found[f"{name}_added_{key}_all"] = [round(x, 2) for x in added]
    found["load_average_after"] = os.getloadavg()[0]
    return found


def soak(controller: Path, *, minutes: float, load: Load, delay_s: float = 0.3) -> Json:
    """Memory and failures of the service under a steady load.

    Args:
        controller: checkpoint.
        minutes: how long.
        load: open loop; its length is ignored.
        delay_s: that the upstream takes.

    Returns:
        Resident megabytes after a tenth of the time and at the end, growth between them, and
        requests and failures.
    """
    slices = max(10, int(minutes * 4))
    part = Load(clients=load.clients, rate=load.rate, seconds=minutes * 60 / slices)
    memory, failed, asked, slowest = [], 0, 0, []
    with ExitStack() as stack:
        slow = stack.enter_context(upstream(delay_s))
        service, process = stack.enter_context(allot(controller, slow))
        for _ in range(slices):
            seconds = uvloop.run(run_load(f"{service}/chat/completions", question(), part))
            failed, asked = failed + int(np.isnan(seconds).sum()), asked + len(seconds)
            slowest.append(float(np.nanquantile(seconds, 0.99) * 1000))
            memory.append(_megabytes(process.pid))
    warm = slices // 10
    minutes_between = (slices - warm) * part.seconds / 60
    slope = np.polyfit(np.linspace(0, minutes_between, slices - warm), memory[warm:], 1)[0]
    return {
        "minutes": minutes,
        "requests": asked,
        "failed": failed,
        "p99_ms": statistics.median(slowest),
        "rss_mb_warm": memory[warm],
        "rss_mb_end": memory[-1],
        "rss_mb_greatest": max(memory),
        "growth_mb_per_minute": float(slope),
    }


def decision_us(checkpoint: Checkpoint, repeats: int = 2000) -> Json:
    """Median microseconds of one decision at batch 1: all of it, and its parts."""

    class _Known:
        models: tuple[ModelSpec, ...] = checkpoint.models

        def can_verify(self, attempt: Attempt) -> bool:
            return False

    core = EpisodeCore(Question(question_id="", text=""), _Known(), checkpoint.config, price=PRICE)
    core.start(PromptState(prompt_tokens=(20,) * checkpoint.config.num_rungs))
    decider = PolicyDecider(checkpoint.policy)
    observation, mask = core.observation(), core.mask()
    return {
        "decision_us": _median_us(lambda: decider.choose(core, core.state.mask()), repeats),
        "policy_us": _median_us(lambda: decider.judge(observation, mask), repeats),
        "observation_us": _median_us(core.observation, repeats),
        "mask_us": _median_us(core.state.mask, repeats),
    }


def _median_us(call: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e6


def _measure(targets: dict[str, str], load: Load, rounds: int) -> list[dict[str, Json]]:
    measured = []
    for number in range(-1, rounds):
        # The first round warms up; the others begin with another target each.
        names = list(targets)[number % len(targets) :] + list(targets)[: number % len(targets)]
        results: dict[str, Json] = {}
        for name in names:
            url = f"{targets[name]}/chat/completions"
            seconds = uvloop.run(run_load(url, question(), load, _KEY))
            results[name] = {
                "p50_ms": float(np.nanquantile(seconds, 0.5) * 1000),
                "p99_ms": float(np.nanquantile(seconds, 0.99) * 1000),
                "failed": int(np.isnan(seconds).sum()),
            }
        if number >= 0:
            measured.append(results)
    return measured


def question() -> Json:
    """Body of a request."""
    return {"model": "allot", "messages": [{"role": "user", "content": _QUESTION}]}


def _free_port() -> int:
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
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@contextmanager
def upstream(delay_s: float) -> Iterator[str]:
    """A server of models that takes its time; its URL."""
    port = _free_port()
    command = [sys.executable, "-m", "training.bench.upstream", str(port), str(delay_s)]
    with _process(command, f"http://127.0.0.1:{port}/"):
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def allot(controller: Path, upstream: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The service in front of it; URL and process."""
    port = _free_port()
    command = [sys.executable, "-m", "training.cli", "serve", "--controller", str(controller)]
    command += ["--small", f"{upstream}#small", "--large", f"{upstream}#large"]
    command += ["--port", str(port), "--price", str(PRICE), "--log", os.devnull]
    with _process(command, f"http://127.0.0.1:{port}/health") as process:
        url = f"http://127.0.0.1:{port}/v1"
        _check_one_call(url)
        yield url, process


def _check_one_call(url: str) -> None:
    request = urllib.request.Request(
        f"{url}/chat/completions",
        json.dumps(question()).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        decisions = json.load(reply)["allot"]["decisions"]
    attempts = sum(len(decision["attempts"]) for decision in decisions)
    if attempts != 1:
        raise BackendError(
            f"bench serve: expected a controller that makes one attempt at price {PRICE}, found "
            f"{attempts}; latencies could not be compared"
        )


@contextmanager
def _litellm(venv: Path, upstream: str) -> Iterator[str]:
    """LiteLLM's proxy, set up as its documentation says for production, one worker."""
    port = _free_port()
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


def _litellm_client(venv: Path, service: str) -> str:
    """What LiteLLM's client gets from the service, whole and streamed."""
    done = subprocess.run(
        [str(venv / "bin" / "python"), "-c", _CLIENT, service, _QUESTION],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        return f"failed: {done.stderr[-300:]}"
    whole, streamed, tokens = json.loads(done.stdout.splitlines()[-1])
    return "ok" if whole == streamed == "Answer: 7" and tokens == 14 else done.stdout


def _megabytes(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise BackendError(f"process {pid}: expected VmRSS in its status, found none")
