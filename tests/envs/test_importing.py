"""Generations recorded by others become trace sets."""

import csv
import json

import pytest

from controller.errors import TraceFormatError
from envs.traces.derive import derive_config
from envs.traces.format import TraceSet
from envs.traces.importing import import_attempts
from envs.traces.table import build_table


def harness_log(directory, *, right, repeats=1):
    """As lm-evaluation-harness 0.4 writes it, two filters per document."""
    directory.mkdir(parents=True)
    path = directory / "samples_gsm8k_2026-01-01T00-00-00.jsonl"
    lines = []
    for doc_id in range(60):
        reference = str(doc_id + 2)
        for name in ("strict-match", "flexible-extract"):
            answers = [reference if (doc_id + r) % 10 < right else "7000" for r in range(repeats)]
            texts = [f"It is {answer}.\n#### {answer}" for answer in answers]
            lines.append(
                {
                    "doc_id": doc_id,
                    "doc": {"question": f"What is {doc_id} + 2?", "answer": f"#### {reference}"},
                    "target": f"{doc_id} plus 2.\n#### {reference}",
                    "arguments": {
                        "gen_args_0": {"arg_0": f"Question: {doc_id} + 2\nAnswer:", "arg_1": {}}
                    },
                    "resps": [texts],
                    "filtered_resps": [answers] if repeats > 1 else answers,
                    "filter": name,
                    "metrics": ["exact_match"],
                    "exact_match": float(answers[0] == reference),
                }
            )
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_harness_logs(tmp_path):
    logs = [
        harness_log(tmp_path / "org__small", right=5, repeats=4),
        harness_log(tmp_path / "org__large", right=9),
    ]
    missing = import_attempts(logs, tmp_path / "traces", parameters={"org__small": 1e9})
    assert any("org__large" in sentence for sentence in missing)
    assert any("no VERIFY" in sentence for sentence in missing)
    traces = TraceSet.read(tmp_path / "traces")
    assert len(traces.questions) == 60
    assert len(traces.attempts) == 60 * 5
    models = traces.models()
    assert [model.name for model in models] == ["org__small", "org__large"]
    table = build_table(traces, ["train", "validation", "test"])
    rates = [
        table.answer_correct[q, table.attempts["answer"][table.stream[q, 1, 0]]] for q in range(60)
    ]
    assert sum(rates) == 54
    with pytest.warns(UserWarning, match="the size of org__large is unknown"):
        config = derive_config(table, models)
    assert [str(action) for action in config.actions] == ["STOP", "SAMPLE", "REVISE", "ESCALATE"]
    assert (config.max_samples, config.max_revisions, config.max_escalations) == (4, 0, 1)


def test_plain_csv(tmp_path):
    path = tmp_path / "mine.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "model", "answer", "correct", "tokens"])
        for i in range(40):
            for _ in range(3):
                writer.writerow([f"{i} + 1?", "tiny", i + 1 if i % 2 else "", i % 2, 12])
    missing = import_attempts([path], tmp_path / "traces", parameters={"tiny": 1e6})
    assert any(sentence.startswith("a larger model") for sentence in missing)
    assert not any("token counts" in sentence for sentence in missing)
    traces = TraceSet.read(tmp_path / "traces")
    assert set(traces.attempts["completion_tokens"].to_pylist()) == {12}
    table = build_table(traces, ["train", "validation", "test"])
    assert len(table) == 40
    assert derive_config(table, traces.models()).max_escalations == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"model": "m", "answer": "1", "correct": 1}, "row 1.*missing"),
        ({"question": "q", "model": "m", "answer": "1"}, "expected a column correct"),
        ({"question": "q", "model": "m", "correct": "perhaps"}, "true or false"),
        ({"question": "q", "model": "m", "correct": 1, "tokens": "many"}, "row 1"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, message):
    (tmp_path / "bad.jsonl").write_text(json.dumps(row))
    with pytest.raises(TraceFormatError, match=message):
        import_attempts([tmp_path / "bad.jsonl"], tmp_path / "traces")
    assert not (tmp_path / "traces").exists()
