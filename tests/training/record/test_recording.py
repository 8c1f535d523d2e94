"""Recording: resumed, extended or ended early, nothing is lost, doubled or recorded otherwise.

Scores added later are those that a recording with the verifier makes.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from controller.backends.local.adapters import load_adapters
from controller.backends.local.backend import TransformersBackend
from controller.backends.prompts import REVISER, VERIFIER
from controller.errors import ConfigError, TraceFormatError
from controller.process.types import Question
from envs.questions.bundled import QuestionSource, draw_split, pool_of
from envs.questions.files import SPLITS, bundled_questions, read_questions
from envs.questions.grader import KindGrader
from envs.traces.format import TraceSet
from tests.conftest import CHECKPOINTS
from tests.training.conftest import ROOT
from training.record.parts import locked
from training.record.plans import spread
from training.record.recorders import LocalRecorder
from training.record.recording import Recording, add_scores, finish
from training.record.settings import RecordConfig
from training.record.sources import find_source, record_models

CONFIG = RecordConfig(samples=2, escalations=1, revised_samples=1, shard_questions=4)

MEASURED = {"seconds", "cached_tokens", "mean_logprob", "min_logprob"}
"""Columns that what else is in memory has a say in, be it in the last bits."""


@pytest.fixture(scope="module")
def questions(validation):
    return {"train": validation.questions[::80], "test": validation.questions[1::120]}


@pytest.fixture
def record(small_and_large):
    """Records with the bundled models, until so many attempts have been made."""

    def call(questions, out, config=CONFIG, stop_after=None, notes=None, models=small_and_large):
        def watch(recording):
            made = 0

            def see(rows):
                nonlocal made
                made += len(rows["attempts"])
                if stop_after is not None and made >= stop_after:
                    raise Killed

            return see

        recorder = LocalRecorder(
            TransformersBackend(models, max_new_tokens=48), KindGrader(), config
        )
        Recording(questions, recorder, out, notes or {}).run(watch)
        return content(out)

    return call


class Killed(BaseException):
    pass


def content(out):
    """What a set holds, but for what was measured."""
    columns = list(pq.read_schema(out / "attempts.parquet").names)
    kept = [name for name in columns if name not in MEASURED]
    return {
        "questions": pq.read_table(out / "questions.parquet", columns=["question_id"]).to_pylist(),
        "attempts": pq.read_table(out / "attempts.parquet", columns=kept).to_pylist(),
    }


def by_question(attempts):
    return Counter(row["question_id"] for row in attempts)


def test_resumes_after_a_kill_with_the_same_content(questions, record, tmp_path):
    whole = record(questions, tmp_path / "whole")
    with pytest.raises(Killed):
        record(questions, tmp_path / "killed", stop_after=40)
    assert not (tmp_path / "killed" / "trace.json").exists()
    with pytest.raises(ConfigError, match="asked for another licence"):
        record(questions, tmp_path / "killed", notes={"licence": "another"})
    assert record(questions, tmp_path / "killed") == whole
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [
        "attempts.parquet",
        "questions.parquet",
        "trace.json",
    ]
    traces = TraceSet.read(tmp_path / "killed")
    total = sum(len(members) for members in questions.values())
    assert len(traces.questions) == total
    ids = [(row["question_id"], row["attempt_id"]) for row in whole["attempts"]]
    assert len(ids) == len(set(ids)) == total * 7
    before = (tmp_path / "killed" / "trace.json").read_bytes()
    record(questions, tmp_path / "killed")
    assert (tmp_path / "killed" / "trace.json").read_bytes() == before


def test_an_extended_set_is_the_one_that_would_have_been_recorded_at_once(
    questions, record, small_and_large, tmp_path
):
    few = {split: members[:3] for split, members in questions.items()}
    fewer = RecordConfig(samples=1, escalations=0, revised_samples=1)
    more = RecordConfig(samples=3, escalations=2, revised_samples=1)
    record(few, tmp_path / "grown", fewer, models=small_and_large[:1])
    record(few, tmp_path / "grown", more)
    grown = record(questions, tmp_path / "grown", more)
    assert grown == record(questions, tmp_path / "once", more)
    kept = record(few, tmp_path / "grown", more)
    assert kept["attempts"] == list(grown["attempts"])
    assert len(kept["questions"]) == sum(map(len, questions.values()))


def test_a_set_is_extended_by_the_reviser_that_was_trained_from_it(
    questions, record, small_and_large, tmp_path
):
    few = {"test": questions["test"][:2]}
    record(few, tmp_path, RecordConfig(samples=2, escalations=1))
    small, large = small_and_large
    models = load_adapters(small, {REVISER: CHECKPOINTS / "reviser"}), large
    amount = RecordConfig(samples=2, escalations=1, revised_samples=1, revisers=(0,))
    grown = record(few, tmp_path, amount, models=models)
    revised = [row for row in grown["attempts"] if row["action"] == "revise"]
    assert len(revised) == len(few["test"]) * len(models)
    assert {row["model"] for row in revised} == {small.name}
    with pytest.raises(ConfigError, match="another reviser"):
        record(few, tmp_path, amount)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"notes": {"decoding": {"temperature": 1.0}}},
            "another decoding .*1.0.* instead of None",
        ),
        ({"config": RecordConfig(samples=2, escalations=1)}, "another revised_samples"),
        ({"models": 1}, "another large: tier"),
    ],
)
def test_what_was_recorded_otherwise_is_not_mixed_in(
    questions, record, small_and_large, tmp_path, change, expected
):
    few = {"test": questions["test"][:2]}
    record(few, tmp_path)
    if "models" in change:
        change = {"models": small_and_large[: change["models"]]}
    with pytest.raises(ConfigError, match=expected):
        record(few, tmp_path, **change)
    other = Question(**{**vars(few["test"][0]), "reference": "other"})
    with pytest.raises(ConfigError, match="asked for another question"):
        record({"test": [other]}, tmp_path)


def test_finishing_early_gives_a_balanced_set_that_can_be_gone_on_with(questions, record, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="expected an unfinished recording"):
        finish(out)
    with pytest.raises(Killed):
        record(questions, out, stop_after=40)
    finish(out)
    traces = TraceSet.read(out)
    assert len(traces.questions) == 8
    assert set(traces.questions["split"].to_pylist()) == set(questions)
    assert set(by_question(content(out)["attempts"]).values()) == {7}
    total = sum(map(len, questions.values()))
    assert traces.manifest["unfinished"] == total - 8
    assert traces.manifest["summary"]["small"]["attempts"] == 16
    assert record(questions, out) == record(questions, tmp_path / "once")
    assert "unfinished" not in TraceSet.read(out).manifest


def test_every_beginning_of_the_order_has_its_share_of_all(traces):
    asked = traces.questions.to_pylist()
    questions = [
        Question(question_id=r["question_id"], text="", dataset=r["dataset"], level=r["level"])
        for r in asked
    ]
    order = spread(zip(questions, (row["split"] for row in asked), strict=True))
    whole = Counter((split, q.dataset) for q, split in order)
    for share in (0.1, 0.5):
        some = Counter((split, q.dataset) for q, split in order[: int(share * len(order))])
        assert max(abs(some[group] - share * count) for group, count in whole.items()) < 6


def test_two_recordings_into_one_directory_do_not_mix(questions, record, tmp_path):
    script = f"""
import sys, time
from pathlib import Path
from training.record.parts import locked
with locked(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(600)
"""
    other = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=f"found process {other.pid} on"):
            record(questions, tmp_path)
    finally:
        other.kill()
        other.wait()
    record({"test": questions["test"][:1]}, tmp_path)  # what a dead process held is free
    elsewhere = tmp_path / "recording.lock"
    elsewhere.write_text(json.dumps({"host": "another", "pid": 1}))
    with pytest.raises(ConfigError, match="found process 1 on another"), locked(tmp_path):
        pass


def test_a_recording_killed_at_any_moment_goes_on(questions, environment, allot, tmp_path):
    file = tmp_path / "questions.jsonl"
    rows = [
        {"question_id": q.question_id, "question": q.text, "reference": q.reference, "split": split}
        for split, members in questions.items()
        for q in members
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    given = ["record", "--questions", file, "--samples", "8", "--shard-questions", "2"]
    given += ["--max-new-tokens", "64", "--json"]
    models = [str(CHECKPOINTS / name) for name in ("small", "large")]
    amount = RecordConfig(samples=8, shard_questions=2)
    source = find_source(models, max_new_tokens=64)
    record_models(read_questions(file), source, tmp_path / "whole", amount)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "training.cli", *map(str, given), "--out", str(out)]
    for parts in (1, 3):
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
        while len(list(out.glob("recording/attempts-*.parquet"))) < parts:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    said = json.loads(allot(*given, "--out", out).stdout)
    assert content(out) == content(tmp_path / "whole")
    assert said["summary"]["small"]["attempts"] == 8 * len(rows)
    assert said["questions"] == len(rows)


def test_a_failed_generation_is_a_recorded_fact(record, tmp_path):
    too_long = Question(question_id="long", text="7" * 5000, reference="1")
    fine = Question(question_id="fine", text="Find the prime factorization of 8", reference="2")
    record({"train": [too_long, fine]}, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "attempts.parquet").to_pylist()
    errors = {row["question_id"]: row["error"] for row in rows if row["action"] == "sample"}
    assert errors["long"]
    assert errors["fine"] is None


def test_any_number_of_models_is_recorded_and_told_apart_by_name(questions, tmp_path):
    places = [str(CHECKPOINTS / "small"), *(f"{n}={CHECKPOINTS / 'large'}" for n in ("a", "b"))]
    source = find_source(places, max_new_tokens=32)
    few = {"test": questions["test"][:3]}
    record_models(few, source, tmp_path / "out", RecordConfig(samples=2, escalations=1))
    models = TraceSet.read(tmp_path / "out").models(["small", "a", "b"])
    assert models[1].digest == models[2].digest
    rows = content(tmp_path / "out")["attempts"]
    assert Counter(row["model"] for row in rows) == {"small": 6, "a": 3, "b": 3}
    with pytest.raises(ConfigError, match="expected distinct names"):
        find_source([places[0], places[0]])


def test_the_bundled_set_is_recorded_again_to_the_letter(traces, tmp_path):
    kept = traces.questions.to_pylist()[::150]
    asked = [
        Question(
            question_id=row["question_id"],
            text=row["question"],
            reference=row["reference"],
            dataset=row["dataset"],
            level=row["level"],
            answers="exact",
        )
        for row in kept
    ]
    places = [str(CHECKPOINTS / name) for name in ("small", "large")]
    source = find_source(places, adapters={"reviser": CHECKPOINTS / "reviser"})
    config = RecordConfig(samples=6, revised_samples=2)
    record_models({"test": asked}, source, tmp_path / "out", config)
    before = {(row["question_id"], row["attempt_id"]): row for row in traces.attempts.to_pylist()}
    ignored = {*MEASURED, "verifier_score"}
    for row in TraceSet.read(tmp_path / "out").attempts.to_pylist():
        known = before[row["question_id"], row["attempt_id"]]
        assert {k: row[k] for k in known if k not in ignored} == {
            k: v for k, v in known.items() if k not in ignored
        }


def test_bundled_traces_have_the_promised_size_and_split(traces):
    splits = traces.questions["split"].to_pylist()
    assert splits.count("train") >= 3000
    assert splits.count("validation") >= 500
    assert splits.count("test") >= 1000
    for row in traces.questions.to_pylist()[::97]:
        task, level, index = row["question_id"].split("/")
        drawn = QuestionSource(task, int(level))[int(index)]
        assert drawn.question.text == row["question"]
        assert pool_of(drawn.key) == row["split"]
    counts = {}
    for question, action in zip(
        traces.attempts["question_id"].to_pylist(),
        traces.attempts["action"].to_pylist(),
        strict=True,
    ):
        counts.setdefault(question, []).append(action)
    assert {(a.count("sample"), a.count("escalate")) for a in counts.values()} == {(16, 2)}


def test_splits_share_no_question_and_more_to_train_on_leaves_the_others_alone():
    bundled = bundled_questions()
    assert {split: draw_split(split) for split in SPLITS} == bundled
    bundled = {split: {q.text for q in members} for split, members in bundled.items()}
    drawn = bundled_questions(train_scale=2)
    more = {split: {q.text for q in members} for split, members in drawn.items()}
    assert sum(map(len, more.values())) == sum(map(len, drawn.values()))
    assert len(set().union(*more.values())) == sum(map(len, more.values()))
    assert len(more["train"]) > 1.5 * len(bundled["train"])
    assert bundled["train"] < more["train"]
    assert all(more[split] == bundled[split] for split in ("validation", "test"))


def test_question_files(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"question": f"What is {i} + 1?", "reference": str(i + 1)} for i in range(200)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    splits = read_questions(path)
    assert sum(len(members) for members in splits.values()) == 200
    assert min(len(members) for members in splits.values()) > 5
    path.write_text('{"question": "no reference"}')
    with pytest.raises(TraceFormatError, match="line 1, column reference: expected text"):
        read_questions(path)


VERIFIED = CHECKPOINTS / "small", CHECKPOINTS / "verifier"


@pytest.fixture(scope="module")
def recorded(validation, tmp_path_factory):
    out = tmp_path_factory.mktemp("recorded")
    models = [str(CHECKPOINTS / name) for name in ("small", "large")]
    for name, adapters in (("with", {VERIFIER: CHECKPOINTS / "verifier"}), ("without", {})):
        record_models(
            {"train": validation.questions[::100]},
            find_source(models, adapters=adapters, max_new_tokens=96),
            out / name,
            RecordConfig(samples=3, escalations=1),
        )
    return out


def scores(path):
    return np.array(TraceSet.read(path).attempts["verifier_score"].to_pylist(), np.float64)


def test_scores_and_adapter_are_those_of_a_recording_also_after_a_kill(recorded, monkeypatch):
    monkeypatch.setattr("training.learn.resume._AT_ONCE", 2)
    done, plain = [], TraceSet.read(recorded / "without")

    def killed(scored, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_scores(plain, *VERIFIED, recorded / "later", killed)
    (first,) = (recorded / "later").rglob("0.safetensors")
    written = first.stat().st_mtime_ns
    add_scores(
        plain,
        *VERIFIED,
        recorded / "later",
        lambda scored, of: done.append((scored, of, first.stat().st_mtime_ns)),
    )
    assert {at for *_, at in done} == {written}
    assert not (recorded / "later" / "training").exists()
    found, expected = scores(recorded / "later"), scores(recorded / "with")
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert done[-1][:2] == (np.isfinite(expected).sum(),) * 2
    manifests = [TraceSet.read(recorded / name).manifest for name in ("later", "with")]
    assert manifests[0]["models"] == manifests[1]["models"]


def test_another_models_attempts_are_refused(recorded):
    plain = TraceSet.read(recorded / "without")
    with pytest.raises(ConfigError, match="no trace set there yet"):
        add_scores(plain, *VERIFIED, recorded / "with")
    plain.manifest["models"]["small"]["digest"] = "another"
    with pytest.raises(ConfigError, match="verify them with the model that wrote them"):
        add_scores(plain, *VERIFIED, recorded / "new")
