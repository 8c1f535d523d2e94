"""The bundled looped model: the small one's layers, of which the middle one is repeated.

It begins as the small model and learns from the same worked questions, at each step with another
number of loops. Source: McLeish et al. 2025 (arXiv 2511.07384), retrofitted recurrence.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn
from transformers import LlamaForCausalLM

from controller.backends.local.looped import LoopedConfig, LoopedForCausalLM
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


def begun_as(llama: LlamaForCausalLM, prelude: int, coda: int) -> LoopedForCausalLM:
    """With the layers of a Llama; going through the core once, it computes what that does."""
    settings = llama.config.to_dict()
    core = settings["num_hidden_layers"] - prelude - coda
    config = LoopedConfig(
        **{k: v for k, v in settings.items() if k not in ("architectures", "model_type")},
        prelude_layers=prelude,
        core_layers=core,
        coda_layers=coda,
    )
    model, size = LoopedForCausalLM(config), config.hidden_size
    model.load_state_dict(llama.state_dict(), strict=False)
    nn.init.zeros_(model.model.inject.weight)
    nn.init.eye_(model.model.inject.weight[:, :size])
    return model


class LoopedTraining(LanguageModelTraining):
    """One training, from the small model's weights on; see `LanguageModelTraining`."""

    model: LoopedForCausalLM

    def _build(self) -> LoopedForCausalLM:
        llama = LlamaForCausalLM.from_pretrained(BEGINS_AS)
        return begun_as(llama, PRELUDE, CODA)

    def _step(self, ids: Tensor, labels: Tensor) -> float:
        rng = random.Random(f"{self.config.seed}/{self.tokens}")
        [loops] = rng.choices(list(LOOPS), list(LOOPS.values()))
        self.model.config.set_loops(loops)
        try:
            return super()._step(ids, labels)
        finally:
            self.model.config.set_loops(1)
