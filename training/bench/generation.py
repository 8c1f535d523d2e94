"""How fast attempts are written: `TransformersBackend` against `model.generate` in a loop."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from controller.actions import ActionKind
from controller.backends.base import Request
from controller.backends.transformers import LocalModel, TransformersBackend, load_model
from controller.errors import BackendError
from controller.types import Question
from envs.questions import SPLIT_SIZES, TASKS, draw_split

NUM_DRAWS = 2_000
"""Questions looked through per task and level; enough, and quick."""


def run(
    small_path: str | Path,
    num_questions: int,
    num_samples: int = 16,
    *,
    max_new_tokens: int = 192,
    max_rows: int = 512,
    num_repeats: int = 3,
    seed: int = 0,
) -> dict[str, Any]:
    """Decoded tokens per second of both, on the same questions, in turns.

    Tokens count up to and including the end token, so `generate` earns nothing for padding the
    attempts of a question to the longest.

    Args:
        small_path: of the model that writes.
        num_questions: drawn from the test split, over all tasks and levels.
        num_samples: attempts per question.
        max_new_tokens: longest attempt.
        max_rows: attempts that the backend writes side by side.
        num_repeats: measurements of each, after one that is not counted.
        seed: of questions and attempts.

    Returns:
        settings; per contender its tokens per second, in order and their median; and `ratio`,
        the backend's median over `generate`'s.

    Raises:
        BackendError: no such model, or an attempt failed.
    """
    model = load_model(small_path, 0)
    questions = draw_questions(num_questions, seed)
    _time_generate(model, questions[:1], num_samples, max_new_tokens, seed)
    _time_backend(model, questions[:1], num_samples, max_new_tokens, max_rows, seed)
    backend, generate = [], []
    for repeat in range(num_repeats):
        each = seed + repeat
        backend.append(_time_backend(model, questions, num_samples, max_new_tokens, max_rows, each))
        generate.append(_time_generate(model, questions, num_samples, max_new_tokens, each))
    medians = statistics.median(backend), statistics.median(generate)
    return {
        "model": model.name,
        "parameters": model.parameters,
        "num_questions": len(questions),
        "num_samples": num_samples,
        "max_new_tokens": max_new_tokens,
        "max_rows": max_rows,
        "num_threads": torch.get_num_threads(),
        "backend_tokens_per_s": backend,
        "generate_tokens_per_s": generate,
        "backend_median": medians[0],
        "generate_median": medians[1],
        "ratio": medians[0] / medians[1],
    }


def draw_questions(num_questions: int, seed: int) -> list[Question]:
    """Test questions in the bundled set's mix of tasks and levels, shuffled.

    Args:
        num_questions: fewer come back if the mix does not hold so many distinct ones.
        seed: of the draw and the order.
    """
    total = len(TASKS) * sum(SPLIT_SIZES["test"])
    # Half as many again, because trivial levels may hold too few.
    sizes = [math.ceil(1.5 * size * num_questions / total) for size in SPLIT_SIZES["test"]]
    questions = draw_split("test", sizes, seed=seed, num_draws=NUM_DRAWS)
    random.Random(seed).shuffle(questions)
    return questions[:num_questions]


def _time_backend(
    model: LocalModel,
    questions: Sequence[Question],
    num_samples: int,
    max_new_tokens: int,
    max_rows: int,
    seed: int,
) -> float:
    """Tokens per second of a fresh backend, whose prompt cache is empty."""
    backend = TransformersBackend(
        [model], seed=seed, max_new_tokens=max_new_tokens, max_rows=max_rows
    )
    requests = [
        Request(question=question, action=ActionKind.SAMPLE, index=index)
        for question in questions
        for index in range(num_samples)
    ]
    started = time.perf_counter()
    attempts = backend.attempts(requests)
    seconds = time.perf_counter() - started
    errors = {attempt.error for attempt in attempts if attempt.error}
    if errors:
        raise BackendError(f"attempts: expected none to fail, found {sorted(errors)}")
    return sum(attempt.completion_tokens for attempt in attempts) / seconds


def _time_generate(
    model: LocalModel,
    questions: Sequence[Question],
    num_samples: int,
    max_new_tokens: int,
    seed: int,
) -> float:
    """Tokens per second of `model.generate`, one question after the other."""
    requests = [Request(question=question, action=ActionKind.SAMPLE) for question in questions]
    ends = torch.tensor(sorted(model.end_tokens))  # (E,)
    writer: Any = model.model  # `generate` comes from a mixin that its type does not tell of
    num_tokens = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        started = time.perf_counter()
        for request in requests:
            prompt = torch.tensor([model.encode(request)], device=model.model.device)  # (1, L)
            output = writer.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                num_return_sequences=num_samples,
                max_new_tokens=max_new_tokens,
                pad_token_id=model.tokenizer.pad_token_id,
            )
            written = output[:, prompt.shape[1] :].cpu()  # (num_samples, M)
            num_tokens += _count_tokens(written, ends)
        return num_tokens / (time.perf_counter() - started)


def _count_tokens(written: torch.Tensor, ends: torch.Tensor) -> int:
    """Tokens of rows (B, M) up to and including the first end token of each.

    >>> _count_tokens(torch.tensor([[5, 1, 0], [5, 6, 7]]), torch.tensor([1]))
    5
    """
    ended = torch.isin(written, ends).long()  # (B, M)
    return int((ended.cumsum(1) - ended == 0).sum())
