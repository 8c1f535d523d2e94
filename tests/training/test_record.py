"""Recording: resumable at any shard, nothing lost or doubled, failures recorded."""

import json

import pyarrow.parquet as pq
import pytest

from controller.backends.transformers import TransformersBackend, load_model
from controller.errors import ConfigError, TraceFormatError
from controller.types import Question
from envs.grader import KindGrader
from envs.question_files import bundled_questions, read_questions
from envs.questions import TASKS, QuestionSource, pool_of
from envs.traces import TraceSet
from tests.conftest import CHECKPOINTS
from training.record import LocalRecorder, RecordConfig, Recording

CONFIG = RecordConfig(samples=2, escalations=1, revised_samples=1, shard_questions=4)


@pytest.fixture(scope="module")
def questions(validation):
    return {"train": validation.questions[::80], "test": validation.questions[1::120]}


def record(questions, out, progress=None, **changes):
    models = [load_model(CHECKPOINTS / name, rung) for rung, name in enumerate(("small", "large"))]
    backend = TransformersBackend(models, max_new_tokens=48)
    notes = {"model_paths": {}, **changes}
    recorder = LocalRecorder(backend, KindGrader(), CONFIG)
    Recording(questions, recorder, out, notes).run(progress)


class Killed(BaseException):
    pass


def test_resumes_after_a_kill_with_the_same_content(questions, tmp_path):
    record(questions, tmp_path / "whole")

    def kill(done):
        if done >= 8:
            raise Killed

    with pytest.raises(Killed):
        record(questions, tmp_path / "killed", kill)
    assert not (tmp_path / "killed" / "trace.json").exists()
    with pytest.raises(ConfigError, match="expected to continue the recording"):
        record(questions, tmp_path / "killed", licence="another")
    record(questions, tmp_path / "killed")
    for table in ("questions", "attempts"):
        whole, resumed = (
            pq.read_table(tmp_path / run / f"{table}.parquet").to_pylist()
            for run in ("whole", "killed")
        )
        assert whole == resumed
    assert not (tmp_path / "killed" / "recording").exists()
    traces = TraceSet.read(tmp_path / "killed")
    total = sum(len(members) for members in questions.values())
    assert len(traces.questions) == total
    ids = list(
        zip(
            traces.attempts["question_id"].to_pylist(),
            traces.attempts["attempt_id"].to_pylist(),
            strict=True,
        )
    )
    assert len(ids) == len(set(ids)) == total * 7
    with pytest.raises(ConfigError, match="no trace set there yet"):
        record(questions, tmp_path / "killed")


def test_a_failed_generation_is_a_recorded_fact(tmp_path):
    too_long = Question(question_id="long", text="7" * 5000, reference="1")
    fine = Question(question_id="fine", text="Find the prime factorization of 8", reference="2")
    record({"train": [too_long, fine]}, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "attempts.parquet").to_pylist()
    errors = {row["question_id"]: row["error"] for row in rows if row["action"] == "sample"}
    assert errors["long"]
    assert errors["fine"] is None


def test_bundled_traces_have_the_promised_size_and_split(traces):
    splits = traces.questions["split"].to_pylist()
    assert splits.count("train") >= 3000
    assert splits.count("validation") >= 500
    assert splits.count("test") >= 1000
    for row in traces.questions.to_pylist()[::97]:
        task, level, index = row["question_id"].split("/")
        worked = QuestionSource(task, int(level))[int(index)]
        assert worked.question.text == row["question"]
        assert pool_of(worked.key) == row["split"]
    counts = {}
    for question, action in zip(
        traces.attempts["question_id"].to_pylist(),
        traces.attempts["action"].to_pylist(),
        strict=True,
    ):
        counts.setdefault(question, []).append(action)
    assert {(a.count("sample"), a.count("escalate")) for a in counts.values()} == {(16, 2)}


def test_splits_share_no_question_and_more_to_train_on_leaves_the_others_alone():
    bundled, more = bundled_questions(), bundled_questions(train_scale=4)
    texts = [q.text for members in more.values() for q in members]
    assert len(texts) == len(set(texts))
    assert len(more["train"]) > 3 * len(bundled["train"])
    assert {q.text for q in bundled["train"]} < {q.text for q in more["train"]}
    assert all(more[split] == bundled[split] for split in ("validation", "test"))


@pytest.mark.parametrize("task", sorted(TASKS))
def test_worked_solutions_end_in_the_reference(task):
    from controller.answers import extract_answer

    for level in range(1, 6):
        for index in range(20):
            worked = QuestionSource(task, level)[index]
            assert KindGrader().is_right(worked.question, extract_answer(worked.solution))


def test_question_files(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"question": f"What is {i} + 1?", "reference": str(i + 1)} for i in range(200)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    splits = read_questions(path)
    assert sum(len(members) for members in splits.values()) == 200
    assert min(len(members) for members in splits.values()) > 5
    path.write_text('{"question": "no reference"}')
    with pytest.raises(TraceFormatError, match="row 1: expected text in column 'reference'"):
        read_questions(path)
