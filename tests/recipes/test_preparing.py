"""Contexts are new to the models, and the rules to beat are tuned."""

import random
import re

import numpy as np
import pytest

from envs.questions.bundled import pool_of
from envs.sessions.table import read_sessions
from envs.traces.format import TraceSet
from recipes.break_even import ClosedForm
from recipes.contexts import EACH, KINDS, draw_contexts
from recipes.preparing import crossing, interval, play, rules
from tests.conftest import CHECKPOINTS


@pytest.fixture(scope="module")
def table():
    return read_sessions(TraceSet.read(CHECKPOINTS / "sessions"), ["train"])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_asked_that_models_learned_from_or_twice(kind):
    seen = set()
    for context in draw_contexts(kind, 5, random.Random(0), seen):
        asked = [*context.likely, *context.others]
        assert len(asked) == 2 * EACH
        assert all(pool_of(re.sub(":[a-z]$", "", one.key)) != "language_model" for one in asked)
    assert len(seen) == 5 * 2 * EACH


def test_references_are_right():
    for context in draw_contexts("table", 3, random.Random(1), set()):
        for one in (*context.likely, *context.others):
            (expression,) = re.findall(r"\d+ [*+-] \d+", one.text)
            a, sign, b = expression.split()
            value = {"*": int(a) * int(b), "+": int(a) + int(b), "-": int(a) - int(b)}[sign]
            assert one.reference == str(value)


def test_what_is_recorded_is_what_the_recipe_draws(table):
    seen, rng = set(), random.Random("0/table")
    first = next(draw_contexts("table", 1, rng, seen))
    texts = dict(
        zip(
            *(
                TraceSet.read(CHECKPOINTS / "sessions").questions[c].to_pylist()
                for c in ("question_id", "question")
            ),
            strict=True,
        )
    )
    assert [texts[f"table/train0/1/{i}"] for i in range(EACH)] == [q.text for q in first.likely]


def test_tuned_rules_are_ahead_of_those_that_are_not(table):
    found = {
        name: play(table, rule, 1, 2000).mean()
        for name, rule in rules(ClosedForm(table), table).items()
    }
    never, always, least, exact = found.values()
    assert exact > least > max(never, always)


def test_an_interval_covers_its_mean_and_a_crossing_is_the_first(table):
    values = play(table, rules(ClosedForm(table), table)["never prepare"], 2, 2000)
    low, high = interval(table, values)
    assert low < values.mean() < high
    assert crossing(np.arange(4.0), np.array([0.1, 0.6, 0.4, 0.9])) == 1
    assert crossing(np.arange(2.0), np.zeros(2)) == float("inf")
