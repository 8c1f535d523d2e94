"""How near generation comes to what the forward passes alone would take."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from controller.actions import ActionKind
from controller.backends.base import Request
from controller.backends.transformers import LocalModel, TransformersBackend, load_model
from training.bench.generation import draw_questions
from training.threads import limit_threads

_GEMM = 1024


def run(
    model_path: Path,
    *,
    num_questions: int = 96,
    num_samples: int = 16,
    rows: int = 256,
    repeats: int = 3,
) -> dict[str, Any]:
    """Tokens per second of the backend, of a bare forward loop at its batch, and of the processor.

    The bare loop feeds `rows` tokens at a time to the model, whose cache grows, for as many steps
    as an attempt has tokens; nothing is sampled, nobody finishes early, nothing becomes text.

    Args:
        model_path: directory of the model.
        num_questions: drawn from the test split.
        num_samples: attempts per question.
        rows: of both batches.
        repeats: in turns, after one that does not count; medians are reported.

    Returns:
        both speeds and their `share`; `forward_gflops` that the bare loop makes of 2 x parameters
        per token, `gemm_gflops` of a large matrix product, and their `forward_share`.
    """
    model = load_model(model_path, 0)
    limit_threads(model.parameters)
    questions = draw_questions(num_questions, 0)
    requests = [
        Request(question=question, action=ActionKind.SAMPLE, index=index)
        for question in questions
        for index in range(num_samples)
    ]
    found: list[tuple[float, float, float]] = []
    for repeat in range(repeats + 1):
        backend = TransformersBackend([model], seed=repeat, max_rows=rows)
        started = time.perf_counter()
        attempts = backend.attempts(requests)
        seconds = time.perf_counter() - started
        tokens = sum(attempt.completion_tokens for attempt in attempts)
        prompt = round(statistics.mean(attempt.prompt_tokens for attempt in attempts))
        steps = round(tokens / len(attempts))
        found.append((tokens / seconds, _forward(model, rows, prompt, steps), _gemm_gflops()))
    ours, theirs, peak = map(statistics.median, zip(*found[1:], strict=True))
    gflops = 2 * model.parameters * theirs / 1e9
    return {
        "parameters": model.parameters,
        "rows": rows,
        "prompt_tokens": prompt,
        "tokens_per_attempt": steps,
        "generate_tokens_per_s": ours,
        "forward_tokens_per_s": theirs,
        "share": ours / theirs,
        "forward_gflops": gflops,
        "gemm_gflops": peak,
        "forward_share": gflops / peak,
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
