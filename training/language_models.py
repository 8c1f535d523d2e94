"""The bundled language models: a tokenizer, two Llama shapes and their training.

The tokenizer is byte-level without merges, so digits and letters are single tokens,
and the fixed wording of each task is one token, which keeps prompts short. Hidden
matrices are trained with Muon, everything else with AdamW.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.progress import Progress
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from controller.errors import ConfigError
from envs.questions import TASKS, QuestionSource
from training.state import has_state, load_state, save_state

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CONTEXT_LENGTH = 1024
REVISE_PHRASE = "Check the attempt above and write a better one."


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Shape and training budget of one bundled model.

    Attributes:
        hidden_size: width of the residual stream.
        num_layers: transformer blocks.
        num_heads: attention heads; must divide `hidden_size`.
        intermediate_size: width inside the MLP.
        train_tokens: padded tokens processed in training.
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


CONFIGS = {
    "small": LanguageModelConfig(
        hidden_size=64,
        num_layers=3,
        num_heads=4,
        intermediate_size=160,
        train_tokens=24_000_000,
    ),
    "large": LanguageModelConfig(
        hidden_size=192,
        num_layers=4,
        num_heads=6,
        intermediate_size=512,
        train_tokens=36_000_000,
    ),
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level tokenizer with one token per digit, letter and fixed phrase."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    phrases = [phrase for task in TASKS.values() for phrase in task.phrases]
    tokenizer.add_tokens(
        [AddedToken(p, normalized=False) for p in (*phrases, "Answer:", REVISE_PHRASE)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def build_model(config: LanguageModelConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with fresh weights."""
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


class Curriculum:
    """Endless padded batches of worked questions, a pure function of (seed, block).

    Args:
        tokenizer: of the model.
        batch_tokens: padded tokens per batch.
        seed: of the data.
        examples_per_block: examples generated, sorted by length and cut at a time.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        batch_tokens: int,
        seed: int,
        examples_per_block: int = 2048,
    ) -> None:
        self.tokenizer, self.batch_tokens = tokenizer, batch_tokens
        self.seed, self.examples_per_block = seed, examples_per_block
        self._sources = [
            (QuestionSource(task.name, level + 1), weight / sum(task.weights))
            for task in TASKS.values()
            for level, weight in enumerate(task.weights)
            if weight
        ]

    def _examples(self, rng: random.Random) -> list[tuple[list[int], int]]:
        """Token ids and prompt length of one block of examples, shortest first."""
        sources, weights = zip(*self._sources, strict=True)
        prompts, solutions = [], []
        for source in rng.choices(sources, weights, k=self.examples_per_block):
            worked = next(source.draw("language_model", rng, num_draws=1000))
            prompts.append(f"<|user|>{worked.question.text}<|end|><|assistant|>")
            solutions.append(f"{worked.solution}<|end|>")
        encoded = zip(
            self.tokenizer(prompts)["input_ids"],
            self.tokenizer(solutions)["input_ids"],
            strict=True,
        )
        return sorted(((p + s, len(p)) for p, s in encoded), key=lambda e: len(e[0]))

    def block(self, index: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of block `index`: token ids and labels, each (B, L), -100 where unscored."""
        rng = random.Random(f"{self.seed}/{index}")
        examples = self._examples(rng)
        batches = []
        while examples:
            size, longest = 1, len(examples[0][0])
            while size < len(examples) and len(examples[size][0]) * (size + 1) <= self.batch_tokens:
                longest = len(examples[size][0])
                size += 1
            ids = torch.full((size, longest), self.tokenizer.pad_token_id)  # (B, L)
            labels = torch.full((size, longest), -100)  # (B, L)
            for row, (tokens, prompt_length) in enumerate(examples[:size]):
                ids[row, : len(tokens)] = torch.tensor(tokens)
                labels[row, prompt_length : len(tokens)] = torch.tensor(tokens[prompt_length:])
            batches.append((ids, labels))
            examples = examples[size:]
        rng.shuffle(batches)
        return batches

    def batches(self, start: tuple[int, int]) -> Iterator[tuple[tuple[int, int], tuple[torch.Tensor, torch.Tensor]]]:
        """Batches from position `start` = (block, batch) on, each with the next position."""
        block, first = start
        while True:
            batches = self.block(block)
            for i in range(first, len(batches)):
                following = (block, i + 1) if i + 1 < len(batches) else (block + 1, 0)
                yield following, batches[i]
            block, first = block + 1, 0


def _optimizers(
    model: LlamaForCausalLM, config: LanguageModelConfig
) -> list[torch.optim.Optimizer]:
    embedding = model.get_input_embeddings().weight
    hidden = [p for p in model.parameters() if p.ndim == 2 and p is not embedding]
    rest = [p for p in model.parameters() if p.ndim != 2 or p is embedding]
    return [
        torch.optim.Muon(hidden, lr=config.muon_lr, momentum=0.95, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=config.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _schedule(done: float, config: LanguageModelConfig) -> float:
    """Learning rate relative to its peak: up, flat, down to 0. `done` in [0, 1]."""
    return max(0.0, min(1.0, (done + 1e-6) / config.warmup, (1.0 - done) / config.decay))


def train_language_model(
    config: LanguageModelConfig,
    out: Path,
    *,
    compile_model: bool = False,
    save_every_s: float = 120.0,
) -> None:
    """Train a bundled model, resuming from `out/training` if it is there.

    Args:
        config: shape and budget.
        out: directory that receives model, tokenizer and, while it trains, its state.
        compile_model: use torch.compile, which needs a C++ compiler.
        save_every_s: seconds between saved states.
    """
    tokenizer = build_tokenizer()
    model = build_model(config, tokenizer)
    optimizers = _optimizers(model, config)
    state_dir = out / "training"
    progress_state = {"config": asdict(config), "tokens": 0, "position": [0, 0], "seconds": 0.0}
    if has_state(state_dir):
        progress_state, _ = load_state(state_dir, model, optimizers)
        if progress_state["config"] != asdict(config):
            raise ConfigError(
                f"{state_dir} was trained with {progress_state['config']}, asked for "
                f"{asdict(config)}; choose another directory or the same settings"
            )
    forward = torch.compile(model, dynamic=True) if compile_model else model
    peaks = [[g["lr"] for g in (config_lr,)] for config_lr in ({"lr": config.muon_lr}, {"lr": config.adamw_lr})]
    data = Curriculum(tokenizer, config.batch_tokens, config.seed)
    saved_at, started, log = time.monotonic(), time.monotonic(), out / "training" / "log.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    tokens, seconds, step = progress_state["tokens"], progress_state["seconds"], 0
    with Progress() as bar, log.open("a") as lines:
        task = bar.add_task("training", total=config.train_tokens, completed=tokens)
        for position, (ids, labels) in data.batches(tuple(progress_state["position"])):
            if tokens >= config.train_tokens:
                break
            rate = _schedule(tokens / config.train_tokens, config)
            for optimizer, peak in zip(optimizers, peaks, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = peak[0] * rate
            with torch.autocast("cpu", torch.bfloat16, enabled=compile_model):
                logits = forward(input_ids=ids).logits  # (B, L, V)
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            tokens += ids.numel()
            step += 1
            bar.update(task, completed=tokens, description=f"loss {loss.item():.3f}")
            if step % 50 == 0:
                lines.write(json.dumps({"tokens": tokens, "loss": round(loss.item(), 4), "seconds": round(seconds + time.monotonic() - started, 1)}) + "\n")
                lines.flush()
            if time.monotonic() - saved_at > save_every_s:
                save_state(state_dir, model, optimizers, {"config": asdict(config), "tokens": tokens, "position": list(position), "seconds": seconds + time.monotonic() - started})
                saved_at = time.monotonic()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
