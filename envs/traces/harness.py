"""Attempts from sample logs of lm-evaluation-harness (`lm_eval --log_samples`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from controller.answers import read_answer
from envs.records import Record
from envs.traces.logs import Log, Row, is_one_of, right_answers, scored

_NAME = re.compile(r"samples_(?P<task>.+)_(?P<time>\d{4}-\d\d-\d\dT\d\d[-.:\d]+)\.jsonl?")

METRICS = frozenset(
    {
        *("exact_match", "acc", "pass@1", "em", "math_verify", "extractive_match"),
        *("quasi_exact_match", "prefix_exact_match", "prompt_level_strict_acc"),
        *("prompt_level_loose_acc", "mgsm_exact_match", "is_correct", "correct"),
    }
)
"""Metrics that are 1 for a right and 0 for a wrong attempt."""

_INVALID = (None, "", "[invalid]")


def harness_attempts(record: Record, log: Log) -> Iterator[Row]:
    """Attempts of one entry: a document as one filter reads it.

    The harness scores an entry, which may hold several attempts. A single one has its score;
    several are read and graded here, and compared with the score where the harness read the same
    answer. Of several programs the score tells how many are right: none, all, or which is unknown.

    Raises:
        TraceFormatError: log-likelihoods, no clear metric or filter, or a score that does not
            tell which attempts are right.
    """
    row = record.row
    if "filter" in row and str(row["filter"]) != log.filter(record):
        return
    task, results = _task_and_results(log)
    texts = _flat(row["resps"])
    if not texts or not all(isinstance(text, str) for text in texts):
        raise record.error("resps", "generated texts (log-likelihoods are no attempts)", texts)
    numbers = (name for name, value in row.items() if isinstance(value, (int, float)))
    found = row.get("metrics") or [name for name in numbers if name != "doc_id"]
    metric = log.metric(record, found, METRICS)
    programs = metric.startswith("pass@")
    log.kind = log.kind or ("whole" if programs else None)
    answers = _flat(row.get("filtered_resps") or [])
    verdicts: list[bool | None]
    if len(answers) != len(texts):
        answers = [read_answer(text, None, log.answer_kind) for text in texts]
    if log.options.answers and not programs:
        verdicts = [None] * len(texts)
    elif len(texts) == 1 or programs:
        verdicts = [scored(record, metric, row.get(metric), len(texts))] * len(texts)
        log.stated = _stated(results, task, metric, row.get("filter"))
    else:
        verdicts = [*_graded(record, log, answers)]
        _compare(record, log, metric, answers, verdicts)
    for text, answer, right in zip(texts, answers, verdicts, strict=True):
        yield {
            "question": _prompt(row),
            "question_id": row["doc_id"],
            "dataset": task,
            "reference": right_answers(row.get("target")),
            "model": results.get("model_name") or log.folder_as_model,
            "parameters": results.get("config", {}).get("model_num_parameters"),
            "answer": "" if answer in _INVALID else str(answer),
            "text": text,
            "correct": right,
        }


def _task_and_results(log: Log) -> tuple[str, Row]:
    """The task that a log's name tells, and the `results_*.json` that was written with it."""
    name = _NAME.fullmatch(log.path.name)
    if name:
        return name["task"], log.beside(f"results_{name['time']}.json")
    return log.path.stem.removeprefix("samples_"), {}


def _flat(entries: Any) -> list[Any]:
    """Texts of the one request of an entry, however deeply its logs nest them."""
    nested = entries[0] if len(entries) == 1 and isinstance(entries[0], list) else entries
    return list(nested)


def _graded(record: Record, log: Log, answers: list[Any]) -> list[bool]:
    references = tuple(right_answers(record.row.get("target")))
    if not references:
        raise record.error("target", "a right answer to grade attempts with", None)
    log.notes["graded here"] += len(answers)
    return [is_one_of(log.answer_kind, answer, references) for answer in answers]


def _compare(
    record: Record, log: Log, metric: str, answers: list[Any], verdicts: list[bool | None]
) -> None:
    """Note where grades differ from the harness's score of the same answer."""
    theirs = _flat(record.row.get("filtered_resps") or [])
    if len(theirs) != 1 or theirs[0] in _INVALID:
        return
    verdict, kind = scored(record, metric, record.row.get(metric)), log.answer_kind
    graded = zip(answers, verdicts, strict=True)
    same = (r for a, r in graded if a is not None and kind.same(a, str(theirs[0])))
    if next(same, verdict) != verdict:
        log.doubts["answers that the harness scores otherwise than they are graded here"] += 1


def _stated(results: Row, task: str, metric: str, name: Any) -> float | None:
    found = results.get("results", {}).get(task, {}).get(f"{metric},{name or 'none'}")
    return float(found) if isinstance(found, (int, float)) else None


def _prompt(row: Row) -> str:
    """What the model was asked; of a log without arguments, the document."""
    first: Any = row.get("arguments")
    while isinstance(first, (list, dict)) and first:
        first = first[0] if isinstance(first, list) else next(iter(first.values()))
    return str(first if isinstance(first, str) else json.dumps(row["doc"], sort_keys=True))
