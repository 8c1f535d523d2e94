"""Attempts from the details that lighteval keeps (`--save-details`)."""

from __future__ import annotations

from collections.abc import Iterator

from envs.records import Record
from envs.traces.harness import METRICS
from envs.traces.logs import Log, Row, scored

_SHARES = ("pass@k:k=1", "avg@n")
"""How metrics begin that are a share of the attempts at a question: of a single one, 1 or 0."""


def details_attempts(record: Record, log: Log) -> Iterator[Row]:
    """Attempts at one question. A single one has its score; several are graded here.

    Raises:
        TraceFormatError: log-likelihoods, no clear metric, or a score that is neither 1 nor 0.
    """
    doc, reply, scores = (record.row[name] for name in ("doc", "model_response", "metric"))
    texts = reply["text"]
    if not texts:
        raise record.error("model_response.text", "texts (log-likelihoods are no attempts)", texts)
    found = [name for name, score in scores.items() if score is not None]
    known = METRICS.union(name for name in found if name.startswith(_SHARES))
    metric = log.metric(record, found, known)
    single = len(texts) == 1
    right = scored(record, f"metric.{metric}", scores[metric]) if single else None
    run = _results(log)
    if single or metric.startswith(_SHARES):
        log.stated = run.get("results", {}).get(doc["task_name"], {}).get(metric)
    golds = doc["gold_index"] if isinstance(doc["gold_index"], list) else [doc["gold_index"]]
    written = reply["output_tokens"] or [None] * len(texts)
    for text, tokens in zip(texts, written, strict=True):
        yield {
            "question": "\n".join(filter(None, (doc["instruction"], doc["query"]))),
            "question_id": doc["id"],
            "dataset": doc["task_name"],
            "reference": [doc["choices"][gold].strip() for gold in golds],
            "model": run.get("config_general", {}).get("model_name"),
            "text": text,
            "correct": right,
            "prompt_tokens": len(reply["input_tokens"]) or None,
            "completion_tokens": None if tokens is None else len(tokens),
        }


def _results(log: Log) -> Row:
    """What `results/MODEL/results_TIME.json` beside `details/MODEL/TIME/` says of the run."""
    above = log.path.resolve().parents
    root = next((folder for folder in above[1:] if folder.name == "details"), None)
    if root is None:
        return {}
    *model, time = above[0].relative_to(root).parts
    results: Row = log.beside(
        str(root.with_name("results").joinpath(*model, f"results_{time}.json"))
    )
    return results
