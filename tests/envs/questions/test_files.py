"""Question files: three formats, one reading."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controller.errors import TraceFormatError
from envs.questions.files import read_questions, split_of
from envs.traces.format import SPLITS

ROWS = [
    {"question": "1 + 1 =", "reference": "2", "split": "test", "level": 1},
    {"question": "2 + 2 =", "reference": "4", "split": "train", "answers": "number"},
]


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        lines = ["question,reference,split", *(f"{q},{r},{s}" for q, r, s in map(of_csv, rows))]
        path.write_text("\n".join(lines))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


def of_csv(row):
    return row["question"], row["reference"], row["split"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_every_format_gives_the_same_questions(tmp_path, suffix):
    found = read_questions(write(tmp_path / f"mine.{suffix}", ROWS))
    assert {split: [q.text for q in members] for split, members in found.items()} == {
        "train": ["2 + 2 ="],
        "validation": [],
        "test": ["1 + 1 ="],
    }
    (question,) = found["test"]
    assert (question.question_id, question.dataset) == ("mine/000001", "mine")
    assert (question.reference, question.answers) == ("2", "auto")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?", "answer": 1}, r"reference: expected text .*columns \['question', 'ans"),
        ({"question": "?", "reference": ["1", "2"]}, "reference: expected text or a number, fo"),
        ({"question": "?", "reference": "1", "level": "hard"}, "level: expected a whole number"),
        ({"question": " ", "reference": "1"}, "line 1, column question: expected text"),
        ({"question": "?", "reference": "1", "split": "dev"}, "column split: expected one of"),
        (
            {"question": "?", "reference": "1", "answers": "nonsense"},
            "line 1: answers: expected one of",
        ),
    ],
)
def test_a_row_that_is_none_is_named(tmp_path, row, message):
    with pytest.raises(TraceFormatError, match=message):
        read_questions(write(tmp_path / "mine.jsonl", [row]))


@pytest.mark.parametrize("level", ["2", "Level 2", 2.0])
def test_cells_are_read_as_those_of_an_import(tmp_path, level):
    chat = [{"role": "user", "content": "1 + 1 = \ud83d"}]
    row = {"question": chat, "reference": 2, "question_id": 0, "level": level, "split": "test"}
    (question,) = read_questions(write(tmp_path / "mine.jsonl", [row]))["test"]
    assert (question.text, question.reference, question.level) == ("1 + 1 = \ufffd", "2", 2)
    assert (question.question_id, question.dataset) == ("0", "mine")


def test_splits_follow_the_wording_not_its_case_or_spaces():
    texts = [f"question {i}" for i in range(1000)]
    assert [split_of(f"  {t.upper()} ") for t in texts] == [split_of(t) for t in texts]
    shares = [sum(split_of(t) == split for t in texts) / 1000 for split in SPLITS]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.05)
