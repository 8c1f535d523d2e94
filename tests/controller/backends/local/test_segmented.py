"""Attempts that are written under a policy inside them, on the bundled models."""

from dataclasses import replace

import pytest

from controller.backends.base import Request, run_now
from controller.backends.local.backend import TransformersBackend
from controller.backends.local.segmented import SegmentedBackend
from controller.backends.local.segments import SegmentWriter
from controller.errors import ConfigError
from controller.process.actions import ActionKind
from controller.segments.episodes import SAMPLE, STOP
from controller.segments.rules import SegmentRule, always, fixed_length, redo_unlikely
from envs.segments import build_trees
from envs.traces.derive import derive_segment_config
from training.report.show import new_questions

QUESTIONS = new_questions(5, seed=11)
SAMPLES = [
    Request(question=q, action=ActionKind.SAMPLE, index=index)
    for q in QUESTIONS
    for index in (0, 1)
]


@pytest.fixture(scope="module")
def process(trees):
    table = build_trees(trees, ["train"])
    return replace(derive_segment_config(table, trees), escalates=False)


@pytest.fixture
def build(small_and_large, process):
    def make(rule):
        return SegmentedBackend(
            TransformersBackend(small_and_large),
            SegmentWriter(small_and_large),
            rule,
            process,
            price=1e-3,
        )

    return make


def test_going_on_to_the_end_writes_plain_attempts(build):
    for attempt in run_now(build(SegmentRule(always, (SAMPLE,))).attempts(SAMPLES)):
        assert "Answer:" in attempt.text
        assert attempt.completion_tokens == attempt.usage.decoded_tokens
        assert attempt.usage.prefill_tokens in (0, attempt.prompt_tokens)


def test_what_is_thrown_away_is_paid_for(build, small_and_large):
    plain, redone = (
        run_now(build(rule).attempts(SAMPLES))
        for rule in (SegmentRule(always, (SAMPLE,)), SegmentRule(redo_unlikely, (-0.2, 3)))
    )
    tokens = [len(small_and_large[0].tokenizer(a.text)["input_ids"]) for a in redone]
    assert sum(a.completion_tokens for a in redone) > sum(tokens) + len(tokens)
    assert sum(a.completion_tokens for a in redone) > sum(a.completion_tokens for a in plain)
    for attempt in redone:
        used = attempt.usage.processed_tokens - attempt.usage.prefill_tokens
        assert attempt.completion_tokens == used


def test_a_forced_answer_ends_the_text_and_counts(build):
    for attempt in run_now(build(SegmentRule(fixed_length, (1,))).attempts(SAMPLES)):
        assert attempt.text.splitlines()[-1].startswith("Answer:")
        assert attempt.completion_tokens <= attempt.usage.processed_tokens


def test_an_attempt_that_is_asked_for_is_made(build):
    for attempt in run_now(build(SegmentRule(always, (STOP,))).attempts(SAMPLES)):
        assert attempt.text
        assert attempt.completion_tokens > 0


def test_an_attempt_does_not_depend_on_the_others(build):
    together = run_now(build(SegmentRule(redo_unlikely, (-0.2, 3))).attempts(SAMPLES))
    for request, attempt in zip(SAMPLES, together, strict=True):
        (alone,) = run_now(build(SegmentRule(redo_unlikely, (-0.2, 3))).attempts([request]))
        assert (alone.text, alone.completion_tokens) == (attempt.text, attempt.completion_tokens)


def test_other_attempts_are_left_to_the_backend_around(build):
    backend = build(SegmentRule(always, (SAMPLE,)))
    climb = Request(question=QUESTIONS[0], action=ActionKind.ESCALATE, rung=1)
    first, large, second = run_now(backend.attempts([SAMPLES[0], climb, SAMPLES[1]]))
    assert (first.rung, large.rung, second.index) == (0, 1, 1)
    assert large.text == run_now(backend.backend.attempts([climb]))[0].text


def test_the_large_model_may_not_take_over_inside(build, process):
    backend = build(SegmentRule(always, (SAMPLE,)))
    with pytest.raises(ConfigError, match="escalates"):
        SegmentedBackend(
            backend.backend,
            backend.writer,
            backend.policy,
            replace(process, escalates=True),
            price=1e-3,
        )
