"""Kinds of answers in trace sets and question files."""

import json

import pytest

from controller.errors import ConfigError, TraceFormatError
from controller.process.types import Question
from envs.questions.files import noted_kinds, only_kind, read_questions
from envs.questions.grader import KindGrader
from envs.traces.format import TraceSet
from envs.traces.importing import import_attempts
from envs.traces.logs import ImportOptions
from envs.traces.recorded import read_recorded
from envs.traces.summary import answer_warnings
from envs.traces.table import build_table

TEXTS = (r"\boxed{\frac{\sqrt{2}}{2}}", r"The answer is $1/\sqrt{2}$.", "It is 0.5.", "Answer: 1/2")


def imported(directory, *, answers=None, datasets=("d", "d")):
    rows = [
        {"question": f"q{q}", "model": "m", "text": text, "reference": "0.5", "dataset": dataset,
         "question_id": f"q{q}", "split": "train"}
        for q, dataset in enumerate(datasets)
        for text in TEXTS
    ]  # fmt: skip
    file = directory / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    options = ImportOptions(answers=answers)
    import_attempts([file], directory / "traces", parameters={"m": 1e6}, options=options)
    return TraceSet.read(directory / "traces")


def test_equal_answers_get_one_number_in_replay(tmp_path):
    traces = imported(tmp_path, answers="number")
    assert traces.manifest["answers"] == "number"
    table = build_table(traces, ["train"])
    assert table.attempts["answer"].tolist() == [0, 0, 1, 1] * 2
    assert table.answers == ((r"\frac{\sqrt{2}}{2}", "0.5"),) * 2
    assert table.answer_correct.tolist() == [[False, True]] * 2
    recorded = read_recorded(traces, ["train"])
    assert recorded.questions[0].answers == "number"
    assert [a.answer for a in recorded.attempts[2:4]] == ["0.5", "0.5"]


def test_each_data_set_may_have_its_own_kind(tmp_path):
    traces = imported(tmp_path, answers="number", datasets=("d", "e"))
    traces.manifest["answers"] = {"d": "number", "e": "exact"}
    table = build_table(traces, ["train"])
    assert table.attempts["answer"].tolist() == [0, 0, 1, 1, 0, 1, 2, 2]
    assert only_kind(traces.manifest) == "auto"
    traces.manifest["answers"] = {"d": "number"}
    with pytest.raises(TraceFormatError, match="data set 'e': answers: expected one of"):
        build_table(traces, ["train"])


def test_answers_that_cannot_be_read_are_told(tmp_path):
    with pytest.warns(UserWarning, match="m: an answer could be read from 6 of 8 attempts"):
        imported(tmp_path, answers="exact")


def test_an_answer_that_is_given_everywhere_and_is_wrong_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.envs.test_answer_kinds.TEXTS", ("It is 7.",) * 8 + TEXTS)
    with pytest.warns(UserWarning, match="repeat a text"):
        traces = imported(tmp_path, answers="number")
    (message,) = answer_warnings(traces, ["m"])
    assert message.startswith("m: 67% of 24 attempts answer '7', and 0% of these are right")


def test_rows_of_a_question_file_may_name_a_kind(tmp_path):
    file = tmp_path / "q.jsonl"
    rows = [
        {"question": "1+1", "reference": "2", "split": "test"},
        {"question": "A or B?", "reference": "B", "split": "test", "answers": "choice"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    first, second = read_questions(file, "number")["test"]
    assert (first.answers, second.answers) == ("number", "choice")
    assert KindGrader().is_right(second, "B. dogs")
    with pytest.raises(ConfigError, match="expected one kind in data set"):
        noted_kinds([first, second])
    file.write_text(json.dumps({**rows[0], "answers": "letters"}))
    with pytest.raises(TraceFormatError, match="line 1: answers: expected one of"):
        read_questions(file)


def test_what_is_noted_of_questions():
    questions = [Question(question_id=d, text=d, dataset=d, answers=k) for d, k in ("ax", "by")]
    assert noted_kinds(questions) == {"a": "x", "b": "y"}
    assert noted_kinds(questions[:1]) == "x"
    assert noted_kinds([]) == "auto"
