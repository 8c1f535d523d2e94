"""How fast attempts are written: `TransformersBackend` against `model.generate` in a loop."""

from __future__ import annotations

import json
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from controller.backends.base import Request, run_now
from controller.backends.local.backend import LocalModel, TransformersBackend, load_model
from controller.errors import BackendError
from controller.process.actions import ActionKind
from controller.process.types import Attempt, Question
from envs.questions.bundled import SPLIT_SIZES, TASKS, draw_split

NUM_DRAWS = 2_000
"""Questions looked through per task and level; enough, and quick."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What both contenders are asked for.

    Attributes:
        num_samples: attempts per question.
        max_new_tokens: longest attempt.
        temperature: of the sampling.
        max_rows: attempts that the backend writes side by side.
    """

    num_samples: int = 16
    max_new_tokens: int = 192
    temperature: float = 1.0
    max_rows: int = 256


def run(
    small_path: str | Path,
    num_questions: int,
    asked: Asked | None = None,
    *,
    num_repeats: int = 3,
    dtype: str = "auto",
    question: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Decoded tokens per second of both, on the same questions, in turns.

    Tokens count up to and including the end token, so `generate` earns nothing for padding the
    attempts of a question to the longest. Questions are drawn from the test split, over all tasks
    and levels, unless there is one that is asked instead, as often; a first measurement is not
    counted.

    Returns:
        settings, and per contender the median tokens per second of wall-clock and of processor
        time; `ratio` is the backend's over `generate`'s on the wall clock, `cpu_ratio` the same
        in processor time, which other programs on the machine disturb less.

    Raises:
        BackendError: no such model, or an attempt failed.
    """
    # The backend rearranges the weights of its model; `generate` has them as they were loaded.
    model, plain = (load_model(small_path, 0, dtype=dtype) for _ in range(2))
    questions = draw_questions(num_questions, seed)
    if question is not None:
        questions = [Question(question_id=f"{i}", text=question) for i in range(num_questions)]
    asked = asked or Asked()
    generated(model, questions[:1], asked, seed)
    _time_generate(plain, questions[:1], asked, seed)
    backend, generate = [], []
    for repeat in range(num_repeats):
        backend.append(generated(model, questions, asked, seed + repeat)[1])
        generate.append(_time_generate(plain, questions, asked, seed + repeat))
    report: dict[str, Any] = {
        "model": model.name,
        "parameters": model.parameters,
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "num_questions": len(questions),
        "num_threads": torch.get_num_threads(),
        "num_repeats": num_repeats,
        **asdict(asked),
    }
    for name, speeds in (("backend", backend), ("generate", generate)):
        report[f"{name}_tokens_per_s"] = statistics.median(speed.per_s for speed in speeds)
        report[f"{name}_tokens_per_cpu_s"] = statistics.median(s.per_cpu_s for s in speeds)
    for name, unit in (("ratio", "s"), ("cpu_ratio", "cpu_s")):
        ours, theirs = (report[f"{x}_tokens_per_{unit}"] for x in ("backend", "generate"))
        report[name] = ours / theirs
    return report


@dataclass(frozen=True)
class Speed:
    """Decoded tokens per second of wall-clock and of processor time."""

    per_s: float
    per_cpu_s: float


def _speed(write: Callable[[], int]) -> Speed:
    """Speed of something that returns how many tokens it has written."""
    started, cpu_started = time.perf_counter(), time.process_time()
    num_tokens = write()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return Speed(num_tokens / seconds, num_tokens / cpu_seconds)


def draw_questions(num_questions: int, seed: int) -> list[Question]:
    """Test questions in the bundled set's mix of tasks and levels, shuffled.

    Fewer come back if the mix does not hold so many distinct ones.
    """
    total = len(TASKS) * sum(SPLIT_SIZES["test"])
    # Half as many again, because trivial levels may hold too few.
    sizes = [math.ceil(1.5 * size * num_questions / total) for size in SPLIT_SIZES["test"]]
    questions = draw_split("test", sizes, seed=seed, num_draws=NUM_DRAWS)
    random.Random(seed).shuffle(questions)
    return questions[:num_questions]


def generated(
    model: LocalModel, questions: Sequence[Question], asked: Asked, seed: int
) -> tuple[list[Attempt], Speed]:
    """Attempts of a fresh backend, whose prompt cache is empty, and its speed.

    Raises:
        BackendError: an attempt failed.
    """
    backend = TransformersBackend(
        [model],
        seed=seed,
        temperature=asked.temperature,
        max_new_tokens=asked.max_new_tokens,
        max_rows=asked.max_rows,
    )
    requests = [
        Request(question=question, action=ActionKind.SAMPLE, index=index)
        for question in questions
        for index in range(asked.num_samples)
    ]
    attempts: list[Attempt] = []

    def write() -> int:
        attempts.extend(run_now(backend.attempts(requests)))
        return sum(attempt.completion_tokens for attempt in attempts)

    speed = _speed(write)
    if errors := {attempt.error for attempt in attempts if attempt.error}:
        raise BackendError(f"attempts: expected none to fail, found {sorted(errors)}")
    return attempts, speed


def _time_generate(
    model: LocalModel, questions: Sequence[Question], asked: Asked, seed: int
) -> Speed:
    """Speed of `model.generate`, one question after the other."""
    ends = torch.tensor(sorted(model.end_tokens))  # (E,)
    generate = model.model.generate

    def write() -> int:
        num_tokens = 0
        for question in questions:
            request = Request(question=question, action=ActionKind.SAMPLE)
            prompt = torch.tensor([model.encode(request)], device=model.model.device)  # (1, L)
            output = generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=True,
                temperature=asked.temperature,
                top_k=0,
                num_return_sequences=asked.num_samples,
                max_new_tokens=asked.max_new_tokens,
                pad_token_id=model.tokenizer.pad_token_id,
            )
            num_tokens += _count_tokens(output[:, prompt.shape[1] :].cpu(), ends)
        return num_tokens

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _speed(write)


def _count_tokens(written: torch.Tensor, ends: torch.Tensor) -> int:
    """Tokens of rows (B, M) up to and including the first end token of each.

    >>> _count_tokens(torch.tensor([[5, 1, 0], [5, 6, 7]]), torch.tensor([1]))
    5
    """
    ended = torch.isin(written, ends).long()  # (B, M)
    return int((ended.cumsum(1) - ended == 0).sum())


def main(
    model: Annotated[str, typer.Argument(help="Directory, GGUF file or hub id.")],
    question: Annotated[str | None, typer.Option(help="Asked instead of bundled ones.")] = None,
    num_questions: int = 1,
    samples: int = 8,
    max_new_tokens: int = 100,
    temperature: float = 0.5,
    repeats: int = 3,
    dtype: str = "auto",
) -> None:
    """Compare on any model: `python -m benchmarks.generation MODEL`."""
    asked = Asked(num_samples=samples, max_new_tokens=max_new_tokens, temperature=temperature)
    found = run(model, num_questions, asked, num_repeats=repeats, dtype=dtype, question=question)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    typer.run(main)
