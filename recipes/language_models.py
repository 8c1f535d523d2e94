"""The bundled language models: two Llama shapes and their training.

Hidden matrices are trained with Muon, everything else with AdamW.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from controller.errors import ConfigError
from recipes.curriculum import ARITHMETIC, BROAD, Batch, Curriculum, Position
from recipes.tokenizer import CONTEXT_LENGTH, build_tokenizer
from training.learn.resume import has_state, load_state, save_state

_LOG_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Shape and training budget of one bundled model.

    Attributes:
        hidden_size: width of the residual stream.
        num_layers: transformer blocks.
        num_heads: attention heads; must divide `hidden_size`.
        intermediate_size: width inside the MLP.
        train_tokens: padded tokens processed in training.
        broad_tokens: of these, at the start, with the broad mix; the rest is mostly
            arithmetic.
        batch_tokens: padded tokens per optimiser step.
        muon_lr: peak learning rate of the hidden matrices.
        adamw_lr: peak learning rate of embeddings and norms.
        warmup: share of training with rising learning rate.
        decay: share of training, at the end, with falling learning rate.
        seed: of weights and data.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    train_tokens: int
    broad_tokens: int
    batch_tokens: int = 6144
    muon_lr: float = 0.02
    adamw_lr: float = 3e-3
    warmup: float = 0.01
    decay: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ConfigError(
                f"num_heads: expected a divisor of hidden_size={self.hidden_size}, "
                f"found {self.num_heads}"
            )
        if not 0 <= self.broad_tokens <= self.train_tokens:
            raise ConfigError(
                f"broad_tokens: expected 0..{self.train_tokens}, found {self.broad_tokens}"
            )

    def learning_rate(self, done: float) -> float:
        """Relative to its peak: up, flat, down to 0. `done` in 0..1."""
        return max(0.0, min(1.0, (done + 1e-6) / self.warmup, (1.0 - done) / self.decay))


CONFIGS = {
    "small": LanguageModelConfig(
        hidden_size=64,
        num_layers=3,
        num_heads=4,
        intermediate_size=160,
        train_tokens=16_200_000,
        broad_tokens=13_400_000,
    ),
    "large": LanguageModelConfig(
        hidden_size=192,
        num_layers=4,
        num_heads=6,
        intermediate_size=512,
        train_tokens=28_000_000,
        broad_tokens=16_500_000,
    ),
}


def build_model(
    config: LanguageModelConfig, tokenizer: PreTrainedTokenizerFast
) -> LlamaForCausalLM:
    """A Llama with fresh weights."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                max_position_embeddings=CONTEXT_LENGTH,
                tie_word_embeddings=True,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                bos_token_id=None,
            )
        )


class LanguageModelTraining:
    """One training into a directory, resumed from its `training` if that is there.

    If `compiled` it uses torch.compile and bfloat16 where it is safe, and needs a C++ compiler.

    Raises:
        ConfigError: `out` holds a training with other settings.
    """

    def __init__(self, config: LanguageModelConfig, out: Path, *, compiled: bool = False) -> None:
        self.config, self.out, self.compiled = config, out, compiled
        self.tokenizer = build_tokenizer()
        self.model = self._build()
        self._forward = torch.compile(self.model, dynamic=True) if compiled else self.model
        embedding = self.model.get_input_embeddings().weight
        hidden = [p for p in self.model.parameters() if p.ndim == 2 and p is not embedding]
        rest = [p for p in self.model.parameters() if p.ndim != 2 or p is embedding]
        self.optimizers: dict[torch.optim.Optimizer, float] = {
            torch.optim.Muon(
                hidden, lr=config.muon_lr, momentum=0.95, weight_decay=0.0
            ): config.muon_lr,
            torch.optim.AdamW(
                rest, lr=config.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0
            ): config.adamw_lr,
        }
        self.tokens, self.seconds, self.position = 0, 0.0, (0, 0)
        if has_state(self._state):
            self._resume()

    def _build(self) -> PreTrainedModel:
        """The model that training begins with."""
        return build_model(self.config, self.tokenizer)

    @property
    def _state(self) -> Path:
        return self.out / "training"

    def _resume(self) -> None:
        progress, _ = load_state(self._state, self.model, list(self.optimizers))
        if progress["config"] != asdict(self.config):
            raise ConfigError(
                f"{self._state}: expected a training with {asdict(self.config)}, found "
                f"{progress['config']}; use the same settings or another directory"
            )
        self.tokens, self.seconds = progress["tokens"], progress["seconds"]
        self.position = tuple(progress["position"])

    def _save(self) -> None:
        progress = {
            "config": asdict(self.config),
            "tokens": self.tokens,
            "seconds": self.seconds,
            "position": list(self.position),
        }
        save_state(self._state, self.model, list(self.optimizers), progress)

    def run(
        self, progress: Callable[[int, float], None] | None = None, save_every_s: float = 60.0
    ) -> None:
        """Train to the end and save model and tokenizer; an interrupt saves the state.

        After each step `progress` is called with the tokens so far and the loss.
        """
        started = saved = time.monotonic()
        before = self.seconds
        try:
            for step, (position, batch) in enumerate(self._batches(), start=1):
                loss = self._step(*batch)
                self.tokens += batch[0].numel()
                self.position = position
                self.seconds = before + time.monotonic() - started
                if progress is not None:
                    progress(self.tokens, loss)
                if step % _LOG_EVERY == 0:
                    self._log(loss)
                if time.monotonic() - saved > save_every_s:
                    self._save()
                    saved = time.monotonic()
        except KeyboardInterrupt:
            self._save()
            raise
        self._save()
        self.model.save_pretrained(self.out)
        self.tokenizer.save_pretrained(self.out)

    def _batches(self) -> Iterator[tuple[Position, Batch]]:
        """The batches that are left, first of the broad mix, then of arithmetic."""
        config = self.config
        for mix, until in ((BROAD, config.broad_tokens), (ARITHMETIC, config.train_tokens)):
            if self.tokens >= until:
                continue
            curriculum = Curriculum(self.tokenizer, config.batch_tokens, config.seed, mix)
            for position, batch in curriculum.batches(self.position):
                yield position, batch
                if self.tokens >= until:
                    break

    def _step(self, ids: Tensor, labels: Tensor) -> float:
        """One optimiser step on ids and labels, both (B, L); returns the loss."""
        rate = self.config.learning_rate(self.tokens / self.config.train_tokens)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.compiled):
            logits = self._forward(input_ids=ids).logits  # (B, L, V)
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100
        )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, peak in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = peak * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def _log(self, loss: float) -> None:
        self._state.mkdir(parents=True, exist_ok=True)
        line = {"tokens": self.tokens, "loss": round(loss, 4), "seconds": round(self.seconds, 1)}
        with (self._state / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
