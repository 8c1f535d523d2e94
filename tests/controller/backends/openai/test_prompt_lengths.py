"""Lengths of prompts from a server's own counts, whatever else it says."""

import asyncio
import time

import numpy as np
import pytest

from controller.backends.openai.endpoint import PromptLengths
from controller.backends.openai.prompt_lengths import (
    RunningFit,
    fit_prompt_length,
    plausible,
)
from controller.backends.openai.resilience import UpstreamError
from controller.process.types import Question


def prompts(n, constant=30, slope=0.3, noise=2.0, seed=0):
    """Characters and tokens of prompts in one template."""
    rng = np.random.default_rng(seed)
    long = rng.integers(20, 600, n)
    tokens = constant + slope * long + rng.normal(0, noise, n)
    return [(int(c), max(1, round(t))) for c, t in zip(long, tokens, strict=True)]


def test_constant_and_slope_are_found():
    constant, slope = fit_prompt_length(prompts(500))
    assert constant == pytest.approx(30, abs=1.5)
    assert slope == pytest.approx(0.3, abs=0.01)


def test_a_line_that_is_far_from_the_prompts_is_none():
    assert fit_prompt_length(prompts(200, noise=80)) is None
    assert fit_prompt_length(prompts(3)) is None


def test_prompts_of_nearly_one_length_are_not_extrapolated_from():
    """A digit more is a token more: a slope of 1, which no long question has."""
    constant, slope = fit_prompt_length([(60, 50), (61, 51), (62, 52)] * 4)
    assert (slope, constant) == (0.25, pytest.approx(36, abs=1))


def test_outlandish_counts_do_not_spoil_the_line():
    fit = RunningFit((30.0, 0.3))
    for i, pair in enumerate(prompts(60)):
        fit.learn(*(pair if i % 12 else (pair[0], 2**31 - 1)))
    assert fit.known
    assert fit.estimate(200) == pytest.approx(90, abs=4)
    assert not plausible(2**31 - 1, [{"role": "user", "content": "1+1?"}], {})


def test_a_line_is_learnt_from_nothing_but_counts():
    fit = RunningFit()
    assert not fit.known
    for pair in prompts(20):
        fit.learn(*pair)
    assert fit.known
    assert fit.estimate(200) == pytest.approx(90, abs=4)


def test_a_line_of_training_that_does_not_fit_is_doubted_then_replaced():
    """The server has another system prompt than the traces' had."""
    fit, doubted = RunningFit((30.0, 0.3)), False
    for pair in prompts(64, constant=200):
        fit.learn(*pair)
        doubted = doubted or not fit.known
    assert doubted
    assert fit.known
    assert fit.estimate(200) == pytest.approx(260, abs=10)


def test_who_counts_otherwise_than_the_server_is_not_asked_again():
    async def refused(path, body):
        raise UpstreamError("no_such_path", retryable=False)

    async def told():
        lengths, known = PromptLengths(refused, "small", tokenize=lambda chat: 12), []
        for number in range(12):
            question = Question(question_id=str(number), text="a" * number)
            known.append((await lengths.of(question, [{"content": question.text}]))[0] == 12)
            lengths.learn(question, 90 + number)
        return known

    assert asyncio.run(told()) == [True] * 3 + [False] * 9


def test_questions_that_are_counted_side_by_side_find_out_together_that_nobody_counts():
    async def refused(path, body):
        await asyncio.sleep(0)
        raise UpstreamError("no_such_path", retryable=False)

    async def counted():
        lengths = PromptLengths(refused, "small")
        return await asyncio.gather(*(lengths.count([{"content": str(i)}]) for i in range(8)))

    assert asyncio.run(counted()) == [None] * 8


def test_a_server_that_counts_late_is_tried_by_one_question_after_ever_longer_pauses(monkeypatch):
    monkeypatch.setattr("controller.backends.openai.endpoint._PAUSE_S", 0.1)
    asked = []

    async def late(path, body):
        asked.append(path)
        await asyncio.sleep(30 if slow else 0)
        return {"prompt": "", "tokens": [1, 2, 3]}

    async def burst():
        asked.clear()
        chats = [[{"content": str(i)}] for i in range(8)]
        patience = 0.02 if slow else 5.0
        counts = (lengths.count(chat, patience_s=patience) for chat in chats)
        found = await asyncio.gather(*counts)
        return found, len(asked)

    async def told():
        nonlocal slow
        found = [await burst(), await burst()]
        await asyncio.sleep(0.1)
        found += [await burst()]
        await asyncio.sleep(0.1)
        found += [await burst()]
        await asyncio.sleep(0.1)
        slow = False
        return [*found, await burst(), await burst()]

    slow, lengths = True, PromptLengths(late, "small")
    nobody, one, all_of_them = [None] * 8, [3] + [None] * 7, [3] * 8
    assert asyncio.run(told()) == [
        (nobody, 8),
        (nobody, 0),
        (nobody, 1),
        (nobody, 0),
        (one, 2),
        (all_of_them, 16),
    ]


def test_a_count_that_began_before_another_was_late_ends_no_pause():
    async def told():
        asked = []

        async def counts(path, body):
            number = len(asked)
            asked.append(path)
            await asyncio.sleep((30, 0.1, 0)[number])
            return {"prompt": "", "tokens": [1]}

        lengths = PromptLengths(counts, "small")
        late = asyncio.create_task(lengths.count([{"content": "a"}], patience_s=0.05))
        await asyncio.sleep(0.01)
        early = await lengths.count([{"content": "b"}], patience_s=10)
        return await late, early, await lengths.count([{"content": "c"}])

    assert asyncio.run(told()) == (None, 1, None)


def test_a_server_that_counts_again_is_found_out_within_a_minute():
    async def broken(path, body):
        raise UpstreamError("server_error")

    async def longest():
        lengths, pauses = PromptLengths(broken, "small"), []
        for _ in range(6):
            lengths._not_before = 0.0
            await lengths.count([{"content": "2+5="}])
            pauses.append(lengths._not_before - time.monotonic())
        return max(pauses)

    assert asyncio.run(longest()) <= 60
