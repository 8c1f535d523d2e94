"""Tokens per second of the backend, against bare forward passes and by samples per question."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import DynamicCache

from benchmarks import Figures
from benchmarks.generation import Asked, draw_questions, generated
from controller.backends.base import TEMPERATURE
from controller.backends.local.backend import LocalModel, load_model
from training.learn.threads import limit_threads

_GEMM = 1024
_ASKED = Asked(temperature=TEMPERATURE)


def forward(
    model_path: Path, seed: int, *, num_questions: int, num_samples: int = 16, rows: int = 256
) -> Figures:
    """How near generation comes to what the forward passes alone would take.

    A bare loop feeds `rows` tokens at a time to the model, whose cache grows, for as many steps
    as an attempt has tokens; nothing is sampled, nobody finishes early, nothing becomes text.

    Returns:
        both speeds and their `share`; `forward_gflops` that the bare loop makes of 2 x parameters
        per token, `gemm_gflops` of a large matrix product, and their `forward_share`.
    """
    model = load_model(model_path, 0)
    limit_threads(model.parameters)
    asked = replace(_ASKED, num_samples=num_samples, max_rows=rows)
    generated(model, draw_questions(4, 0), asked, seed)
    attempts, ours = generated(model, draw_questions(num_questions, 0), asked, seed)
    prompt = round(statistics.mean(attempt.prompt_tokens for attempt in attempts))
    steps = round(statistics.mean(attempt.completion_tokens for attempt in attempts))
    theirs = _forward(model, rows, prompt, steps)
    gflops, peak = 2 * model.parameters * theirs / 1e9, _gemm_gflops()
    return {
        "generate_tokens_per_s": ours.per_s,
        "forward_tokens_per_s": theirs,
        "share": ours.per_s / theirs,
        "forward_gflops": gflops,
        "gemm_gflops": peak,
        "forward_share": gflops / peak,
    }


def by_samples(model_path: Path, counts: Sequence[int] = (1, 4, 16, 64)) -> Figures:
    """Speed by how many attempts each of 32 questions gets; prompts are read once each."""
    model, questions = load_model(model_path, 0), draw_questions(32, 0)
    limit_threads(model.parameters)
    return {
        f"{count} samples: tokens_per_s": generated(
            model, questions, replace(_ASKED, num_samples=count), 0
        )[1].per_s
        for count in counts
    }


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
