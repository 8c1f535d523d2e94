"""Tokens per second of the backend, against bare forward passes and by samples per question."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import DynamicCache

from benchmarks.generation import draw_questions
from controller.backends.base import Request, run_now
from controller.backends.local.backend import LocalModel, TransformersBackend, load_model
from controller.process.actions import ActionKind
from controller.process.types import Attempt
from training.learn.threads import limit_threads

Figures = dict[str, float]

_GEMM = 1024


def forward(
    model_path: Path, seed: int, *, num_questions: int, num_samples: int = 16, rows: int = 256
) -> Figures:
    """How near generation comes to what the forward passes alone would take.

    A bare loop feeds `rows` tokens at a time to the model, whose cache grows, for as many steps
    as an attempt has tokens; nothing is sampled, nobody finishes early, nothing becomes text.

    Args:
        model_path: directory of the model.
        seed: of the attempts.
        num_questions: drawn from the test split.
        num_samples: attempts per question.
        rows: of both batches.

    Returns:
        both speeds and their `share`; `forward_gflops` that the bare loop makes of 2 x parameters
        per token, `gemm_gflops` of a large matrix product, and their `forward_share`.
    """
    model = load_model(model_path, 0)
    limit_threads(model.parameters)
    _generate(model, 4, num_samples, seed, rows)
    attempts, ours = _generate(model, num_questions, num_samples, seed, rows)
    prompt = round(statistics.mean(attempt.prompt_tokens for attempt in attempts))
    steps = round(statistics.mean(attempt.completion_tokens for attempt in attempts))
    theirs = _forward(model, rows, prompt, steps)
    gflops, peak = 2 * model.parameters * theirs / 1e9, _gemm_gflops()
    return {
        "generate_tokens_per_s": ours,
        "forward_tokens_per_s": theirs,
        "share": ours / theirs,
        "forward_gflops": gflops,
        "gemm_gflops": peak,
        "forward_share": gflops / peak,
    }


def by_samples(model_path: Path, counts: Sequence[int] = (1, 4, 16, 64)) -> Figures:
    """Speed by how many attempts each of 32 questions gets; prompts are read once each."""
    model = load_model(model_path, 0)
    limit_threads(model.parameters)
    return {
        f"{count} samples: tokens_per_s": _generate(model, 32, count, 0, 256)[1] for count in counts
    }


def _generate(
    model: LocalModel, num_questions: int, num_samples: int, seed: int, rows: int
) -> tuple[list[Attempt], float]:
    """Attempts of a backend whose prompt cache is empty, and tokens per second."""
    backend = TransformersBackend([model], seed=seed, max_rows=rows)
    requests = [
        Request(question=question, action=ActionKind.SAMPLE, index=index)
        for question in draw_questions(num_questions, 0)
        for index in range(num_samples)
    ]
    started = time.perf_counter()
    attempts = run_now(backend.attempts(requests))
    seconds = time.perf_counter() - started
    return attempts, sum(attempt.completion_tokens for attempt in attempts) / seconds


@torch.inference_mode()
def _forward(model: LocalModel, rows: int, prompt: int, steps: int) -> float:
    """Tokens per second of forward passes after the prompts' one."""
    ids = torch.full((rows, prompt), 5, device=model.model.device)  # (B, L)
    cache = DynamicCache()
    model.model(ids, cache=cache, use_cache=True, logits_to_keep=1)
    started = time.perf_counter()
    for _ in range(steps - 1):
        model.model(ids[:, :1], cache=cache, use_cache=True, logits_to_keep=1)
    return rows * (steps - 1) / (time.perf_counter() - started)


def _gemm_gflops() -> float:
    a = torch.randn(_GEMM, _GEMM)
    b = torch.randn(_GEMM, _GEMM)
    torch.mm(a, b)
    started = time.perf_counter()
    for _ in range(4):
        torch.mm(a, b)
    return 4 * 2 * _GEMM**3 / (time.perf_counter() - started) / 1e9
