"""Real parts all the way: client, service, two `transformers serve` with the bundled models."""

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import numpy as np
import openai
import pytest

from controller.checkpoint import load_checkpoint
from envs.questions.grader import KindGrader
from envs.traces.recorded import read_recorded
from envs.traces.table import SIGNALS
from tests.conftest import CHECKPOINTS
from tests.controller.server.test_operating import serving
from training.compare.simulate import outlook, play

QUESTIONS, PRICE = 60, 3e-4
SAMPLING = json.dumps(
    {"do_sample": True, "top_k": 0, "eos_token_id": 1, "pad_token_id": 0, "use_cache": True}
)
"""`transformers serve` takes the likeliest tokens unless told otherwise, in this field."""


class Server:
    """`transformers serve` with one bundled model."""

    def __init__(self, name, port, process):
        self.name, self.port, self.process = name, port, process
        self.url = f"http://127.0.0.1:{port}/v1"

    def wait(self, within_s=240):
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            assert self.process.poll() is None, "transformers serve ended"
            try:
                httpx2.get(f"http://127.0.0.1:{self.port}/health", timeout=2)
                return
            except httpx2.TransportError:
                time.sleep(0.2)
        raise AssertionError("transformers serve does not listen")


@contextmanager
def transformers_serve(name):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    command = [program, "serve", CHECKPOINTS / name, "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        list(map(str, command)),
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Server(name, port, process)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def service():
    with ExitStack() as stack:
        servers = [stack.enter_context(transformers_serve(name)) for name in ("small", "large")]
        for server in servers:
            server.wait()
        body = json.dumps({"generation_config": SAMPLING})
        models = [CHECKPOINTS / server.name for server in servers]
        yield stack.enter_context(
            serving(
                CHECKPOINTS / "controller",
                *servers,
                names=[str(model) for model in models],
                options=["--upstream-body", body, "--max-in-flight", "64"],
            )
        )


def test_accuracy_and_cost_agree_with_replay(service, traces):
    """Bundled test questions by JSON and SSE, against what recorded attempts say.

    The servers tell neither log-probabilities nor prompt states and have no adapters: replay
    does without them, too.
    """
    recorded = read_recorded(traces, ["test"])
    places = np.random.default_rng(3).choice(len(recorded.questions), QUESTIONS, replace=False)
    client = openai.OpenAI(base_url=f"{service.http.base_url}/v1", api_key="any", max_retries=0)

    def ask(i):
        question = recorded.questions[places[i]]
        asked = {
            "model": "allot",
            "messages": [{"role": "user", "content": question.text}],
            "extra_body": {"allot": {"price": PRICE, "give_up": True}},
        }
        if i % 2:
            chunks = list(client.chat.completions.create(**asked, stream=True))
            allot = chunks[-1].model_extra["allot"]
        else:
            allot = client.chat.completions.create(**asked).model_extra["allot"]
        assert not allot["degraded"]
        return KindGrader().is_right(question, allot["answer"]), allot

    with ThreadPoolExecutor(4) as pool:
        right, answers = zip(*pool.map(ask, range(QUESTIONS)), strict=True)
    costs = np.array([allot["cost"] for allot in answers])
    used = {name for a in answers for name, u in a["usage"]["by_model"].items()
            if u["decoded_tokens"]}  # fmt: skip
    assert len(used) == 2, "both models are asked"

    checkpoint = load_checkpoint(CHECKPOINTS / "controller")
    table = replace(recorded.table, attempts=recorded.table.attempts.copy())
    for name in SIGNALS:
        table.attempts[name] = np.nan
    process = replace(checkpoint.config, reads_prompt=False, max_revisions=0)
    known = outlook(checkpoint.difficulty, table)
    played = play(checkpoint.policy, table, process, price=PRICE, difficulty=known)
    expected, cost = played.right[places].mean(), played.cost[places].mean()
    error = (expected * (1 - expected) / QUESTIONS) ** 0.5
    assert abs(np.mean(right) - expected) < 3.5 * error, (np.mean(right), expected)
    assert abs(costs.mean() - cost) < 3.5 * costs.std() / QUESTIONS**0.5, (costs.mean(), cost)
