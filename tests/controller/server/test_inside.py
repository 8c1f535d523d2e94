"""A controller whose attempts are written segment by segment, behind the service."""

import asyncio
import threading
from dataclasses import replace

import pytest

from controller.backends.base import Request, run_now
from controller.backends.local.segmented import written_under
from controller.checkpoint import load_checkpoint, load_segment_checkpoint, save_checkpoint
from controller.loading import load_backend
from controller.process.actions import ActionKind
from controller.server.config import ServeConfig
from controller.server.ops import Metrics
from controller.server.run import build_backend
from controller.server.shared import Shared
from training.report.show import new_questions

QUESTIONS = new_questions(6, seed=3)
PRICE = 1e-3


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    """The bundled controller, told that its samples are written under the one inside."""
    root = tmp_path_factory.mktemp("both")
    bundled = load_checkpoint("checkpoints/controller")
    under = bundled.path.resolve().parent / "segments" / "controller"
    absolute = {
        "model_paths": tuple(str((bundled.path / p).resolve()) for p in bundled.model_paths),
        "adapter_paths": {
            name: str((bundled.path / p).resolve()) for name, p in bundled.adapter_paths.items()
        },
    }
    save_checkpoint(replace(bundled, segment_controller=(str(under), PRICE), **absolute), root)
    return load_checkpoint(root)


def samples(**settings):
    return [Request(question=q, action=ActionKind.SAMPLE, **settings) for q in QUESTIONS]


@pytest.fixture(scope="module")
def expected(segmented):
    """What the controller inside writes, and what would be written without it."""
    plain = load_backend(replace(segmented, segment_controller=None))
    under = load_segment_checkpoint(segmented.segment_controller[0])
    inside = written_under(under, plain.rungs[0], PRICE)
    return [[a.text for a in run_now(backend.attempts(samples()))] for backend in (inside, plain)]


def test_loading_brings_the_controller_inside(segmented, expected):
    written = [a.text for a in run_now(load_backend(segmented).attempts(samples()))]
    assert written == expected[0]
    assert written != expected[1]


def test_the_service_writes_the_same_attempts(segmented, expected):
    async def served():
        config = ServeConfig(controller=segmented.path)
        backend = build_backend(config, segmented, Metrics(), Shared())
        try:
            return await backend.attempts(samples())
        finally:
            await backend.close()

    assert [a.text for a in asyncio.run(served())] == expected[0]


def test_what_is_not_wanted_any_more_is_given_up(segmented):
    unwanted = threading.Event()
    unwanted.set()
    given_up, kept = samples()[:3], samples()[3:]
    requests = [replace(r, unwanted=unwanted) for r in given_up] + kept
    attempts = run_now(load_backend(segmented).attempts(requests))
    for attempt in attempts[:3]:
        assert attempt.error is not None
        assert attempt.answer is None
        assert attempt.usage.decoded_tokens == 0
    assert all(attempt.error is None for attempt in attempts[3:])
