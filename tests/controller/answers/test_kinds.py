"""Answers are read from what models write, and compared."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.answers import (
    KINDS,
    answer_kind,
    expressions,
    first_same,
    is_right,
    load_kind,
    read_answer,
    unread_warning,
)
from controller.errors import ConfigError

ROOT = Path(__file__).parents[3]
LONG = 1_000_000
PIECES = ("answer is ", "1,", "1 ", "is ", "\\boxed{", "<answer>", "#### ", "\\frac{1}{", "one-",
          "\nans: ", "$a ", "**", "(A) ", "- a\n", "1:2", " and ", "{", "\\text{", "wait, no, ",
          "answer: 1. Wait, ", "x = 3, ", "(1, ", "5 a b and ", "~~a", "==b",
          "[a](http:", "<b>", "((",
          "1 2 ", "x", "a1E9", "\n\n12", "A, ", "Antwort: ", "答案", "½",
          '"answer": [', "is 5 and ", "to a ", "\nQuestion: ", "\nNote: ", ":\n- a\n", ", so 1",
          ", which is 1 ", "the statement is ", "\n(a) 1\n(b) 2", "\n{\"a\": 1}", " is $x$ ",
          "total one two ", "[[ ## a ## ]]\n", "Red 5, ", "\\boxed{1} wait, ", "so the a is ",
          "answer to part a is 1. ")  # fmt: skip


def stated(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FORMS, HELD_OUT = stated("forms").FORMS, stated("held_out").HELD_OUT
MENDED = stated("mended").MENDED


def answer(kind, text):
    reading = answer_kind(kind).read(text)
    return None if reading is None else reading.answer


def test_there_are_enough_forms():
    assert len(FORMS) >= 200
    assert len(HELD_OUT) >= 60
    assert len(set(FORMS)) == len(FORMS)


@pytest.mark.parametrize("forms", [FORMS, HELD_OUT, MENDED], ids=["forms", "held out", "mended"])
def test_forms_are_read(forms):
    misread = [
        (kind, text, expected, found)
        for kind, text, expected in forms
        if (found := answer(kind, text)) != expected
    ]
    assert len(misread) <= 5, misread
    assert not [row for row in misread if row[3] is not None], misread


def test_the_rule_that_applied_is_told():
    texts = {
        "boxed": r"The answer is 5. \boxed{72}",
        "tagged": "<answer>72</answer>",
        "hashes": "24 * 3\n#### 72",
        "stated": "The answer is 72.",
        "bare": "72 dollars",
        "first_number": "72. Because 24 + 48",
        "last_number": "First 24 and then 48.\nSo she sold 72 clips.",
    }
    for how, text in texts.items():
        reading = answer_kind("number").read(text)
        assert (reading.answer, reading.how) == ("72", how)
    assert answer_kind("choice").read("B. Mars\n\nMars is red.").how == "first_letter"
    assert answer_kind("choice").read("I would choose option C.").how == "named_letter"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("First 2 and then 5", None),
        ("The sum", None),
        ("#### 5, as", "5"),
        ("5", "5"),
        ("5. To see this, take 2 and", "5"),
        ("5 apples\n\nShe had 3", "5"),
        ("5 is", None),
    ],
)
def test_the_end_of_a_text_that_was_cut_is_no_answer(text, answer):
    assert read_answer(text, None, answer_kind("auto"), cut=True) == answer


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_answers_that_were_read_are_spelled_already(kind):
    """So that recorded answers, read again, are numbered as they were."""
    for _, text, _ in (*FORMS, *HELD_OUT, *MENDED):
        found = answer(kind, text)
        if found is not None:
            assert answer_kind(kind).canonical(found) == found, text


@pytest.mark.parametrize("kind", sorted(KINDS))
@given(text=st.text(alphabet="the answer is 0123456789./,:-$%\\{}()*#\nABxyfracboxed ½٣"))
def test_any_text_can_be_read(kind, text):
    found = answer(kind, text)
    assert found is None or found
    answer_kind(kind).canonical(text)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("piece", PIECES)
def test_long_texts_are_read_at_once(kind, piece):
    text = piece * (LONG // len(piece))
    started = time.process_time()
    answer(kind, text)
    assert time.process_time() - started < 1.0  # a backtracking pattern takes minutes


def test_bundled_answers_are_read_as_they_were_recorded():
    table = pq.read_table(ROOT / "checkpoints/traces/attempts.parquet", columns=["text", "answer"])
    sample = table.slice(0, 20_000).to_pylist() + table.slice(table.num_rows - 20_000).to_pylist()
    exact = answer_kind("exact")
    for row in sample:
        assert answer("exact", row["text"]) == row["answer"]
        assert row["answer"] is None or exact.canonical(row["answer"]) == row["answer"]


@pytest.mark.parametrize(
    ("kind", "one", "other", "same"),
    [
        ("number", "1/2", "0.5", True),
        ("number", "$1,200.00", "1200", True),
        ("number", "50%", "50", True),
        ("number", "50%", "0.5", False),
        ("number", r"\frac{\sqrt{2}}{2}", r"1/\sqrt{2}", True),
        ("number", r"2\sqrt{3}", r"\sqrt{12}", True),
        ("number", r"\sqrt{3}", "2", False),
        ("number", "2^{10}", "1024", True),
        ("number", "x+1", "1+x", True),
        ("choice", "B. dogs", "(b)", True),
        ("choice", "B", "C", False),
        ("text", "The Nile", "nile.", True),
        ("list", "1, 2", "2, 1", False),
        ("set", "{1, 2}", "2 and 1", True),
        ("set", "1, 1, 2", "1, 2", False),
        ("exact", "1/2", "0.5", False),
        ("auto", "B. dogs", "B", True),
        ("auto", "Paris", "paris", True),
        ("auto", r"\sqrt{8}", r"2\sqrt{2}", True),
        ("whole", "a ", "a", True),
        ("number", "3 × 10⁸", "300000000", True),
        ("number", "\\frac{-1}{2}", "−½", True),
        ("number", "1,50,000", "150000", True),
        ("number", "3:2", "3/2", False),
        ("number", "(1, 2)", "1", False),
        ("list", "[(1, 2), (3, 4)]", "[[1, 2], [3, 4]]", True),
        ("list", "(1, 2), (3, 4)", "1, 2, 3, 4", False),
        ("list", "1>3, 2>2", "1>2, 2>2", False),
        ("list", "1,000; 2,000", "1000, 2000", True),
        ("list", "x = 2, x = 3", "2, 3", True),
        ("list", "x = 2, y = 3", "2, 3", False),
        ("set", "∅", "{}", True),
        ("text", "<b>Paris</b>", "paris", True),
        ("choice", "（Ｃ）", "C", True),
    ],
)
def test_equal_answers(kind, one, other, same):
    kind = answer_kind(kind)
    assert kind.same(one, other) is same
    assert kind.same(other, one) is same
    one, other = kind.canonical(one), kind.canonical(other)
    assert first_same(kind, other, ["nothing", one]) == (one if same else other)


def test_two_numbers_are_no_decimal_comma():
    auto = answer_kind("auto")
    assert is_right(auto, "-2, 1", "-2,1")
    assert is_right(auto, "3.5", "3,5")


def test_references_may_be_worked_solutions():
    number = answer_kind("number")
    assert is_right(number, "72", "48 + 24 = <<48+24=72>>72\n#### 72")
    assert is_right(number, "0.5", r"So it is $\boxed{\frac12}$.")
    assert not is_right(number, None, "72")
    assert not is_right(number, "72", None)


def test_what_hangs_is_killed_and_the_next_comparison_works():
    """A tower of powers would take for ever to evaluate."""
    started = time.monotonic()
    assert not expressions.same_value("9^{9^{9^{9^9}}}", "3", timeout_s=1.0)
    assert time.monotonic() - started < 30
    assert expressions.same_value("1/2", r"\frac{2}{4}", timeout_s=30)


def test_answers_are_not_evaluated(tmp_path):
    path = tmp_path / "pwned"
    code = f"__import__('os').system('touch {path}')"
    for text in (code, f"${code}$", f"\\boxed{{{code}}}", f"The answer is {code}"):
        expressions.equal_expressions(text, "1")
        for kind in KINDS.values():
            kind.read(text)
            kind.canonical(text)
    assert not os.path.exists(path)


def test_importing_is_cheap():
    """Only the standard library, beside this package."""
    code = (
        "import sys; before = set(sys.modules); import controller.answers; "
        "print({m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.strip() == "{'controller'}"


def test_own_functions_run_only_where_the_caller_names_them(tmp_path, monkeypatch):
    (tmp_path / "my_answers.py").write_text(
        "def last_word(text):\n    return text.split()[-1] if text else None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    named = answer_kind("my_answers:last_word")
    assert named.canonical(" a  b ") == "a b"
    with pytest.raises(ConfigError, match="files do not run code; pass --answers my_answers"):
        named.read("it is so")
    assert "my_answers" not in sys.modules
    assert load_kind("my_answers:last_word").read("it is so").answer == "so"
    assert answer_kind("my_answers:last_word").read("it is so").how == "own"


@pytest.mark.parametrize("name", ["numbers", "", ":", "a:b:c", "nothing.here:read", "json:read"])
def test_unknown_kinds_are_refused(name):
    with pytest.raises(ConfigError, match="answers: expected"):
        load_kind(name)


def test_people_are_told_of_answers_that_are_not_read():
    assert unread_warning("small", 10, 8) is None
    assert unread_warning("small", 0, 0) is None
    message = unread_warning("small", 10, 2, ["one.", "two.", "three.", "four."])
    assert "2 of 10 attempts (20%)" in message
    assert "--answers auto|number" in message
    assert "three." in message
    assert "four." not in message
