"""A service on a real socket, in front of upstream servers that can be scripted."""

import asyncio
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import openai
import pytest
import uvicorn

from controller.backends.ladder import Ladder
from controller.backends.openai.backend import OpenAIBackend
from controller.backends.openai.resilience import CircuitBreaker
from controller.checkpoint import load_checkpoint
from controller.loading import deployed_process
from controller.policy.deciders import PolicyDecider
from controller.policy.pricing import Pricing
from controller.server.app import Service
from controller.server.config import Limits
from controller.server.engine import Engine
from controller.server.ops import Metrics
from controller.server.run import http_server
from controller.server.variants import Variant, Variants
from tests.controller.server.upstream import Upstream, completion, endpoint

QUESTION = (
    "Find the Greatest Common Divisor (GCD) of these numbers: 44, 86. "
    "Give only the GCD as your final answer."
)
"""Of a kind that the controller knows, and where a second opinion is worth something."""

ASK = [{"role": "user", "content": "2+5="}]

PROMPT_LENGTH = (0.0, 0.25)
"""Scripted servers do not count; the bundled controller has to know."""

CONTROLLER = Path(__file__).parents[3] / "checkpoints" / "controller"


@pytest.fixture(scope="session")
def checkpoint():
    return load_checkpoint(CONTROLLER)


@pytest.fixture
def small():
    with Upstream(completion(model="small")).running() as upstream:
        yield upstream


@pytest.fixture
def large():
    with Upstream(completion(model="large")).running() as upstream:
        yield upstream


def ladder(*upstreams, metrics=None, breaker=None, answers=None, **settings):
    """Backends of upstream servers, which have as long as a busy machine takes."""
    patient = {
        "attempt_deadline_s": 20,
        "connect_timeout_s": 5,
        "revises": False,
        "prompt_length": PROMPT_LENGTH,
        **settings,
    }
    return Ladder(
        [
            OpenAIBackend(
                endpoint(
                    upstream if isinstance(upstream, str) else upstream.url,
                    name,
                    api_key="upstream-secret",
                    **patient,
                ),
                answers=answers,
                breaker=breaker() if breaker else CircuitBreaker(failures=50),
                observe=metrics.tried if metrics else lambda *_: None,
            )
            for upstream, name in zip(upstreams, ("small", "large"), strict=True)
        ]
    )


def variant(checkpoint, backend, name="main", **settings):
    return Variant(
        name=name,
        checkpoint=checkpoint,
        process=deployed_process(checkpoint, backend),
        decider=PolicyDecider(checkpoint.policy),
        **{"pricing": Pricing(checkpoint), **settings},
    )


class Running:
    """A service that listens, and clients for it."""

    def __init__(self, service, port):
        self.service, self.url = service, f"http://127.0.0.1:{port}"
        self.http = httpx2.Client(base_url=self.url, timeout=30)
        self.openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0)

    def ask(self, text=QUESTION, headers=None, **allot):
        """A chat completion, as JSON."""
        return self.http.post(
            "/v1/chat/completions",
            json={
                "model": "allot",
                "messages": [{"role": "user", "content": text}],
                "allot": allot,
            },
            headers=headers,
        )

    def chat(self, messages=ASK, **fields):
        """A chat completion, by OpenAI's client."""
        return self.openai.chat.completions.create(model="allot", messages=messages, **fields)

    def ready(self):
        """GET /ready, once all models have been checked."""
        for _ in range(100):
            found = self.http.get("/ready")
            if "not checked yet" not in found.json()["wrong"].values():
                break
            time.sleep(0.05)
        return found


@contextmanager
def listening(service):
    """Serve in a thread until the block ends."""
    server = uvicorn.Server(http_server(service, 2, port=0, log_level="error"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    running = Running(service, server.servers[0].sockets[0].getsockname()[1])
    try:
        yield running
    finally:
        running.http.close()
        running.openai.close()
        server.should_exit = True
        thread.join()


@pytest.fixture
def serve(checkpoint):
    """Makes services in front of upstream servers; they end with the test."""
    with ExitStack() as stack:

        def start(
            *upstreams,
            limits=None,
            keys=None,
            variants=None,
            variant_settings=None,
            breaker=None,
            playground=False,
            shared=None,
            **settings,
        ):
            metrics, served = Metrics(), []
            backend = ladder(*upstreams, metrics=metrics, breaker=breaker, **settings)
            engine = Engine(
                Variants(variants or [variant(checkpoint, backend, **(variant_settings or {}))]),
                backend,
                limits=replace(limits or Limits(), deadline_s=10),
                shared=shared,
                on_served=lambda one: (metrics.served(one), served.append(one)),
                on_stray=lambda name, feature: metrics.strays.labels(name, feature).inc(),
            )
            service = Service(engine, keys=keys, metrics=metrics, playground=playground)
            running = stack.enter_context(listening(service))
            running.served = served
            return running

        yield start


@pytest.fixture
def service(serve, small, large):
    return serve(small, large)
