"""The reviser: a LoRA adapter that turns the small model's attempts into better ones.

It learns from the model's own recorded attempts, as in Snell et al. 2024 (arXiv 2408.03314,
section 6): from a wrong attempt close to the right one to the worked solution, and from a
right attempt to itself, so that it learns to leave well alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.backends.local.adapters import save_adapter
from controller.backends.local.model import load_model
from controller.backends.prompts import revision_messages
from envs.traces.format import TraceSet
from training.adapters.adapter_data import (
    WorkedSolution,
    attempts_by_question,
    distinct,
    similarity,
    with_lora,
)

Example = dict[str, Any]


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
        wrong.sort(key=lambda a: similarity(a.text, solution), reverse=True)
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
    """Train the reviser and save it as a peft adapter; run again to resume.

    Args:
        base: directory or hub id of the small model.
        traces: its attempts, with their texts.
        worked_solution: of each question of the train split.
        out: directory of the adapter; its `training` holds what resuming needs.
        config: settings.
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
