"""Recording from servers: however many requests at a time, the same attempts; or none."""

import asyncio
import random

import pytest

from controller.errors import BackendError, ConfigError
from controller.types import Question
from envs.traces import TraceSet
from tests.server.upstream import Upstream, completion
from training.record import RecordConfig
from training.record_models import record_models
from training.sources import find_source

QUESTIONS = {
    "train": [
        Question(question_id=f"q{i}", text=f"{i} + 1 =", reference=str(i + 1)) for i in range(9)
    ]
}
CONFIG = RecordConfig(samples=4, escalations=2, shard_questions=4)


async def seeded(exchange):
    """Answers as its seed tells, after a while, or is overloaded for the moment."""
    if random.random() < 0.2:
        await exchange.reply({}, status=503)
        return
    await asyncio.sleep(random.random() / 100)
    digit = exchange.body["seed"] % 10
    await exchange.reply(completion(f"Answer: {digit}", model=exchange.body["model"]))


def record(upstream, out, cluster=None, **settings):
    models = [f"{upstream.url}#small", f"{upstream.url}#large"]
    source = find_source(models, parameters={"small": 1e6, "large": 1e7}, **settings)
    record_models(QUESTIONS, source, out, CONFIG, cluster=cluster)
    return TraceSet.read(out)


def test_content_does_not_depend_on_what_is_asked_side_by_side(tmp_path):
    with Upstream(seeded).running() as upstream:
        alone = record(upstream, tmp_path / "alone", concurrency=1)
        many = record(upstream, tmp_path / "many", concurrency=16)
        other = record(upstream, tmp_path / "other", concurrency=16, seed=1)
    assert alone.attempts.equals(many.attempts)
    assert alone.attempts["answer"] != other.attempts["answer"]
    assert len(alone.attempts) == 9 * 6
    assert alone.attempts["error"].null_count == 9 * 6
    assert [model.parameters for model in alone.models()] == [1e6, 1e7]


def test_concurrency_is_bounded(tmp_path):
    most = 0

    async def busy(exchange):
        nonlocal most
        most = max(most, upstream.open)
        await seeded(exchange)

    with Upstream(busy).running() as upstream:
        record(upstream, tmp_path / "out", concurrency=3)
    assert most == 3


def test_a_server_that_is_down_stops_the_recording_and_a_refusal_is_a_fact(tmp_path, monkeypatch):
    monkeypatch.setattr("controller.backends.openai.pause_s", lambda *_: 0.0)

    async def refuse(exchange):
        await exchange.reply({"error": {"message": "too long"}}, status=400)

    async def down(exchange):
        await exchange.reply({}, status=500)

    with Upstream(refuse).running() as upstream:
        refused = record(upstream, tmp_path / "refused")
    assert set(refused.attempts["error"].to_pylist()) == {"rejected"}
    with (
        Upstream(down).running() as upstream,
        pytest.raises(BackendError, match="run the same command again"),
    ):
        record(upstream, tmp_path / "down")


def test_servers_and_directories_do_not_mix():
    with pytest.raises(ConfigError, match="URL#MODEL for every rung"):
        find_source(["http://127.0.0.1:1/v1#small", "checkpoints/large"])
