"""A trace set small enough to read: two questions, a small and a large model, one revision."""

import json

import pyarrow as pa
import pytest

from envs.traces.format import TraceSet, write_table


def row(question, number, model, answer, correct, **more):
    return {
        "question_id": question,
        "attempt_id": f"{model}:{number}",
        "parent_id": None,
        "model": model,
        "tier": model,
        "action": "sample" if model == "small" else "escalate",
        "index": number,
        "answer": answer,
        "correct": correct,
        "prompt_tokens": 5,
        "completion_tokens": 10,
        "mean_logprob": -0.5,
        "min_logprob": -1.0,
        **more,
    }


ROWS = [
    row("a", 1, "small", "7", False, completion_tokens=12),
    row("a", 0, "small", "6", True, mean_logprob=None, min_logprob=None),
    row("a", 0, "large", "6.0", True, completion_tokens=30),
    {
        **row("a", 0, "small", "6", True, prompt_tokens=21),
        "attempt_id": "small:1>revise:0",
        "parent_id": "small:1",
        "action": "revise",
    },
    row("b", 0, "small", None, False),
    row("b", 1, "small", "1", False),
    row("b", 0, "large", "2", True, completion_tokens=50),
    row("c", 0, "small", "1", True),  # the large model has not tried it
]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    out = tmp_path_factory.mktemp("traces") / "tiny"
    out.mkdir()
    questions = [{"question_id": name, "split": "train", "question": name} for name in "abc"]
    write_table(out / "questions.parquet", pa.Table.from_pylist(questions))
    write_table(out / "attempts.parquet", pa.Table.from_pylist(ROWS))
    sizes = {"small": 10, "large": 100}
    models = {name: {"parameters": size, "max_new_tokens": 64} for name, size in sizes.items()}
    (out / "trace.json").write_text(json.dumps({"version": 1, "models": models}))
    return TraceSet.read(out)
