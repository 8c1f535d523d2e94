"""The reviser: a LoRA adapter that turns the small model's attempts into better ones.

It learns from the model's own recorded attempts, as in Snell et al. 2024 (arXiv 2408.03314,
section 6): from a wrong attempt close to the right one to the worked solution, and from a
right attempt to itself, so that it learns to leave well alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from controller.backends.local.adapters import save_adapter
from controller.backends.local.model import load_model
from controller.backends.prompts import revision_messages
from envs.traces.format import TraceSet

Example = dict[str, Any]


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


def _similarity(attempt: str, solution: str) -> float:
    """How much of a solution an attempt has, 0..1."""
    return SequenceMatcher(None, attempt, solution, autojunk=False).ratio()


@dataclass(frozen=True, kw_only=True)
class ReviserConfig:
    """Training of the reviser.

    Attributes:
        rank: of the LoRA matrices.
        epochs: passes over the examples.
        batch_size: examples per optimiser step.
        muon_lr: peak; falls along a cosine.
        wrong_per_question: wrong attempts used, those closest to the solution.
        right_per_question: right attempts used.
        seed: of weights and order.
    """

    rank: int = 32
    epochs: float = 4
    batch_size: int = 64
    muon_lr: float = 0.01
    wrong_per_question: int = 2
    right_per_question: int = 2
    seed: int = 0


def revision_examples(
    traces: TraceSet, split: str, worked_solution: WorkedSolution, config: ReviserConfig
) -> Iterator[Example]:
    """Prompt and completion, as chat messages, for each revision to learn."""
    for question_id, attempts in attempts_by_question(traces, split):
        wrong = [a for a in distinct(attempts) if not a.right]
        solution = worked_solution(question_id)
        wrong.sort(key=lambda a: _similarity(a.text, solution), reverse=True)
        right = [a for a in distinct(attempts) if a.right]
        for attempt in wrong[: config.wrong_per_question]:
            yield _example(attempt.question, attempt.text, solution)
        for attempt in right[: config.right_per_question]:
            yield _example(attempt.question, attempt.text, attempt.text)


def _example(question: str, attempt: str, target: str) -> Example:
    return {
        "prompt": revision_messages(question, attempt),
        "completion": [{"role": "assistant", "content": target}],
    }


def train_reviser(
    base: str | Path,
    traces: TraceSet,
    worked_solution: WorkedSolution,
    out: Path,
    config: ReviserConfig | None = None,
) -> None:
    """Train a reviser of the model `base`, from its attempts with their texts, into `out`.

    `worked_solution` is of each question of the train split; `training` in `out` holds what
    resuming needs.
    """
    import torch
    from datasets import Dataset
    from transformers.trainer_utils import get_last_checkpoint
    from trl import SFTConfig, SFTTrainer

    config = config or ReviserConfig()
    local = load_model(base, 0)
    state = out / "training"
    trainer = SFTTrainer(
        model=with_lora(local.model, config.rank, config.seed),
        args=SFTConfig(
            output_dir=str(state),
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.muon_lr,
            lr_scheduler_type="cosine",
            warmup_steps=50,
            train_sampling_strategy="group_by_length",
            save_steps=500,
            save_total_limit=1,
            logging_steps=50,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            seed=config.seed,
        ),
        train_dataset=Dataset.from_list(
            list(revision_examples(traces, "train", worked_solution, config))
        ),
        processing_class=local.tokenizer,
        optimizer_cls_and_kwargs=(
            torch.optim.Muon,
            {"lr": config.muon_lr, "momentum": 0.95, "weight_decay": 0.0},
        ),
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(state) if state.exists() else None)
    save_adapter(trainer.model, out, base_digest=local.digest)
