"""The bundled looped model: the small one's layers, of which the middle one is repeated.

It begins as the small model and learns from the same worked questions, at each step with another
number of loops. Source: McLeish et al. 2025 (arXiv 2511.07384), retrofitted recurrence.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from torch import Tensor
from transformers import LlamaForCausalLM

from controller.backends.local.looped import LoopedForCausalLM
from recipes.language_models import CONFIGS, LanguageModelTraining

LOOPED = "looped"
BEGINS_AS = Path("checkpoints/small")
PRELUDE = CODA = 1
LOOPS = {1: 2, 2: 3, 4: 4, 8: 1}
"""How often training goes through the core, with relative weights."""

CONFIG = replace(
    CONFIGS["small"],
    train_tokens=6_000_000,
    broad_tokens=3_600_000,
    muon_lr=0.01,
    adamw_lr=1.5e-3,
    warmup=0.03,
    decay=0.9,
    seed=1,
)


class LoopedTraining(LanguageModelTraining):
    """One training, from the small model's weights on; see `LanguageModelTraining`."""

    model: LoopedForCausalLM

    def _build(self) -> LoopedForCausalLM:
        llama = LlamaForCausalLM.from_pretrained(BEGINS_AS)
        return LoopedForCausalLM.from_llama(llama, PRELUDE, CODA)

    def _step(self, ids: Tensor, labels: Tensor) -> float:
        rng = random.Random(f"{self.config.seed}/{self.tokens}")
        [loops] = rng.choices(list(LOOPS), list(LOOPS.values()))
        self.model.config.set_loops(loops)
        try:
            return super()._step(ids, labels)
        finally:
            self.model.config.set_loops(1)
