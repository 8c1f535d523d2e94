"""Attempts that the adapters of a small model learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from envs.traces.format import TraceSet


@dataclass(frozen=True, kw_only=True)
class AttemptText:
    """One attempt of the small model; `logprobs` are the mean and the least one of its tokens."""

    question: str
    text: str
    right: bool
    logprobs: tuple[float, float]


AttemptGroup = tuple[str, list[AttemptText]]
"""Question id and the attempts at that question."""

WorkedSolution = Callable[[str], str]
"""The text that should have been written, by question id."""


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


def with_lora(model: Any, rank: int, seed: int) -> Any:
    """A model with fresh LoRA matrices beside all of its linear layers, ready to be trained."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def similarity(attempt: str, solution: str) -> float:
    """How much of a solution an attempt has, 0..1.

    >>> similarity("1+2=3", "1+2=3")
    1.0
    """
    return SequenceMatcher(None, attempt, solution, autojunk=False).ratio()
