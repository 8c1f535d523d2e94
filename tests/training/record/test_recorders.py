"""Recording from servers: however many requests at a time, the same attempts; or none."""

import asyncio
import random
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest

from controller.errors import BackendError, ConfigError
from controller.process.types import Question
from envs.traces.format import TraceSet
from tests.conftest import CHECKPOINTS
from tests.controller.server.upstream import Upstream, completion
from training.record.settings import RecordConfig
from training.record.sources import find_source, record_models

QUESTIONS = {
    "train": [
        Question(question_id=f"q{i}", text=f"{i} + 1 =", reference=str(i + 1)) for i in range(9)
    ]
}
CONFIG = RecordConfig(samples=4, escalations=2, shard_questions=4)


async def stream(exchange, *texts, pause_s=0.0, finish="stop"):
    """A completion in pieces."""
    await exchange.begin_stream()
    model = exchange.body["model"]
    for text in texts:
        await exchange.event(text, model=model)
        await asyncio.sleep(pause_s)
    usage = {"prompt_tokens": 10, "completion_tokens": len(texts), "total_tokens": 10}
    await exchange.event(finish=finish, model=model, usage=usage)
    await exchange.send(b"data: [DONE]\n\n")


overloaded = Counter()


async def seeded(exchange):
    """Answers as its seed tells, after a while, or is overloaded for the moment: thrice at most."""
    asked = exchange.body["model"], exchange.body["seed"]
    if overloaded[asked] < 3 and random.random() < 0.2:
        overloaded[asked] += 1
        await exchange.reply({}, status=503)
        return
    await asyncio.sleep(random.random() / 100)
    await stream(exchange, "Answer: ", str(exchange.body["seed"] % 10))


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("training.record.recorders.FIRST_PAUSE_S", 0.005)


def record(upstream, out, cluster=None, config=CONFIG, questions=QUESTIONS, **settings):
    models = [f"{name}={upstream.url}#{name}" for name in ("small", "large")]
    parameters = {"small": 1e6, "large": 1e7}
    source = find_source(models, parameters=parameters, **settings)
    record_models(questions, source, out, config, cluster=cluster)
    return TraceSet.read(out)


def said(traces):
    return traces.attempts.drop_columns(["seconds"]).to_pylist()


def test_content_does_not_depend_on_what_is_asked_side_by_side(tmp_path):
    with Upstream(seeded).running() as upstream:
        alone = record(upstream, tmp_path / "alone", concurrency=1)
        many = record(upstream, tmp_path / "many", concurrency=16)
        other = record(upstream, tmp_path / "other", concurrency=16, seed=1)
    assert said(alone) == said(many)
    assert alone.attempts["answer"] != other.attempts["answer"]
    assert len(alone.attempts) == 9 * 6
    assert alone.attempts["error"].null_count == 9 * 6
    assert [model.parameters for model in alone.models()] == [1e6, 1e7]
    assert alone.manifest["models"]["small"]["server"].endswith("#small")
    assert "licence" not in alone.manifest


def test_each_server_has_a_queue_of_its_own(tmp_path):
    most = Counter()

    def busy(name):
        async def behaviour(exchange):
            most[name] = max(most[name], servers[name].open)
            await stream(exchange, "Answer: 1", pause_s=0.02)

        return behaviour

    servers = {name: Upstream(busy(name)) for name in ("a", "b", "c")}
    with servers["a"].running(), servers["b"].running(), servers["c"].running():
        models = [f"{upstream.url}#{name}" for name, upstream in servers.items()]
        record_models(QUESTIONS, find_source(models, concurrency=3), tmp_path, CONFIG)
    assert most == {"a": 3, "b": 3, "c": 3}
    assert Counter(TraceSet.read(tmp_path).attempts["model"].to_pylist()) == {
        "a": 9 * 4,
        "b": 9 * 2,
        "c": 9 * 2,
    }


def test_a_menu_gets_more_small_models_and_others_are_refused_before_any_is_loaded(tmp_path):
    asked = []

    async def behaviour(exchange):
        asked.append(exchange.body["model"])
        await stream(exchange, "Answer: 1")

    with Upstream(behaviour).running() as upstream:
        small, more, large = (f"{upstream.url}#{name}" for name in "abc")
        record_models(QUESTIONS, find_source([small, large]), tmp_path, CONFIG)
        asked.clear()
        grown = replace(CONFIG, smalls=2)
        record_models(QUESTIONS, find_source([small, more, large]), tmp_path, grown)
        assert Counter(asked) == {"b": 9 * 4}
        asked.clear()
    no_model = tmp_path / "model"
    no_model.mkdir()
    (no_model / "config.json").write_text("{}")
    hot = find_source([no_model], temperature=1.0)
    with pytest.raises(ConfigError, match=r"another temperature \(1.0 instead of"):
        record_models(QUESTIONS, hot, tmp_path, CONFIG)


def test_attempts_at_a_question_follow_one_another_so_that_its_prompt_is_cached(tmp_path):
    order = []

    async def behaviour(exchange):
        order.append(exchange.body["messages"][0]["content"])
        await stream(exchange, "Answer: 1")

    with Upstream(behaviour).running() as upstream:
        source = find_source([f"{upstream.url}#a"], concurrency=1)
        record_models(QUESTIONS, source, tmp_path, CONFIG)
    assert [order[i] for i in range(0, 36, 4)] == list(dict.fromkeys(order))


def test_nobody_runs_ahead_of_a_slow_server(tmp_path):
    asked, ahead = Counter(), []

    def behaviour(name, pause_s):
        async def answer(exchange):
            asked[name] += 1
            ahead.append(asked["fast"] - asked["slow"])
            await stream(exchange, "Answer: 1", pause_s=pause_s)

        return answer

    many = [Question(question_id=str(i), text=str(i), reference="1") for i in range(60)]
    fast, slow = Upstream(behaviour("fast", 0)), Upstream(behaviour("slow", 0.01))
    with fast.running(), slow.running():
        source = find_source([f"{fast.url}#fast", f"{slow.url}#slow"], concurrency=2)
        config = RecordConfig(samples=1, escalations=1, shard_questions=5)
        record_models({"test": many}, source, tmp_path, config)
    assert 3 < max(ahead) <= 5 + 2 + 1


def test_a_slow_server_is_waited_for_and_an_attempt_beyond_its_deadline_is_a_fact(tmp_path):
    async def slow(exchange):
        pieces = 60 if exchange.body["messages"][0]["content"].startswith("0") else 6
        await stream(exchange, *["x "] * pieces, "Answer: 1", pause_s=0.1)

    one = RecordConfig(samples=1, escalations=0)
    with Upstream(slow).running() as upstream:
        source = find_source([f"{upstream.url}#slow"], attempt_deadline=4 / 60)
        record_models(QUESTIONS, source, tmp_path, one)
        assert upstream.calls == 9
    errors = Counter(TraceSet.read(tmp_path).attempts["error"].to_pylist())
    assert errors == {None: 8, "attempt_deadline": 1}


def test_a_server_that_is_down_is_waited_for(tmp_path, recwarn):
    async def ready(exchange):
        await stream(exchange, "Answer: 1")

    upstream = Upstream(ready)
    with upstream.running():
        source = find_source([f"{upstream.url}#late"])
    failures = []

    def run():
        try:
            record_models(QUESTIONS, source, tmp_path, CONFIG)
        except BaseException as error:
            failures.append(error)

    recording = threading.Thread(target=run, daemon=True)
    recording.start()
    deadline = time.monotonic() + 60
    while not recwarn.list and time.monotonic() < deadline:
        time.sleep(0.1)
    assert recording.is_alive()
    assert "'refused', asking again for up to" in str(recwarn.list[0].message)
    with upstream.running(upstream.port):
        recording.join(60)
    assert not failures
    assert len(TraceSet.read(tmp_path).attempts) == 9 * 4


def test_what_waiting_does_not_help_against_stops_and_a_refusal_is_a_fact(tmp_path, monkeypatch):
    async def refuse(exchange):
        await exchange.reply({"error": {"message": "too long"}}, status=400)

    async def down(exchange):
        await exchange.reply({}, status=500)

    async def locked(exchange):
        await exchange.reply({}, status=401)

    async def fails_once(exchange):
        if exchange.body["messages"][0]["content"].startswith("3"):
            await exchange.reply({}, status=500)
        else:
            await stream(exchange, "Answer: 1", pause_s=0.02)

    async def minds(exchange):
        await exchange.reply({"error": {"message": "bad", "param": "messages"}}, status=400)

    async def filters(exchange):
        await exchange.reply({"error": {"code": "content_filter"}}, status=400)

    async def moved(exchange):
        await exchange.reply({}, status=308)

    facts = {"context_length_exceeded": refuse, "rejected:messages": minds}
    for error, behaviour in (facts | {"content_filter": filters}).items():
        with Upstream(behaviour).running() as upstream:
            refused = record(upstream, tmp_path / error)
            assert upstream.calls == 54
        assert set(refused.attempts["error"].to_pylist()) == {error}
    with Upstream(fails_once).running() as upstream:
        poisoned = record(upstream, tmp_path / "poisoned", concurrency=2)
    assert Counter(poisoned.attempts["error"].to_pylist()) == {None: 48, "server_error": 6}
    monkeypatch.setattr("training.record.recorders.PATIENCE_S", 0.1)
    stopped = {"'server_error' for": down, "its key is ALLOT_UPSTREAM_KEY_0": locked}
    for said, behaviour in (stopped | {"'redirected'; run": moved}).items():
        with (
            Upstream(behaviour).running() as upstream,
            pytest.raises(BackendError, match=said) as told,
        ):
            record(upstream, tmp_path / said)
        assert "run the same command again" in str(told.value)


def test_a_limit_says_nothing_of_a_question_and_pauses_are_as_long_as_servers_ask(tmp_path):
    asked = {}

    def limited(times, pause):
        async def behaviour(exchange):
            first = exchange.body["messages"][0]["content"].startswith("3")
            made = asked.setdefault(exchange.body["seed"], [])
            made.append(time.monotonic())
            if first and len(made) <= times:
                await exchange.reply({}, status=429, headers=pause)
            else:
                await stream(exchange, "Answer: 1")

        return behaviour

    with Upstream(limited(6, {})).running() as upstream:
        traces = record(upstream, tmp_path / "often")
    assert traces.attempts["error"].null_count == len(traces.attempts)
    asked.clear()
    with Upstream(limited(1, {"retry-after": "0.3"})).running() as upstream:
        record(upstream, tmp_path / "told")
    pauses = [again - at for at, *rest in asked.values() for again in rest]
    assert len(pauses) == 6
    assert min(pauses) >= 0.3
    asked.clear()
    with (
        Upstream(limited(1, {"retry-after": "3600"})).running() as upstream,
        pytest.raises(BackendError, match="asks for a pause of 3600 s; run the same"),
    ):
        record(upstream, tmp_path / "long")


def test_models_in_this_process_and_behind_a_server_are_recorded_together(validation, tmp_path):
    some = {"test": validation.questions[::60]}
    with Upstream(completion("Answer: 1", model="far")).running() as upstream:
        upstream.script(seeded)
        source = find_source(
            [str(CHECKPOINTS / "small"), f"{upstream.url}#far", f"near={CHECKPOINTS / 'large'}"],
            max_new_tokens=32,
        )
        config = RecordConfig(samples=2, escalations=1, shard_questions=3)
        record_models(some, source, tmp_path / "mixed", config)
    traces = TraceSet.read(tmp_path / "mixed")
    counts = Counter(traces.attempts["model"].to_pylist())
    n = len(some["test"])
    assert counts == {"small": 2 * n, "far": n, "near": n}
    assert traces.questions["prompt_hidden"].null_count == 0
    local = find_source([str(CHECKPOINTS / "small")], max_new_tokens=32)
    record_models(some, local, tmp_path / "local", config)
    texts = [row["text"] for row in traces.attempts.to_pylist() if row["model"] == "small"]
    assert texts == TraceSet.read(tmp_path / "local").attempts["text"].to_pylist()


def test_prompts_are_sent_and_stored(tmp_path):
    async def ready(exchange):
        await stream(exchange, "Answer: 1")

    with Upstream(ready).running() as upstream:
        chat = ({"role": "user", "content": "{question} Think."},)
        places = [f"{upstream.url}#m", f"other={upstream.url}#m"]
        source = find_source(places, prompts={"other": chat})
        record_models(QUESTIONS, source, tmp_path, CONFIG)
        asked = Counter(r.body["messages"][-1]["content"][-6:] for r in upstream.requests)
    assert asked["Think."] == 18
    assert asked.total() == 54
    assert TraceSet.read(tmp_path).manifest["models"]["other"]["prompt"] == list(chat)


def test_models_in_this_process_are_asked_with_a_prompt_as_well(tmp_path):
    question = Question(question_id="q", text="3 * 4 =", reference="12")
    small = CHECKPOINTS / "small"
    source = find_source(
        [f"bare={small}", f"asked={small}"],
        prompts={"asked": ({"role": "user", "content": "{question} 3 * 4 ="},)},
    )
    record_models({"test": [question]}, source, tmp_path, RecordConfig(samples=1, escalations=1))
    bare, asked = TraceSet.read(tmp_path).attempts["prompt_tokens"].to_pylist()
    assert asked > bare
    models = TraceSet.read(tmp_path).manifest["models"]
    assert "prompt" not in models["bare"]
    assert models["asked"]["prompt"][0]["content"].startswith("{question}")


def test_credentials_are_not_recorded():
    with pytest.raises(ConfigError, match="without a name and password"):
        find_source(["http://me:secret@127.0.0.1:1/v1#m"])
