"""The segment writer on the bundled models."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from controller.answers import answer_kind, read_answer
from controller.backends.base import Request, run_now
from controller.backends.local.backend import TransformersBackend, load_model
from controller.backends.local.segments import SegmentWriter
from controller.errors import BackendError, ConfigError
from controller.process.actions import ActionKind
from controller.process.cost import Usage
from controller.process.types import Question
from controller.segments.types import Prefix, Segmentation, SegmentRequest
from tests.conftest import CHECKPOINTS
from training.report.show import new_questions

QUESTIONS = new_questions(6, seed=3)


@pytest.fixture(scope="module")
def models():
    return [load_model(CHECKPOINTS / name, rung) for rung, name in enumerate(("small", "large"))]


@pytest.fixture
def writer(models):
    return SegmentWriter(models)


def requests(prefixes: Sequence[Prefix], **options) -> list[SegmentRequest]:
    return [SegmentRequest(prefix=prefix, **options) for prefix in prefixes]


def to_the_end(writer: SegmentWriter, prefixes: Sequence[Prefix]) -> list[Prefix]:
    """Small segments until every attempt is done, or as long as it may be."""
    prefixes = list(prefixes)
    while True:
        going = [
            i
            for i, prefix in enumerate(prefixes)
            if not prefix.done and prefix.num_tokens < writer.max_new_tokens
        ]
        if not going:
            return prefixes
        for i, longer in zip(
            going, writer.write(requests([prefixes[i] for i in going])), strict=True
        ):
            prefixes[i] = longer


class Counter:
    """Tokens that go through a model, by a hook on its embedding, without padding."""

    def __init__(self, local):
        self.tokens, self._mask = 0, None
        self._hooks = [
            local.model.register_forward_pre_hook(self._count, with_kwargs=True),
        ]

    def _count(self, module, args, kwargs):
        ids, mask = kwargs["input_ids"], kwargs["attention_mask"]
        if ids.shape[1] == 1:
            self.tokens += len(ids)
        else:
            self.tokens += int(mask[:, -ids.shape[1] :].sum())

    def remove(self):
        for hook in self._hooks:
            hook.remove()


@pytest.fixture
def counters(models):
    found = [Counter(model) for model in models]
    yield found
    for counter in found:
        counter.remove()


def test_ledger_counts_what_went_through_the_models(writer, counters):
    used = [Usage(), Usage()]

    def bill(usages):
        for usage in usages:
            for rung, entry in enumerate(usage):
                used[rung] += entry

    opened = writer.open([(question, number) for question in QUESTIONS for number in (0, 1)])
    bill(p.usage for p in opened)
    first = writer.write(requests(opened))
    redone = writer.write(requests(opened, index=1))
    over = writer.write(requests(first[:4], rung=1))
    ended = writer.write(requests(redone[:4], rung=1, to_end=True))
    rest = []
    level = [p for p in over + redone if not p.done]
    while level:
        level = writer.write(requests(level))
        rest += level
        level = [p for p in level if not p.done]
    forced = writer.force([p for p in first if not p.done])
    written = [*first, *redone, *over, *ended, *rest]
    bill(p.segment.usage for p in written)
    bill(f.usage for f in forced)
    # The token that ends an attempt or a forced answer is never fed back, nor is the last one
    # that the large model writes.
    ends = sum(p.done and p.segment.rung == 0 for p in written)
    unfed = ends + len(forced), len(over) + len(ended)
    assert min(len(over), len(ended), len(forced)) > 0
    assert sum(unfed) > 10
    assert counters[0].tokens == used[0].processed_tokens - unfed[0]
    assert counters[1].tokens == used[1].processed_tokens - unfed[1]


def test_segments_are_lines_and_attempts_end_as_whole_ones_do(writer):
    ended = to_the_end(writer, writer.open([(q, 0) for q in QUESTIONS]))
    for prefix in ended:
        assert prefix.done
        assert all(segment.text.endswith("\n") for segment in prefix.segments[:-1])
        assert "\n" not in prefix.segments[-1].text
        assert prefix.text.splitlines()[-1].startswith("Answer:")
        assert prefix.segment.answer is not None


@pytest.mark.parametrize("segmentation", [Segmentation(), Segmentation(lines=False, max_tokens=5)])
def test_greedy_segments_make_up_the_greedy_attempt(models, segmentation):
    writer = SegmentWriter(models, temperature=0, segmentation=segmentation)
    whole = TransformersBackend(models, temperature=0)
    attempts = run_now(
        whole.attempts([Request(question=q, action=ActionKind.SAMPLE) for q in QUESTIONS])
    )
    ended = to_the_end(writer, writer.open([(q, 0) for q in QUESTIONS]))
    for prefix, attempt in zip(ended, attempts, strict=True):
        assert prefix.text == attempt.text
        assert prefix.num_tokens == attempt.completion_tokens
        mean = np.average(
            [s.mean_logprob for s in prefix.segments],
            weights=[s.num_tokens for s in prefix.segments],
        )
        assert mean == pytest.approx(attempt.mean_logprob, abs=1e-4)


def test_a_segment_does_not_depend_on_what_else_is_in_the_call(writer, models):
    together = writer.write(requests(writer.open([(q, 0) for q in QUESTIONS])))
    together = writer.write(requests([p for p in together if not p.done]))
    for prefix in together:
        alone = SegmentWriter(models)
        (opened,) = alone.open([(prefix.question, 0)])
        (first,) = alone.write(requests([opened]))
        (second,) = alone.write(requests([first]))
        assert second.text == prefix.text
        assert second.segment.min_logprob == pytest.approx(prefix.segment.min_logprob, abs=1e-4)
        assert second.hidden is None or np.allclose(second.hidden, prefix.hidden, atol=1e-4)


def test_redoing_a_segment_leaves_the_prefix_and_draws_anew(writer):
    opened = writer.open([(q, 0) for q in QUESTIONS])
    draws = [writer.write(requests(opened, index=i)) for i in range(4)]
    again = writer.write(requests(opened))
    assert [p.text for p in again] == [p.text for p in draws[0]]
    assert any(len({draw[i].text for draw in draws}) > 1 for i in range(len(QUESTIONS)))
    other = writer.write(requests(writer.open([(q, 1) for q in QUESTIONS])))
    assert [p.text for p in other] != [p.text for p in again]


def test_reading_on_equals_reading_at_once(writer, models):
    """What is remembered after segments, a large one among them, is that of one forward pass."""
    opened = writer.open([(q, 0) for q in QUESTIONS])
    prefixes = [p for p in writer.write(requests(opened)) if not p.done]
    prefixes = [p for p in writer.write(requests(prefixes, rung=1)) if not p.done]
    prefixes = [p for p in writer.write(requests(prefixes)) if not p.done]
    assert prefixes
    small = models[0]
    for prefix in prefixes:
        ids = torch.tensor([prefix.memory[0].whole().tokens])
        with torch.inference_mode():
            output = small.model(input_ids=ids, output_hidden_states=True)
        assert small.decode(ids[0].tolist()).endswith(prefix.text)
        assert np.allclose(output.hidden_states[-1][0, -1].numpy(), prefix.hidden, atol=1e-3)
        logprobs = output.logits[0, -1].double().log_softmax(-1)
        assert prefix.segment.entropy == pytest.approx(
            float(-(logprobs.exp() * logprobs).sum()), abs=1e-3
        )


def test_forced_answers_are_stated_and_parsed(writer):
    prefixes = [
        p for p in writer.write(requests(writer.open([(q, 0) for q in QUESTIONS]))) if not p.done
    ]
    assert prefixes
    for forced in writer.force(prefixes):
        assert forced.text.startswith("Answer:")
        assert forced.answer is not None
        assert forced.num_tokens >= 2
        assert forced.answer == read_answer(forced.text, "exact", writer.answers)


def test_an_attempt_is_never_longer_than_it_may_be(models):
    writer = SegmentWriter(models, max_new_tokens=7, segmentation=Segmentation(max_tokens=3))
    ended = to_the_end(writer, writer.open([(q, 0) for q in QUESTIONS]))
    assert max(prefix.num_tokens for prefix in ended) == 7
    full = next(p for p in ended if not p.done)
    with pytest.raises(BackendError, match="room for another token"):
        writer.write(requests([full]))


def test_impossible_requests_say_so(writer):
    (prefix,) = writer.open([(QUESTIONS[0], 0)])
    with pytest.raises(ConfigError, match="rung"):
        writer.write(requests([prefix], rung=2))
    long = Question(question_id="long", text="7" * 2000)
    with pytest.raises(BackendError, match="context"):
        writer.open([(long, 0)])


def test_the_end_of_an_attempt_that_was_cut_is_no_answer(models):
    kind = answer_kind("number")
    writer = SegmentWriter(models, answers=kind, max_new_tokens=12)
    opened = writer.open([(replace(question, answers=None), 0) for question in QUESTIONS])
    ended = writer.write(requests(opened, to_end=True))
    cut = [p for p in ended if p.num_tokens == 12 and "\n" in p.text and "nswer" not in p.text]
    assert any(kind.read(prefix.text) for prefix in cut)
    assert not any(prefix.segment.answer for prefix in cut)
