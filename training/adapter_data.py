"""What the adapters of the small model learn from: its own attempts at questions of theirs."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path

from envs.questions import QuestionSource, draw_split
from envs.traces import TraceSet
from training.record import RecordConfig
from training.record_models import record_models
from training.sources import find_source

_VALIDATION_SHARE = 0.03


@dataclass(frozen=True, kw_only=True)
class AttemptText:
    """One attempt of the small model.

    Attributes:
        question: what was asked.
        text: what was written.
        right: whether its answer is right.
        logprobs: mean and least log-probability of its tokens.
    """

    question: str
    text: str
    right: bool
    logprobs: tuple[float, float]


AttemptGroup = tuple[str, list[AttemptText]]
"""Question id and the attempts at that question."""


def record_attempts(
    small: Path,
    out: Path,
    sizes: tuple[int, ...],
    config: RecordConfig,
    *,
    seed: int,
) -> TraceSet:
    """Attempts at questions of the pool `adapters`, recorded unless they are there already.

    Args:
        small: directory of the model.
        out: directory of the trace set.
        sizes: questions per task, by level.
        config: how much to record.
        seed: of questions and attempts.
    """
    if not (out / "trace.json").exists():
        questions = draw_split("adapters", sizes, seed=seed, num_draws=60_000)
        random.Random(0).shuffle(questions)
        cut = int(len(questions) * (1 - _VALIDATION_SHARE))
        splits = {"train": questions[:cut], "validation": questions[cut:]}
        record_models(splits, find_source([str(small)], seed=seed), out, config)
    return TraceSet.read(out)


def distinct(attempts: Iterable[AttemptText]) -> list[AttemptText]:
    """The first attempt with each text."""
    return list({attempt.text: attempt for attempt in reversed(list(attempts))}.values())[::-1]


def attempts_by_question(traces: TraceSet, split: str) -> Iterator[AttemptGroup]:
    """The small model's attempts at each question of a split, with the question's id."""
    texts = {
        row["question_id"]: row["question"]
        for row in traces.questions.select(["question_id", "question", "split"]).to_pylist()
        if row["split"] == split
    }
    grouped: dict[str, list[AttemptText]] = {question_id: [] for question_id in texts}
    for row in traces.attempts.to_pylist():
        question_id = row["question_id"]
        if question_id in grouped and row["tier"] == "small" and row["error"] is None:
            grouped[question_id].append(
                AttemptText(
                    question=texts[question_id],
                    text=row["text"],
                    right=row["correct"],
                    logprobs=(row["mean_logprob"], row["min_logprob"]),
                )
            )
    yield from grouped.items()


_source = cache(QuestionSource)


def worked_solution(question_id: str) -> str:
    """The worked solution of a bundled question, from its id."""
    task, level, index = question_id.split("/")
    return _source(task, int(level))[int(index)].solution


def similarity(attempt: str, solution: str) -> float:
    """How much of a solution an attempt has, 0..1.

    >>> similarity("1+2=3", "1+2=3")
    1.0
    """
    return SequenceMatcher(None, attempt, solution, autojunk=False).ratio()
