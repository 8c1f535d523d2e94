"""What is said of a recording."""

import io

import pyarrow as pa

from controller.process.types import CUT
from envs.traces.format import ATTEMPT_SCHEMA, write_table
from training.record.progress import RecordingView, summary, summary_table
from training.report.view import plain_console


def row(question, answer, correct=False, **more):
    tokens = {"completion_tokens": 10, "prompt_tokens": 20, "cached_tokens": 5}
    tokens["reasoning_tokens"] = 4
    empty = dict.fromkeys(ATTEMPT_SCHEMA.names)
    return (
        empty
        | tokens
        | more
        | {
            "question_id": question,
            "model": "small",
            "answer": answer,
            "correct": correct,
        }
    )


def test_majorities_are_of_answers_and_revisions_are_left_out(tmp_path):
    rows = [row("q", "1", True), row("q", "1", True), row("q", "2"), row("r", None)]
    rows += [row("r", "3", error="rejected"), row("r", "4", True, parent_id="sample:0")]
    rows[3]["finish_reason"] = CUT
    write_table(tmp_path / "attempts.parquet", pa.Table.from_pylist(rows, ATTEMPT_SCHEMA))
    found = summary(tmp_path, {"small": 7.0})["small"]
    assert found == {
        "attempts": 5,
        "read": 0.8,
        "cut": 0.2,
        "failed": 0.2,
        "right": 0.4,
        "majority": 0.5,
        "tokens": 10,
        "thinking": 0.4,
        "cached": 0.25,
        "tokens_per_s": 7.0,
    }


def test_a_line_tells_how_far_a_recording_is():
    view = RecordingView()
    see = view.begin(total=10, left=8)
    assert str(view) == "recording: 2 of 10 attempts"
    see({"attempts": [row("q", "1"), row("q", None), row("q", "1", parent_id="sample:0")]})
    assert str(view).startswith("recording: 5 of 10 attempts (50%)")
    assert "50% read, 0% cut" in str(view), "revisions aside"


def test_the_table_fits_80_columns_and_leaves_no_name_out():
    names = ("attempts", "read", "cut", "failed", "right", "majority", "tokens", "tokens_per_s")
    told = dict.fromkeys((*names, "thinking", "cached"), 0.5) | {"attempts": 20}
    said = io.StringIO()
    plain_console(file=said, width=80).print(summary_table({"a-long-name-1": told, "b": told}))
    assert said.getvalue().startswith("model ")
    assert "majority" in said.getvalue()
    assert "\u2026" not in said.getvalue()
