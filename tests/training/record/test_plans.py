"""Plans of a recording."""

from dataclasses import replace

import pytest

from controller.errors import ConfigError
from controller.process.types import ModelSpec, Question
from training.record.plans import Plan
from training.record.settings import RecordConfig

QUESTION = Question(question_id="q", text="?", reference="1")
MODELS = tuple(ModelSpec(name=name, rung=rung) for rung, name in enumerate("abc"))


def test_small_models_sample_and_large_ones_are_escalated_to():
    config = RecordConfig(samples=5, escalations=2, smalls=2)
    assert config.wanted(MODELS) == {"a": 5, "b": 5, "c": 2}
    assert [config.tier(rung) for rung in range(3)] == ["small", "small", "large"]


def test_first_samples_of_the_first_model_are_revised():
    config = RecordConfig(samples=5, revised_samples=2)
    assert [config.is_revised(0, index) for index in range(4)] == [True, True, False, False]
    assert not config.is_revised(1, 0)
    assert not RecordConfig(revised_samples=2, revisers=(1,)).is_revised(0, 0), "in a second pass"


def test_heavy_models_answer_fewer_questions_side_by_side():
    heavy = replace(MODELS[0], parameters=1e9)
    assert RecordConfig().shard_size(MODELS) > RecordConfig().shard_size([heavy])
    assert RecordConfig(shard_questions=3).shard_size([heavy]) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "samples"),
        ({"samples": 2, "revised_samples": 3}, "at least 0 and at most 2"),
    ],
)
def test_amounts_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        RecordConfig(**settings)


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ([], "expected at least one"),
        ([replace(QUESTION, reference=None)], "expected a reference"),
        ([QUESTION, QUESTION], "expected no repeats, found 'q' twice"),
    ],
)
def test_what_cannot_be_recorded_is_no_plan(questions, message):
    with pytest.raises(ConfigError, match=message):
        Plan(questions=tuple((q, "test") for q in questions), wanted={"a": 1}, manifest={})
