"""How much is recorded, and how models write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controller.backends.base import TEMPERATURE
from controller.errors import check_range
from controller.process.actions import ActionKind
from controller.process.types import ModelSpec

_HEAVY = 2**24
"""Parameters from which on a question takes a model a while."""


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How many attempts to record.

    Attributes:
        samples: attempts per question by a small model.
        escalations: attempts per question by a large one.
        revised_samples: samples of the first model that are revised, each up to four times in a
            row; of every model, once by each arm that revises, where arms do. Default: 0, or 1.
        shard_questions: questions that local models, or a worker, answer side by side; what a kill
            can cost. Default: 128, or 8 where a model has more than 16 million parameters.
    """

    samples: int = 16
    escalations: int = 2
    revised_samples: int | None = None
    shard_questions: int | None = None


@dataclass(frozen=True, kw_only=True)
class RecordConfig(Amount):
    """How many attempts to record of which models.

    Attributes:
        smalls: how many models are small; those that come first.
        revision_depth: revisions of each sample of the first model that is revised, every one of
            the last.
        revisers: places of the models that revise attempts of all.
        verifier: place of the model that judges attempts of all; None where none does.
    """

    revised_samples: int = 0
    smalls: int = 1
    revision_depth: int = 4
    revisers: tuple[int, ...] = ()
    verifier: int | None = None

    def __post_init__(self) -> None:
        check_range(self, ("samples", "smalls", "shard_questions"), least=1)
        check_range(self, ("escalations",), least=0)
        check_range(self, ("revised_samples",), least=0, most=self.samples)

    def tier(self, rung: int) -> str:
        """Tier of the model on a rung."""
        return "small" if rung < self.smalls else "large"

    def action(self, rung: int) -> ActionKind:
        """How the model on a rung is asked."""
        return ActionKind.SAMPLE if rung < self.smalls else ActionKind.ESCALATE

    def is_revised(self, rung: int, index: int) -> bool:
        """Whether the model on a rung, the first, revises its attempt of that index at once."""
        return rung == 0 and index < self.revised_samples and not self.revisers

    def wanted(self, models: Sequence[ModelSpec]) -> dict[str, int]:
        """Attempts per question by model, revisions aside; one where all would be the same."""
        most = [self.samples if r < self.smalls else self.escalations for r in range(len(models))]
        return {
            model.name: min(count, 1) if model.temperature == 0 else count
            for model, count in zip(models, most, strict=True)
        }

    def shard_size(self, models: Sequence[ModelSpec]) -> int:
        """Questions that local models, or a worker, answer side by side."""
        heavy = max((model.parameters or 0 for model in models), default=0) > _HEAVY
        return self.shard_questions or (8 if heavy else 128)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How models write.

    Attributes:
        max_new_tokens: longest attempt.
        temperature: of the sampling; 0 takes the likeliest tokens.
        attempt_deadline: minutes that a server's attempt may take.
        concurrency: requests to each server at the same time; default: as many as it says that it
            has room for, else 8.
        device_map: with auto, the models' layers are spread over all GPUs.
        dtype: of weights: auto as stored, bfloat16, float32.
        compiled: by torch.compile; needs a C++ compiler, and a while.
        seed: everything random follows from it, on servers that take one, too.
    """

    max_new_tokens: int = 192
    temperature: float = TEMPERATURE
    attempt_deadline: float = 30.0
    concurrency: int | None = None
    device_map: str | None = None
    dtype: str = "auto"
    compiled: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, ("temperature",), least=0)
        check_range(self, ("concurrency",), least=1)
        check_range(self, ("attempt_deadline",), above=0)
