"""Trace sets from generations that others recorded.

Three formats: sample logs of lm-evaluation-harness (`samples_*.jsonl`, written by
`--log_samples`), logs of `allot serve`, and a plain table with one attempt per row.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from controller.answers import (
    EXAMPLES,
    UNSTATED,
    AnswerKind,
    answer_kind,
    is_right,
    read_answer,
    unread_warning,
)
from controller.errors import TraceFormatError
from envs.questions.files import SPLITS, read_rows, split_of, wording_digest
from envs.traces.format import (
    ATTEMPT_SCHEMA,
    QUESTION_SCHEMA,
    TRACE_VERSION,
    write_json,
    write_table,
)
from envs.traces.served import episode_rows, is_service_log, logged_sizes

Row = dict[str, Any]

_TOKEN_CHARACTERS = 4
"""Characters per token, where a log has texts without token counts."""

_TRUE, _FALSE = ("1", "true", "yes"), ("0", "false", "no")


def import_attempts(
    files: Sequence[Path],
    out: Path,
    *,
    small: str | None = None,
    parameters: Mapping[str, float] | None = None,
    references: Mapping[str, str] | None = None,
    answers: str | None = None,
) -> list[str]:
    """Write a trace set from recorded generations.

    Args:
        files: logs; of lm-evaluation-harness, the directory that a log lies in names the
            model.
        out: directory of the trace set.
        small: the model that samples; the one with most attempts when None. All others
            can be escalated to.
        parameters: by model name, for the ledger.
        references: by question id or question, for logs of a service; what has none is
            left out.
        answers: kind of the answers; None for `auto`, and for the answers and scores of
            lm-evaluation-harness where it has them.

    Returns:
        What the logs lack, and what that means, one sentence each.

    Raises:
        TraceFormatError: a file or row cannot be read, or `out` holds a trace set.
    """
    if (out / "trace.json").exists():
        raise TraceFormatError(f"{out}: expected no trace set there yet; choose another directory")
    kind = answer_kind(answers or UNSTATED)
    rows, sizes = [], dict(parameters or {})
    for file in files:
        raw = read_rows(file)
        rows += list(_read(file, raw, references or {}, kind, filtered=answers is None))
        sizes = (logged_sizes(raw) if is_service_log(raw) else {}) | sizes
    if not rows:
        raise TraceFormatError(
            f"{[str(f) for f in files]}: expected attempts (of a service's log, with --references "
            "that tell what is right), found none"
        )
    counts = Counter(row["model"] for row in rows)
    lowest = next((row["model"] for row in rows if row.get("rung") == 0), None)
    small = small or lowest or max(sorted(counts), key=lambda model: counts[model])
    if small not in counts:
        raise TraceFormatError(f"small: expected one of {sorted(counts)}, found {small!r}")
    questions, attempts = _tables(rows, small)
    out.mkdir(parents=True, exist_ok=True)
    for name, entries, schema in (
        ("questions", questions, QUESTION_SCHEMA),
        ("attempts", attempts, ATTEMPT_SCHEMA),
    ):
        write_table(out / f"{name}.parquet", pa.Table.from_pylist(entries, schema=schema))
    manifest = {
        "version": TRACE_VERSION,
        "digest": hashlib.sha256(json.dumps(attempts, default=str).encode()).hexdigest(),
        "models": {
            model: {
                "tier": "small" if model == small else "large",
                "parameters": sizes.get(model),
            }
            for model in counts
        },
        "answers": kind.name,
        "source": [file.name for file in files],
        "questions": len(questions),
    }
    write_json(out / "trace.json", manifest)
    for message in _unread(attempts):
        warnings.warn(message, stacklevel=2)
    return list(_missing(rows, counts, small, sizes))


def _unread(attempts: Sequence[Row]) -> Iterator[str]:
    for model in dict.fromkeys(row["model"] for row in attempts):
        rows = [row for row in attempts if row["model"] == model]
        unread = [row["text"] for row in rows if row["answer"] is None and row["text"]]
        read = sum(row["answer"] is not None for row in rows)
        if message := unread_warning(model, len(rows), read, unread[:EXAMPLES]):
            yield message


def _read(
    path: Path,
    rows: list[Row],
    references: Mapping[str, str],
    kind: AnswerKind,
    *,
    filtered: bool,
) -> Iterator[Row]:
    if is_service_log(rows):
        try:
            yield from episode_rows(rows, references, kind)
        except (KeyError, TypeError, ValueError) as error:
            raise TraceFormatError(f"{path}: {error!r}") from None
        return
    harness = bool(rows) and {"doc", "resps"} <= rows[0].keys()
    for number, row in enumerate(rows, start=1):
        try:
            yield from _harness(row, path, kind, filtered) if harness else [_plain(row, kind)]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise TraceFormatError(f"{path}, row {number}: {error!r}") from None


def _plain(row: Row, kind: AnswerKind) -> Row:
    """A row of the plain format; see docs/traces.md."""
    missing = [name for name in ("question", "model") if not row.get(name)]
    if missing:
        raise ValueError(f"expected columns question and model, missing {missing}")
    text, answer = row.get("text"), row.get("answer")
    if answer is None and text is not None:
        answer = read_answer(str(text), None, kind)
    answer = None if answer is None else str(answer)
    correct = row.get("correct")
    if correct is None:
        if row.get("reference") is None:
            raise ValueError("expected a column correct, or reference to grade with")
        correct = is_right(kind, answer, str(row["reference"]))
    tokens = row.get("completion_tokens", row.get("tokens"))
    return {
        **{
            name: row.get(name)
            for name in ("reference", "dataset", "split", "attempt_id", "parent_id", "action")
        },
        "question": str(row["question"]),
        "question_id": str(row.get("question_id") or wording_digest(str(row["question"])).hex()),
        "model": str(row["model"]),
        "answer": answer,
        "text": None if text is None else str(text),
        "correct": _flag(correct),
        "completion_tokens": _number(tokens, int),
        "prompt_tokens": _number(row.get("prompt_tokens"), int),
        "mean_logprob": _number(row.get("mean_logprob"), float),
        "min_logprob": _number(row.get("min_logprob"), float),
        "verifier_score": _number(row.get("verifier_score"), float),
    }


def _harness(row: Row, path: Path, kind: AnswerKind, filtered_ones: bool) -> Iterator[Row]:
    """Attempts of one entry of a sample log; each filter's entry repeats them.

    The harness scores an entry, not each of its repeats; these are graded by whether their
    answer is the target's. Its filtered responses and scores count if `filtered_ones`.
    """
    task = path.stem.removeprefix("samples_").rsplit("_", 1)[0]
    responses = row["resps"][0] if isinstance(row["resps"][0], list) else row["resps"]
    filtered = row.get("filtered_resps") or responses
    filtered = filtered[0] if isinstance(filtered[0], list) else filtered
    target = str(row["target"])
    names = row.get("metrics") or [m for m in ("exact_match", "acc", "pass@1") if m in row]
    if not names:
        raise ValueError("expected a metric such as exact_match, found none")
    scored = filtered_ones and len(responses) == 1
    if not filtered_ones or len(filtered) != len(responses):
        filtered = [read_answer(str(r), None, kind) for r in responses]
    for text, answer in zip(responses, filtered, strict=True):
        if not isinstance(text, str):
            raise ValueError("expected generated text; log-likelihood tasks hold no attempts")
        answer = None if answer in (None, "[invalid]") else str(answer)
        right = float(row[names[0]]) > 0.5 if scored else is_right(kind, answer, target)
        yield {
            "question": _prompt(row),
            "question_id": f"{task}/{row['doc_id']}",
            "dataset": task,
            "reference": target,
            "model": path.parent.name,
            "answer": answer,
            "text": text,
            "correct": right,
            "filter": row.get("filter"),
        }


def _prompt(row: Row) -> str:
    arguments = row.get("arguments")
    first: Any = arguments
    while isinstance(first, (list, dict)) and first:
        first = first[0] if isinstance(first, list) else next(iter(first.values()))
    return str(first if isinstance(first, str) else json.dumps(row["doc"], sort_keys=True))


def _flag(value: Any) -> bool:
    text = str(value).strip().lower()
    if text in _TRUE or text == "1.0":
        return True
    if text in _FALSE or text == "0.0":
        return False
    raise ValueError(f"expected correct to be true or false, found {value!r}")


def _number(value: Any, kind: type) -> Any:
    return None if value is None or value == "" else kind(float(value))


def _tables(rows: Iterable[Row], small: str) -> tuple[list[Row], list[Row]]:
    questions: dict[str, Row] = {}
    attempts: list[Row] = []
    numbers: Counter[tuple[str, str]] = Counter()
    filters: dict[tuple[str, str], Any] = {}
    for row in rows:
        key = row["question_id"], row["model"]
        # Of a log with several filters the first counts.
        if filters.setdefault(key, row.get("filter")) != row.get("filter"):
            continue
        split = row.get("split") or split_of(row["question"])
        if split not in SPLITS:
            raise TraceFormatError(f"split: expected one of {list(SPLITS)}, found {split!r}")
        questions.setdefault(
            row["question_id"],
            {name: row.get(name) for name in ("question_id", "dataset", "question", "reference")}
            | {"split": split},
        )
        is_small, number = row["model"] == small, numbers[key]
        numbers[key] += 1
        action = row.get("action") or ("sample" if is_small else "escalate")
        attempts.append(
            {name: row.get(name) for name in ATTEMPT_SCHEMA.names}
            | {
                "attempt_id": row.get("attempt_id") or f"{row['model']}:{number}",
                "tier": "small" if is_small else "large",
                "action": action,
                "index": number,
                "prompt_tokens": row.get("prompt_tokens") or _estimate(row["question"]),
                "completion_tokens": row.get("completion_tokens")
                or _estimate(row.get("text") or row.get("answer") or ""),
            }
        )
    return list(questions.values()), attempts


def _estimate(text: str) -> int:
    return max(1, len(text) // _TOKEN_CHARACTERS)


def _missing(
    rows: Sequence[Row], counts: Counter[str], small: str, sizes: Mapping[str, float]
) -> Iterator[str]:
    def lacks(name: str) -> bool:
        return any(row.get(name) is None for row in rows)

    if lacks("completion_tokens"):
        yield "token counts: estimated from the length of the text, four characters each"
    if lacks("prompt_tokens"):
        yield "prompt_tokens: estimated from the length of the question"
    if all(row.get("mean_logprob") is None for row in rows):
        yield "mean_logprob: the policy goes without confidence"
    if all(row.get("verifier_score") is None for row in rows):
        yield "verifier_score: no VERIFY"
    if not any(row.get("parent_id") for row in rows):
        yield "parent_id: no REVISE"
    yield "prompt states: difficulty is estimated from the wording alone"
    if len(counts) == 1:
        yield "a larger model: no ESCALATE"
    per_question = Counter(row["question_id"] for row in rows if row["model"] == small)
    if max(per_question.values()) == 1:
        yield f"repeated samples of {small}: nothing to vote on"
    unknown = sorted(model for model in counts if model not in sizes)
    if unknown:
        yield f"parameters of {', '.join(unknown)}: say --parameters MODEL=COUNT for true costs"
