"""Trace sets: recorded attempts on disk, and as arrays for replay.

A trace set is a directory with `questions.parquet`, `attempts.parquet` and
`trace.json`. See docs/traces.md for the columns.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from controller.answers import normalize_answer
from controller.errors import ConfigError, TraceFormatError
from controller.types import ModelSpec

TRACE_VERSION = 1

QUESTION_SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("dataset", pa.string()),
        ("level", pa.int32()),
        ("question", pa.string()),
        ("reference", pa.string()),
        ("split", pa.string()),
        ("prompt_hidden", pa.list_(pa.float32())),
    ]
)
ATTEMPT_SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("attempt_id", pa.string()),
        ("parent_id", pa.string()),
        ("model", pa.string()),
        ("tier", pa.string()),
        ("action", pa.string()),
        ("index", pa.int32()),
        ("answer", pa.string()),
        ("correct", pa.bool_()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("mean_logprob", pa.float32()),
        ("min_logprob", pa.float32()),
        ("text", pa.string()),
        ("error", pa.string()),
    ]
)
_REQUIRED = {
    "questions.parquet": ("question_id", "split"),
    "attempts.parquet": (
        "question_id",
        "attempt_id",
        "model",
        "tier",
        "action",
        "answer",
        "correct",
        "prompt_tokens",
        "completion_tokens",
    ),
}


def write_atomically(path: Path, write: Any) -> None:
    """Call `write(temporary_path)`, then put the file in place in one move."""
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    os.replace(temporary, path)


@dataclass(frozen=True, kw_only=True)
class TraceSet:
    """A trace set as read from disk.

    Attributes:
        path: its directory.
        manifest: `trace.json`.
        questions: one row per question.
        attempts: one row per attempt.
    """

    path: Path
    manifest: Mapping[str, Any]
    questions: pa.Table
    attempts: pa.Table

    @classmethod
    def read(cls, path: Path | str) -> TraceSet:
        """Read and check a trace set.

        Raises:
            TraceFormatError: files or columns are missing, the version is unknown, or
                attempts refer to questions that are not there.
        """
        path = Path(path)
        manifest_path = path / "trace.json"
        if not manifest_path.exists():
            raise TraceFormatError(
                f"{path}: expected a trace set with trace.json, questions.parquet and "
                "attempts.parquet; record one with `allot record`"
            )
        try:
            manifest = json.loads(manifest_path.read_text())
        except json.JSONDecodeError as error:
            raise TraceFormatError(f"{manifest_path}: expected JSON: {error}") from None
        if manifest.get("version") != TRACE_VERSION:
            raise TraceFormatError(
                f"{manifest_path}: expected version {TRACE_VERSION}, found "
                f"{manifest.get('version')!r}; upgrade allot or record the set again"
            )
        tables = {name: _read_table(path / name) for name in _REQUIRED}
        traces = cls(
            path=path,
            manifest=manifest,
            questions=tables["questions.parquet"],
            attempts=tables["attempts.parquet"],
        )
        known = set(traces.questions["question_id"].to_pylist())
        strangers = set(traces.attempts["question_id"].to_pylist()) - known
        if strangers:
            raise TraceFormatError(
                f"{path}: {len(strangers)} question ids of attempts.parquet are not in "
                f"questions.parquet, for example {min(strangers)!r}"
            )
        return traces

    def model_attempts(self) -> dict[str, list[int]]:
        """Rows of `attempts` by model."""
        rows: dict[str, list[int]] = {}
        for row, model in enumerate(self.attempts["model"].to_pylist()):
            rows.setdefault(model, []).append(row)
        return rows

    def default_ladder(self) -> tuple[str, ...]:
        """One small and one large model, when the caller does not choose.

        Small: most attempts recorded, then fewest parameters. Large: most often right on
        the train split, among models of known size if there are any.

        Raises:
            TraceFormatError: no model of the small tier.
        """
        tiers: dict[str, set[str]] = {"small": set(), "large": set()}
        for model, tier in set(
            zip(self.attempts["model"].to_pylist(), self.attempts["tier"].to_pylist(), strict=True)
        ):
            tiers.setdefault(tier, set()).add(model)
        if not tiers["small"]:
            raise TraceFormatError(f"{self.path}: expected attempts of tier 'small', found none")
        counts = {model: len(rows) for model, rows in self.model_attempts().items()}
        sizes = {model: self.parameters(model) for model in counts}
        small = min(
            tiers["small"], key=lambda m: (-counts[m], sizes[m] or float("inf"), m)
        )
        accuracy = self._train_accuracy()
        sized = {m for m in tiers["large"] if sizes[m]} if sizes[small] else set()
        candidates = sized or tiers["large"]
        if not candidates:
            return (small,)
        return small, max(sorted(candidates), key=lambda m: accuracy.get(m, 0.0))

    def parameters(self, model: str) -> float | None:
        """Active parameters of a model, or None."""
        entry = self.manifest.get("models", {}).get(model, {})
        value = entry.get("active_parameters") or entry.get("parameters")
        return float(value) if value else None

    def _train_accuracy(self) -> dict[str, float]:
        split = dict(
            zip(
                self.questions["question_id"].to_pylist(),
                self.questions["split"].to_pylist(),
                strict=True,
            )
        )
        right: dict[str, list[bool]] = {}
        for question, model, correct in zip(
            self.attempts["question_id"].to_pylist(),
            self.attempts["model"].to_pylist(),
            self.attempts["correct"].to_pylist(),
            strict=True,
        ):
            if split[question] == "train":
                right.setdefault(model, []).append(bool(correct))
        return {model: float(np.mean(values)) for model, values in right.items()}

    def models(self, ladder: Sequence[str] | None = None) -> tuple[ModelSpec, ...]:
        """The models of a ladder, the small one first.

        Raises:
            ConfigError: a model that the set does not hold.
        """
        ladder = tuple(ladder) if ladder else self.default_ladder()
        held = self.model_attempts()
        for model in ladder:
            if model not in held:
                raise ConfigError(f"ladder: expected models among {sorted(held)}, found {model!r}")
        longest = dict.fromkeys(ladder, 1)
        for model in ladder:
            tokens = self.attempts["completion_tokens"].take(held[model])
            longest[model] = max(int(t or 1) for t in tokens.to_pylist())
        entries = self.manifest.get("models", {})
        return tuple(
            ModelSpec(
                name=model,
                rung=rung,
                parameters=self.parameters(model),
                max_new_tokens=entries.get(model, {}).get("max_new_tokens") or longest[model],
                digest=entries.get(model, {}).get("digest"),
            )
            for rung, model in enumerate(ladder)
        )


def _read_table(path: Path) -> pa.Table:
    if not path.exists():
        raise TraceFormatError(f"{path}: expected this file of the trace set, found none")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise TraceFormatError(f"{path}: expected a parquet file: {error}") from None
    missing = [name for name in _REQUIRED[path.name] if name not in table.column_names]
    if missing:
        raise TraceFormatError(
            f"{path}: expected columns {list(_REQUIRED[path.name])}, missing {missing}"
        )
    return table


@dataclass(frozen=True, kw_only=True)
class TraceTable:
    """Attempts of a ladder's models as arrays: Q questions, R rungs, M attempts.

    Attributes:
        question_ids, datasets, levels: one entry per question.
        prompt_tokens: (Q, R).
        hidden: (Q, H) prompt states of the small model; None if not recorded.
        stream: (Q, R, S) rows of independent attempts, -1 where there are no more.
        stream_length: (Q, R) how many there are.
        answer_correct: (Q, K) whether answer k of a question is right.
        num_answers: K.
        answers: per question, the answers by id.
        rung, answer, completion_tokens, attempt_prompt_tokens, mean_logprob, min_logprob,
        verifier_score, first_child, num_children: (M,) columns of attempts.
        attempt_rows: (M,) row of each attempt in the trace set.
    """

    question_ids: tuple[str, ...]
    datasets: tuple[str, ...]
    levels: NDArray[np.int64]
    prompt_tokens: NDArray[np.int64]
    hidden: NDArray[np.float32] | None
    stream: NDArray[np.int64]
    stream_length: NDArray[np.int64]
    answer_correct: NDArray[np.bool_]
    answers: tuple[tuple[str, ...], ...]
    rung: NDArray[np.int64]
    answer: NDArray[np.int64]
    completion_tokens: NDArray[np.int64]
    attempt_prompt_tokens: NDArray[np.int64]
    mean_logprob: NDArray[np.float64]
    min_logprob: NDArray[np.float64]
    verifier_score: NDArray[np.float64]
    first_child: NDArray[np.int64]
    num_children: NDArray[np.int64]
    attempt_rows: NDArray[np.int64]

    @property
    def num_answers(self) -> int:
        """K, the most distinct answers that any question has."""
        return self.answer_correct.shape[1]

    def __len__(self) -> int:
        return len(self.question_ids)

    @classmethod
    def build(
        cls, traces: TraceSet, splits: Iterable[str], ladder: Sequence[str] | None = None
    ) -> TraceTable:
        """Arrays of some splits.

        Args:
            traces: recorded attempts.
            splits: which of train, validation and test.
            ladder: models, the small one first; see `TraceSet.default_ladder`.

        Raises:
            TraceFormatError: no question of these splits has an attempt by every model.
        """
        return _TableBuilder(traces, set(splits), traces.models(ladder)).build()


class _TableBuilder:
    def __init__(self, traces: TraceSet, splits: set[str], models: Sequence[ModelSpec]) -> None:
        self.traces, self.splits = traces, splits
        self.rungs = {model.name: model.rung for model in models}
        self.columns = {
            name: traces.attempts[name].to_pylist() if name in traces.attempts.column_names else None
            for name in (
                "question_id",
                "attempt_id",
                "parent_id",
                "model",
                "action",
                "index",
                "answer",
                "correct",
                "prompt_tokens",
                "completion_tokens",
                "mean_logprob",
                "min_logprob",
                "verifier_score",
            )
        }

    def _column(self, name: str, rows: list[int], default: float) -> NDArray[np.float64]:
        column = self.columns[name]
        if column is None:
            return np.full(len(rows), default)
        return np.array([default if column[r] is None else column[r] for r in rows], np.float64)

    def build(self) -> TraceTable:
        questions = self._questions()
        order: list[int] = []
        streams: list[list[list[int]]] = []
        children: dict[int, tuple[int, int]] = {}
        for rows in questions.values():
            streams.append(self._place(rows, order, children))
        if not order:
            raise TraceFormatError(
                f"{self.traces.path}: expected questions of {sorted(self.splits)} with attempts by "
                f"each of {list(self.rungs)}, found none"
            )
        rungs = np.array([self.rungs[self.columns["model"][r]] for r in order])
        answer, correct, answers = self._answers(list(questions), order)
        longest = max(len(s) for stream in streams for s in stream)
        stream = np.full((len(streams), len(self.rungs), longest), -1)  # (Q, R, S)
        for q, per_rung in enumerate(streams):
            for rung, entries in enumerate(per_rung):
                stream[q, rung, : len(entries)] = entries
        prompts = self._column("prompt_tokens", order, 0).astype(np.int64)
        first_child = np.array([children.get(i, (0, 0))[0] for i in range(len(order))])
        num_children = np.array([children.get(i, (0, 0))[1] for i in range(len(order))])
        return TraceTable(
            question_ids=tuple(questions),
            **self._question_columns(list(questions)),
            prompt_tokens=prompts[np.maximum(stream[:, :, 0], 0)],
            stream=stream,
            stream_length=(stream >= 0).sum(2),
            answer_correct=correct,
            answers=answers,
            rung=rungs,
            answer=answer,
            completion_tokens=self._column("completion_tokens", order, 0).astype(np.int64),
            attempt_prompt_tokens=prompts,
            mean_logprob=self._column("mean_logprob", order, np.nan),
            min_logprob=self._column("min_logprob", order, np.nan),
            verifier_score=self._column("verifier_score", order, np.nan),
            first_child=first_child,
            num_children=num_children,
            attempt_rows=np.array(order),
        )

    def _questions(self) -> dict[str, list[int]]:
        """Attempt rows of each question that every model of the ladder has tried."""
        table = self.traces.questions
        rows: dict[str, list[int]] = {
            question: []
            for question, split in zip(
                table["question_id"].to_pylist(), table["split"].to_pylist(), strict=True
            )
            if split in self.splits
        }
        tried: dict[str, set[str]] = {}
        for row, (question, model) in enumerate(
            zip(self.columns["question_id"], self.columns["model"], strict=True)
        ):
            if question in rows and model in self.rungs:
                rows[question].append(row)
                if self.columns["action"][row] != "revise":
                    tried.setdefault(question, set()).add(model)
        return {q: r for q, r in rows.items() if len(tried.get(q, ())) == len(self.rungs)}

    def _place(
        self, rows: list[int], order: list[int], children: dict[int, tuple[int, int]]
    ) -> list[list[int]]:
        """Append a question's attempts to `order`, siblings side by side."""
        index = self.columns["index"] or range(len(self.columns["model"]))
        rows = sorted(rows, key=lambda r: (self.rungs[self.columns["model"][r]], index[r], r))
        streams: list[list[int]] = [[] for _ in self.rungs]
        revisions: dict[str, list[int]] = {}
        parents = self.columns["parent_id"]
        for row in rows:
            if self.columns["action"][row] != "revise":
                streams[self.rungs[self.columns["model"][row]]].append(len(order))
                order.append(row)
            elif parents is not None and parents[row] is not None:
                revisions.setdefault(parents[row], []).append(row)
        placed = [place for stream in streams for place in stream]
        while placed:
            place = placed.pop(0)
            siblings = revisions.pop(self.columns["attempt_id"][order[place]], [])
            if siblings:
                children[place] = (len(order), len(siblings))
                placed.extend(range(len(order), len(order) + len(siblings)))
                order.extend(siblings)
        return streams

    def _answers(
        self, questions: list[str], order: list[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], tuple[tuple[str, ...], ...]]:
        position = {question: q for q, question in enumerate(questions)}
        ids: list[dict[str, int]] = [{} for _ in questions]
        verdicts: list[dict[int, bool]] = [{} for _ in questions]
        answer = np.full(len(order), -1)
        for i, row in enumerate(order):
            text = normalize_answer(self.columns["answer"][row])
            if text is None:
                continue
            q = position[self.columns["question_id"][row]]
            answer[i] = ids[q].setdefault(text, len(ids[q]))
            verdicts[q].setdefault(int(answer[i]), bool(self.columns["correct"][row]))
        correct = np.zeros((len(questions), max(1, *(len(i) for i in ids), 1)), bool)  # (Q, K)
        for q, verdict in enumerate(verdicts):
            for k, right in verdict.items():
                correct[q, k] = right
        return answer, correct, tuple(tuple(i) for i in ids)

    def _question_columns(self, questions: list[str]) -> dict[str, Any]:
        table = self.traces.questions
        place = {q: i for i, q in enumerate(table["question_id"].to_pylist())}
        rows = [place[q] for q in questions]

        def column(name: str, default: Any) -> list[Any]:
            if name not in table.column_names:
                return [default] * len(rows)
            values = table[name].to_pylist()
            return [default if values[r] is None else values[r] for r in rows]

        hidden = column("prompt_hidden", None)
        return {
            "datasets": tuple(column("dataset", "")),
            "levels": np.array(column("level", 0), np.int64),
            "hidden": None if any(h is None for h in hidden) else np.array(hidden, np.float32),
        }
