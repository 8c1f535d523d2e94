"""Parts of a recording: written row group by row group, put in order, rows of others kept."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from controller.errors import ConfigError
from controller.process.types import Question
from envs.traces.format import ATTEMPT_SCHEMA
from training.record import parts as parts_module
from training.record.parts import SCHEMAS, Parts
from training.record.plans import Plan, question_row
from training.record.recording import write_set


def question(name):
    return Question(question_id=name, text=name, reference="1", answers="exact")


def attempt(name, index, parent=None):
    attempt_id = f"sample:{index}" if parent is None else f"{parent}>0"
    row = dict.fromkeys(ATTEMPT_SCHEMA.names)
    return row | {
        "question_id": name,
        "attempt_id": attempt_id,
        "parent_id": parent,
        "action": "sample" if parent is None else "revise",
        "model": "small",
        "index": index,
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "text": f"{name} {attempt_id}",
    }


@pytest.fixture
def parts(tmp_path):
    """Two attempts at each of b and a, the latter one of them revised, and one of two at c."""
    parts = Parts(tmp_path)
    plan = Plan(
        questions=tuple((question(name), "test") for name in "abc"),
        wanted={"small": 2},
        manifest={"answers": "exact"},
    )
    plan.write(parts)
    for name, index in (("b", 1), ("c", 0), ("a", 1), ("b", 0)):
        parts.add({"attempts": [attempt(name, index)]})
        parts.flush()
    parts.add({"attempts": [attempt("a", 1, "sample:1"), attempt("a", 0)]})
    parts.add({"questions": [question_row(question("a"), "test", None)]})
    parts.flush()
    return parts


def texts(path):
    return pq.read_table(path / "attempts.parquet")["text"].to_pylist()


def test_a_set_is_in_order_whatever_the_parts_are_and_a_row_group_at_a_time(parts, monkeypatch):
    monkeypatch.setattr(parts_module, "ROW_GROUP", 2)
    write_set(Plan.read(parts), parts, {})
    expected = ["a sample:0", "a sample:1", "a sample:1>0", "b sample:0", "b sample:1"]
    assert texts(parts.out) == expected
    assert pq.ParquetFile(parts.out / "attempts.parquet").num_row_groups == 3
    asked = pq.read_table(parts.out / "questions.parquet")["question_id"].to_pylist()
    assert asked == ["a", "b"]


def test_what_is_not_whole_is_kept_and_goes_into_the_set_later(parts):
    write_set(Plan.read(parts), parts, {})
    assert [len(parts.paths(table)) for table in SCHEMAS] == [1, 2]
    assert parts.held()["c"] == {("small", 0)}
    parts.add({"attempts": [attempt("c", 1)]})
    parts.flush()
    write_set(Plan.read(parts), parts, {})
    assert texts(parts.out)[-2:] == ["c sample:0", "c sample:1"]
    assert len(texts(parts.out)) == 7
    assert not parts.work.exists()


def test_scores_that_came_later_are_put_into_the_rows_of_their_attempts(parts):
    plan = Plan.read(parts)
    plan = replace(plan, manifest={**plan.manifest, "models": {"small": {"verifies": True}}})
    plan.write(parts)
    left = {m.question.question_id: m.of("small") for m in plan.unscored(parts)}
    assert {name: len(attempts) for name, attempts in left.items()} == {"a": 3, "b": 2, "c": 1}
    # One judgement failed: it was paid for, and is not asked for again.
    known = {("a", made.attempt_id): place / 4 or None for place, made in enumerate(left["a"])}
    for (name, attempt_id), score in known.items():
        row = {"question_id": name, "attempt_id": attempt_id, "verifier_score": score}
        parts.add({"scores": [row | {"verifier_tokens": 9}]})
    parts.flush()
    write_set(plan, parts, {})
    found = pq.read_table(parts.out / "attempts.parquet").to_pylist()
    assert {(r["question_id"], r["attempt_id"]): r["verifier_score"] for r in found} == known
    assert {row["verifier_tokens"] for row in found} == {9}
    assert {m.question.question_id for m in plan.unscored(parts)} == {"b", "c"}


def test_a_set_of_no_whole_question_is_none(tmp_path):
    parts = Parts(tmp_path)
    plan = Plan(questions=((question("a"), "test"),), wanted={"small": 1}, manifest={})
    plan.write(parts)
    with pytest.raises(ConfigError, match="found none yet"):
        write_set(plan, parts, {})


def test_parts_that_are_added_after_a_set_was_written_overwrite_none(parts):
    write_set(Plan.read(parts), parts, {})
    for index in range(12):
        parts.add({"attempts": [attempt("d", index)]})
        parts.flush()
    kept = [
        row for path in parts.paths("attempts") for row in pq.read_table(path)["text"].to_pylist()
    ]
    assert sorted(text for text in kept if text[0] == "d") == sorted(
        f"d sample:{index}" for index in range(12)
    )
    assert "c sample:0" in kept
