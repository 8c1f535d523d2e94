"""Prefixes form a tree."""

import pytest

from controller.errors import ConfigError
from controller.process.types import Question
from controller.segments.types import Prefix, Segment, Segmentation

PROMPT = Prefix(question=Question(question_id="q", text="?"), attempt=0, prompt_tokens=(3, 4))


def longer(prefix, text, tokens, **more):
    segment = Segment(model="small", rung=0, text=text, num_tokens=tokens, **more)
    return Prefix(
        question=prefix.question, attempt=0, prompt_tokens=(3, 4), before=prefix, segment=segment
    )


def test_what_is_written_after_a_prefix_leaves_it_as_it_is():
    first = longer(PROMPT, "1+1\n", 4)
    one, other = longer(first, "=2", 3, done=True), longer(first, "=3", 2)
    assert (PROMPT.text, first.text) == ("", "1+1\n")
    assert (one.text, one.num_tokens, one.done) == ("1+1\n=2", 7, True)
    assert (other.text, other.num_tokens, other.done) == ("1+1\n=3", 6, False)
    assert [segment.brief for segment in other.segments] == ["1+1", "=3"]


def test_a_segment_has_a_token_at_least():
    with pytest.raises(ConfigError, match="max_tokens: expected at least 1"):
        Segmentation(max_tokens=0)
