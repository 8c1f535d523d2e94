"""Samples that are dropped while they are written: in this process and behind a server."""

import asyncio
from dataclasses import replace

import httpx
import numpy as np
import pytest
import torch

from controller.backends.base import run_now
from controller.backends.local.backend import LocalBackend
from controller.backends.local.model import load_model
from controller.backends.openai.backend import OpenAIBackend
from controller.process.types import Question
from envs.traces.format import TraceSet
from recipes.drop import first
from recipes.race import Race
from recipes.races import Races, read_races
from tests.conftest import CHECKPOINTS, REAL, needs_real_model
from tests.controller.server.llama_cpp import llama_cpp
from tests.controller.server.upstream import Upstream, completion, endpoint

GROUP, SAMPLES = 8, 16


@pytest.fixture(scope="module")
def backend():
    return LocalBackend(load_model(CHECKPOINTS / "small", 0), max_cached_prompts=0)


@pytest.fixture(scope="module")
def recorded():
    traces = TraceSet.read(CHECKPOINTS / "drop")
    rows = traces.questions.filter(traces.questions["split"].to_numpy(False) == "test")
    return read_races(traces, ("test",)), rows.slice(0, 6).to_pylist()


def kv_bytes(backend):
    """Memory of the keys and values of the attempts that are written."""
    layers = backend._decoder.cache.layers
    return sum(x.nbytes for layer in layers for x in layer.memory)


def asked(row):
    return Question(question_id=row["question_id"], text=row["question"], answers="exact")


def confident(least):
    return first(SAMPLES, lambda marks: marks.lowest >= least)


def replayed(table, place, decide):
    races = Races(table, 1)
    races.begin(np.arange(1), np.array([place]), np.zeros(1, np.int64))
    seen = [races.marks()]
    while seen[-1].running.any():
        races.advance(seen[-1], decide(seen[-1]))
        seen.append(races.marks())
    return races, seen


def test_what_was_recorded_is_what_is_written_live(backend, recorded):
    (table, rows), decide = recorded, confident(-0.8)
    for place, row in enumerate(rows):
        seen = []

        def watched(marks, seen=seen):
            seen.append(marks)
            return decide(marks)

        live = run_now(Race(backend, asked(row), SAMPLES, GROUP, watched).run())
        races, told = replayed(table, place, decide)
        written = live.usage.decoded_tokens + live.usage.cancelled_tokens
        assert written + table.prompt_tokens[place] == races.tokens[0]
        assert live.dropped == (~races.kept).sum()
        assert len(live.attempts) == races.kept.sum()
        same = live.answer is not None and live.answer == row["reference"]
        assert same == races.right(told[-1])[0]
        for ours, theirs in zip(seen, told, strict=False):
            there = theirs.running | theirs.ended
            np.testing.assert_array_equal(ours.running, theirs.running)
            for name in ("mean", "last", "lowest"):
                given = getattr(ours, name)[there], getattr(theirs, name)[there]
                np.testing.assert_allclose(*given, atol=2e-5)


def test_memory_of_dropped_rows_is_let_go(backend, recorded):
    held = []

    def four(marks):
        held.append(kv_bytes(backend))
        return marks.running & (np.arange(SAMPLES) < (SAMPLES if len(held) < 3 else 4))

    row = recorded[1][0]
    run_now(Race(backend, asked(row), SAMPLES, 4, four).run())
    assert (held[2], held[3]) == (768 * 2**10, 192 * 2**10)
    assert kv_bytes(backend) == 0  # nothing is written any more


def test_nobody_starts_and_the_question_is_given_up(backend, recorded):
    race = Race(backend, asked(recorded[1][0]), 4, GROUP, lambda marks: marks.running & False)
    found = run_now(race.run())
    assert (found.answer, found.attempts, found.dropped) == (None, (), 0)
    assert found.usage.processed_tokens == 0


def test_a_row_that_fails_does_not_hold_up_the_others(recorded):
    """Where a token has no embedding that is a number."""
    local = load_model(CHECKPOINTS / "small", 0)
    backend = LocalBackend(local, max_cached_prompts=0)
    race = Race(backend, asked(recorded[1][0]), 4, 4, lambda marks: marks.running)
    run_now(race.run())
    used = [set(local.tokenizer.encode(s.text, add_special_tokens=False)) for s in race.samples]
    poison = next(token for token in sorted(set.union(*used)) if sum(token in u for u in used) == 1)

    def spoil(module, args, output):
        (ids,) = args
        return output.masked_fill(((ids == poison) & (ids.shape[1] == 1))[..., None], torch.nan)

    marks = []
    local.model.get_input_embeddings().register_forward_hook(spoil)

    def seen(of):
        marks.append(of)
        return of.running

    found = run_now(Race(backend, asked(recorded[1][0]), 4, 4, seen).run())
    assert len(found.attempts) == 3
    longest = max(attempt.completion_tokens for attempt in found.attempts)
    assert marks[-1].written[0] == (longest - 1) // 4 * 4


def token(text, logprob=None, finish=None):
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    if logprob is None:
        return [choice]
    return [choice | {"logprobs": {"content": [{"token": text, "logprob": logprob}]}}]


async def sure(exchange):
    await exchange.begin_stream()
    for text in ("Ans", "wer", ":", " ", "7"):
        await exchange.event(choices=token(text, -0.1))
        await asyncio.sleep(0.05)
    await exchange.event(choices=token(".", -0.1, "stop"))
    await exchange.send(b"data: [DONE]\n\n")


async def silent(exchange):
    await exchange.begin_stream()
    for text in ("Ans", "wer", ":", " ", "8"):
        await exchange.event(choices=token(text))
    await exchange.event(choices=token(".", None, "stop"))
    await exchange.send(b"data: [DONE]\n\n")


async def silent_at_last(exchange):
    await exchange.begin_stream()
    for text in ("Ans", "wer", ":", " "):
        await exchange.event(choices=token(text, -0.1))
    await exchange.event(choices=token("8.", None, "stop"))
    await exchange.send(b"data: [DONE]\n\n")


async def at_once(exchange):
    await exchange.reply(completion("Answer: 8"))


async def unsure(exchange):
    await exchange.begin_stream()
    for _ in range(200):
        await exchange.event(choices=token("x", -4.0))
        await asyncio.sleep(0.05)


async def broken(exchange):
    await exchange.reply({"error": {"message": "no"}}, status=400)


def race_behind(server, num_samples, least):
    async def run():
        backend = OpenAIBackend(endpoint(server.url, max_retries=0), seed=0)
        question = replace(Question(question_id="q", text="2+5="), answers="number")
        decide = first(num_samples, lambda marks: marks.lowest >= least)
        try:
            return await Race(backend, question, num_samples, 2, decide).run()
        finally:
            await backend.close()

    return asyncio.run(run())


def test_streams_of_dropped_samples_are_closed_and_their_tokens_charged():
    with Upstream(sure, unsure, unsure, sure).running() as server:
        found = race_behind(server, 4, -1.0)
        assert (found.answer, found.dropped, len(found.attempts)) == ("7", 2, 2)
        assert server.abandoned == 2
        assert 4 <= found.usage.cancelled_tokens <= 20
        assert found.usage.decoded_tokens == 12


def test_a_sample_that_fails_does_not_hold_up_the_others():
    with Upstream(broken, sure).running() as server:
        found = race_behind(server, 3, -1.0)
        assert (found.answer, found.dropped, len(found.attempts)) == ("7", 0, 2)


@pytest.mark.parametrize("says", [silent, silent_at_last, at_once])
def test_answers_count_though_a_server_tells_no_log_probabilities(says):
    with Upstream(says, says).running() as server:
        assert race_behind(server, 2, -1.0).answer == "8"
    with Upstream(silent, sure).running() as server:
        assert race_behind(server, 2, -1.0).answer == "7"  # on a tie the one that is known


@needs_real_model
def test_llama_cpp_stops_writing_what_is_dropped():
    """Of four samples one goes on after the first mark, and the server has nothing else to do."""
    text = "Count from 1 to 200, one number a line."
    busy = []

    async def run(url):
        question = Question(question_id="q", text=text, answers="text", max_new_tokens=96)
        goes_on = {"ignore_eos": True}
        backend = OpenAIBackend(endpoint(url, "real", name="real", body=goes_on), seed=0)

        async def watch():
            async with httpx.AsyncClient(base_url=url.removesuffix("/v1")) as slots:
                while True:
                    found = (await slots.get("/slots")).json()
                    busy.append(sum(slot["is_processing"] for slot in found))
                    await asyncio.sleep(0.02)

        def one(marks):
            return marks.running & ((np.arange(4) < 1) | (marks.written[:, None] == 0))

        watching = asyncio.create_task(watch())
        try:
            return await Race(backend, question, 4, 16, one).run()
        finally:
            watching.cancel()
            await backend.close()

    with llama_cpp(REAL[0], "real", 4) as url:
        found = asyncio.run(run(url))
    assert (found.dropped, len(found.attempts)) == (3, 1)
    assert found.attempts[0].completion_tokens == 96
    assert 3 * 16 <= found.usage.cancelled_tokens < 3 * 48
    assert max(busy) == 4
    assert busy[-1] == 1
